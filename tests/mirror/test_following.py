"""A training keeps its mirrors up by itself, and no mirror costs it anything."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from serving import wait_for

from everstep.mirror import following
from everstep.mirror.folder import Folder
from everstep.mirror.following import Following
from everstep.mirror.offered import versions_in
from everstep.versions import Run, verify

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
        wait_for(lambda place=place: sorted(versions_in(place)) == [0, 1, 2, 3])
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
    assert ended.out.count("The mirror in") <= 1
    (workplace / "two/a").unlink()
    assert everstep("mirror", "a", workplace / "two", "--wait").code == 0
    assert sorted(versions_in(Folder(workplace / "two/a"))) == [0, 1, 2, 3]


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
