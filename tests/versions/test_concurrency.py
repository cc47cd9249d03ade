"""Several processes at one run: whoever lists or reads meets whole versions only, or none."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from drafts import draft

from everstep.errors import DamageFound, UserError
from everstep.versions import Run, rows, status, verify, write_annotation
from everstep.versions.forecast import Course
from everstep.versions.pruning import decide, prune
from everstep.versions.reading import reading
from everstep.versions.retention import Policy

HERE = Path(__file__).parent
HEAD = f"""
import sys, time
sys.path[:0] = [{str(HERE)!r}]
from pathlib import Path
from drafts import draft
from everstep.versions import Run, verify, write_annotation
from everstep.versions.lock import Busy
from everstep.versions.pruning import prune
from everstep.versions.reading import reading
from everstep.versions.retention import Policy
run, policy = Run.open(Path(sys.argv[1])), Policy(last=2, best=0, every_versions=None)
"""
COMMIT_AND_PRUNE = """
with run.lock("test"):
    for step in range(10, 10 * int(sys.argv[2]), 10):
        run.commit(draft(step))
        try:
            prune(run, policy, 2e9)
        except Busy:
            pass
"""
PRUNE = """
while True:
    try:
        prune(run, policy, 2e9)
    except Busy:
        pass
"""
READ = """
with reading(run.version(0).path):
    print("reading", flush=True)
    sys.stdin.readline()
    assert verify(run.version(0)) == []
"""
ANNOTATE = """
for count in range(int(sys.argv[2])):
    write_annotation(run.layout, 0, scores={sys.argv[3]: float(count)})
"""
COUNT = 60


def start(program: str, run: Run, *words: object) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", HEAD + program, str(run.path), *map(str, words)]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@pytest.fixture
def programs() -> Iterator[list[subprocess.Popen[str]]]:
    """Whatever still runs at the end is killed."""
    started: list[subprocess.Popen[str]] = []
    yield started
    for program in started:
        program.kill()
        program.communicate()


def ends_well(program: subprocess.Popen[str]) -> None:
    _, said = program.communicate(timeout=120)
    assert program.returncode == 0, said


@pytest.mark.fault("listing and reading while others commit and prune")
def test_listing_and_reading_while_others_commit_and_prune(
    tmp_path: Path, programs: list[subprocess.Popen[str]]
) -> None:
    run = Run.create(tmp_path / "runs" / "r", "a: 1\n")
    run.commit(draft(0))
    trainer = start(COMMIT_AND_PRUNE, run, COUNT)
    programs += [trainer, start(PRUNE, run)]
    looked, read, gone, newest = 0, 0, 0, -1
    while trainer.poll() is None:
        looker = Run.open(run.path)
        assert looker.damaged() == []
        assert rows(looker)
        assert status(looker, Course(9)).last_version is not None
        decide(looker, Policy(), 2e9)
        found = looker.versions()
        assert found[-1].number >= newest, "a version that was listed is gone, and none newer is there"
        newest = found[-1].number
        for version in found:
            try:
                with reading(version.path):
                    assert verify(version) == []
                    read += 1
            except UserError:
                gone += 1
        looked += 1
    ends_well(trainer)
    assert looked > 5
    assert read > looked
    until = time.monotonic() + 60
    while len(last := run.versions()) > 2:  # the other program goes on pruning
        assert time.monotonic() < until
    assert [version.number for version in last] == [COUNT - 2, COUNT - 1]
    assert all(version.resumable and verify(version) == [] for version in last)
    assert run.next_number() == COUNT


@pytest.mark.fault("two prunes at once")
def test_two_prunes_at_once_do_the_work_once(tmp_path: Path, programs: list[subprocess.Popen[str]]) -> None:
    run = Run.create(tmp_path / "runs" / "r", "a: 1\n")
    for step in range(0, 400, 10):
        run.commit(draft(step))
    programs += [start(PRUNE, run), start(PRUNE, run)]
    until = time.monotonic() + 60
    while len(run.versions()) > 2:
        assert all(program.poll() is None for program in programs)
        assert run.versions()[-1].resumable
        assert time.monotonic() < until
    for program in programs:
        assert program.poll() is None, program.communicate()[1]
    assert [version.number for version in run.versions()] == [38, 39]
    assert all(verify(version) == [] for version in run.versions())


@pytest.mark.fault("kill -9 of a reader")
def test_a_reader_in_another_process_keeps_its_version_and_a_killed_one_lets_it_go(
    run: Run, programs: list[subprocess.Popen[str]]
) -> None:
    policy = Policy(last=1, best=0, every_versions=None)
    for is_killed in (False, True):
        reader = start(READ, run)
        programs.append(reader)
        assert reader.stdout is not None
        assert reader.stdout.readline() == "reading\n"
        assert decide(run, policy, 2e9)[0].reasons == ("being read by another process",)
        prune(run, policy, 2e9)
        assert [version.number for version in run.versions()] == [0, 2]
        if is_killed:
            reader.kill()
            reader.wait()
        else:
            assert reader.stdin is not None
            reader.stdin.write("\n")
            ends_well(reader)
    prune(run, policy, 2e9)
    assert [version.number for version in run.versions()] == [2]


@pytest.mark.fault("several annotate one version at once")
def test_what_several_say_of_a_version_at_once_is_all_kept(run: Run, programs: list[subprocess.Popen[str]]) -> None:
    names = ("loss", "gain", "iou")
    writers = [start(ANNOTATE, run, 40, name) for name in names]
    programs += writers
    for _ in range(20):
        write_annotation(run.layout, 0, pinned=True, labels=("mine",))
    for writer in writers:
        ends_well(writer)
    note = run.annotation(0)
    assert note.scores == dict.fromkeys(names, 39.0)
    assert note.pinned
    assert note.labels == ("mine",)
    assert [name for name in os.listdir(run.layout.records) if name.endswith(".new")] == []


@pytest.mark.fault("version removed between listing and reading")
def test_a_version_removed_between_listing_and_looking_is_not_called_damaged(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    folders = run._folders()
    prune(run, Policy(last=1, best=0, every_versions=None), 2e9)
    monkeypatch.setattr(Run, "_folders", lambda self: folders)
    assert Run(run.path).damaged() == []
    assert [version.number for version in Run(run.path).versions()] == [2]
    with pytest.raises(DamageFound):
        run.version(0)


def test_a_child_forked_during_a_note_does_not_keep_others_from_noting(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    from everstep.versions import annotations

    children = []

    def forking(*arguments: object) -> None:
        children.append(os.fork())
        if children[-1] == 0:
            time.sleep(60)

    with monkeypatch.context() as patched:
        patched.setattr(annotations.fsops, "replace_file", forking)
        write_annotation(run.layout, 0, note="while a thread forks")
    try:
        other = os.fork()
        if other == 0:
            signal.alarm(5)  # ends a process that waits for ever
            try:
                write_annotation(run.layout, 0, note="later")
                os._exit(0)
            finally:
                os._exit(1)
        assert os.waitpid(other, 0)[1] == 0
    finally:
        os.kill(children[0], signal.SIGKILL)
        os.waitpid(children[0], 0)
