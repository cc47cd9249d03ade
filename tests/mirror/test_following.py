"""A training keeps its mirrors up by itself, and no mirror costs it anything."""

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from serving import wait_for

from behind import stands_behind
from everstep.mirror import following
from everstep.mirror.folder import Folder
from everstep.mirror.following import Following
from everstep.mirror.offered import versions_in
from everstep.priority import NICENESS
from everstep.versions import Run, verify
from program import Program

NOTHING_BESIDE = ("--sampling.pairs", 0, "--scoring.overhead", 0, "--keep.everything")


@pytest.fixture
def words(tiny_base: Path, pairs_folder: Path, workplace: Path) -> tuple[object, ...]:
    for name in ("one", "two"):
        (workplace / name).mkdir()
    rest = ("--optim.batch-size", 2, "--optim.max-steps", 6, "--versions.every", 2, *NOTHING_BESIDE)
    targets = ("--mirror.targets", workplace / "one", "--mirror.targets", workplace / "two")
    return ("train", "--run", "a", "--base", tiny_base, "--data", pairs_folder, *rest, *targets)


def test_every_version_is_mirrored_and_the_last_one_too(
    everstep: Callable[..., Any], words: tuple[object, ...], workplace: Path
) -> None:
    ended = everstep(*words)
    assert ended.code == 0, ended.out
    for name in ("one", "two"):
        place = Folder(workplace / name / "a")
        assert sorted(versions_in(place)) == [0, 1, 2, 3]  # a container ends with the training
        assert all(verify(version) == [] for version in Run(place.root).versions())
    assert "The mirror in" not in ended.out


@pytest.mark.fault("a mirror that is away")
def test_a_mirror_that_is_away_costs_nothing_and_is_caught_up_with(
    everstep: Callable[..., Any], words: tuple[object, ...], workplace: Path
) -> None:
    (workplace / "two/a").write_text("in the way")
    ended = everstep(*words)
    assert ended.code == 0, ended.out
    wait_for(lambda: sorted(versions_in(Folder(workplace / "one/a"))) == [0, 1, 2, 3])
    assert "Traceback" not in ended.out
    assert ended.out.count("training goes on") <= 1
    assert f"The mirror in {workplace / 'two'} failed (" in ended.out
    assert "Versions are here; the next start sends them, or everstep mirror." in ended.out
    (workplace / "two/a").unlink()
    assert everstep("mirror", "a", workplace / "two", "--wait").code == 0
    assert sorted(versions_in(Folder(workplace / "two/a"))) == [0, 1, 2, 3]


def test_what_was_made_while_a_mirror_was_away_is_sent_when_training_begins_again(
    everstep: Callable[..., Any], start: Callable[..., Program], words: tuple[object, ...], workplace: Path
) -> None:
    """Not first with the next version, which may be hours away."""
    one, two = Folder(workplace / "one/a"), workplace / "two/a"
    two.write_text("in the way")
    assert everstep(*words).code == 0
    wait_for(lambda: sorted(versions_in(one)) == [0, 1, 2, 3])
    wait_for(lambda: not is_sent_to(workplace / "two"))  # who was started last may be about to look
    two.unlink()
    again = everstep(*words)
    assert (again.code, "already complete" in again.out) == (0, True)
    assert "Of 4 versions a mirror is not known to have 4; they are being sent." in again.out
    wait_for(lambda: sorted(versions_in(Folder(two))) == [0, 1, 2, 3])
    assert everstep("mirror", "status", "a", workplace / "two").code == 0
    assert "being sent" not in everstep(*words).out

    (workplace / "three").mkdir()
    more = ("--set", "optim.max_steps=10000", "--set", "versions.every=10000")
    going = start("resume", "a", *more, "--set", f"mirror.targets=[{workplace}/three]")
    going.wait_for(lambda: sorted(versions_in(Folder(workplace / "three/a"))) == [0, 1, 2, 3])
    going.signal(signal.SIGTERM)
    assert going.wait() == 3
    assert "Of 4 versions a mirror is not known to have 4; they are being sent." in going.output


@pytest.mark.fault("SIGTERM to all processes of a job, those that send too")
def test_what_a_stop_commits_is_in_the_mirror_when_the_training_ends(
    start: Callable[..., Program], words: tuple[object, ...], workplace: Path
) -> None:
    program = start(*words, "--set", "optim.max_steps=10000", "--set", "versions.every=10000")
    program.wait_for(lambda: "step 1/" in program.output)
    for pid in (*senders(workplace / "one"), *senders(workplace / "two"), program.process.pid):
        os.kill(pid, signal.SIGTERM)
    assert program.wait() == 3, program.output
    last = Run.open(workplace / "runs/a").versions()[-1]
    assert last.reason == "signal"
    for name in ("one", "two"):
        assert max(versions_in(Folder(workplace / name / "a"))) == last.number


def test_a_training_that_comes_to_nothing_has_nothing_to_send(
    start: Callable[..., Program], words: tuple[object, ...], workplace: Path
) -> None:
    program = start(*words)
    program.wait_for(lambda: "Loading PyTorch" in program.output)
    program.signal(signal.SIGTERM)
    assert program.wait() == 3, program.output
    assert "nothing of it is left" in program.output
    assert "cannot be read" not in program.output
    assert not (workplace / "runs/a").exists()


def test_a_sender_that_was_killed_is_started_again_once(run: Run, ends: Callable[..., None]) -> None:
    mirrors = Following(["there"])
    ends("import os, signal; os.kill(os.getpid(), signal.SIGTERM)")
    mirrors(run)
    (first,) = mirrors.targets[0].running
    over(mirrors)
    assert mirrors.is_sending(run)
    (second,) = mirrors.targets[0].running
    assert second.pid != first.pid
    over(mirrors)
    assert not mirrors.is_sending(run)
    assert mirrors.failures() == [
        "The mirror in there failed (exit code -15). Versions are here; the next start sends them, or everstep mirror."
    ]


@pytest.mark.fault("a mirror that hangs at the end of a training")
@pytest.mark.parametrize("how", ["for as long as is said", "until Ctrl-C"])
def test_the_end_waits_for_a_mirror_that_hangs(
    how: str, start: Callable[..., Program], words: tuple[object, ...], workplace: Path
) -> None:
    wait = "1s" if how == "for as long as is said" else "1h"
    program = start(*words, "--mirror.wait", wait, prepare=Hanging())
    if wait == "1h":
        program.wait_for(lambda: "Sending to " in program.output)
        assert Run(workplace / "runs/a").holder() is None  # nobody else has to wait
        program.signal(signal.SIGINT)
    assert program.wait() == 0, program.output
    said = "Sending goes on by itself; what is not sent then, the next start sends, or everstep mirror."
    assert ("Not all is there after 1 s (mirror.wait). " if wait == "1s" else "") + said in program.output
    for pid in (*senders(workplace / "one"), *senders(workplace / "two")):
        os.kill(pid, signal.SIGKILL)


class Hanging:
    """Senders that do nothing, for long."""

    def __call__(self) -> None:
        following.PROGRAM = (sys.executable, "-c", "import time; time.sleep(100)")


def is_sent_to(target: Path) -> bool:
    """Whether a process lives that was told to."""
    return bool(senders(target))


def senders(target: Path) -> list[int]:
    """Processes that were told to send there and nowhere else."""
    found = list[int]()
    for told in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            words = told.read_bytes().split(b"\0")
            if os.fsencode(target) in words and b"--mirror.targets" not in words:
                found.append(int(told.parent.name))
    return found


def test_a_folder_that_is_not_there_is_refused_before_anything_begins(
    everstep: Callable[..., Any], words: tuple[object, ...], workplace: Path
) -> None:
    ended = everstep(*words, "--mirror.targets", "nowhere")
    assert (ended.code, "mirror.targets: there is no folder nowhere" in ended.out) == (2, True), ended.out
    assert not (workplace / "runs").exists()


@pytest.fixture
def ends(run: Run, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """What the program does that is started instead."""

    def set_(code: str) -> None:
        monkeypatch.setattr(following, "PROGRAM", (sys.executable, "-c", code))

    run.layout.records.mkdir(exist_ok=True)
    return set_


def over(mirrors: Following) -> None:
    wait_for(lambda: all(process.poll() is not None for target in mirrors.targets for process in target.running))


def test_a_failure_is_said_once_and_so_is_that_it_works_again(run: Run, ends: Callable[..., None]) -> None:
    mirrors, said = Following(["there"]), list[str]()
    for code in ("raise SystemExit('no room')", "raise SystemExit('no room')", "pass", "pass"):
        ends(code)
        said.append(mirrors(run))
        over(mirrors)
    said.append(mirrors(run))
    why = "The mirror in there failed (no room); training goes on, and it is tried again at the next version."
    assert said == ["", why, "", "The mirror in there works again.", ""]
    over(mirrors)


def test_a_sender_stands_behind_the_training(run: Run, ends: Callable[..., None]) -> None:
    mirrors = Following(["there"])
    ends("import time; time.sleep(60)")
    mirrors(run)
    with mirrors.targets[0].running[0] as process:
        assert stands_behind(process.pid) == NICENESS
        process.kill()


def test_one_sends_one_waits_and_no_more_are_started(run: Run, ends: Callable[..., None]) -> None:
    mirrors = Following(["there"])
    ends("import time; time.sleep(60)")
    for _ in range(5):
        assert mirrors(run) == ""
    running: list[subprocess.Popen[bytes]] = mirrors.targets[0].running
    assert len(running) == 2
    for process in running:
        process.kill()
        process.wait()
