"""A commit may be cut off anywhere: what was whole stays whole, and nothing half-written is ever offered."""

import errno
import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
from disk import Recorder, crashes, play
from drafts import draft
from invariants import opens_with
from memory_of import commit_from_memory

from everstep.contracts import Draft
from everstep.errors import DiskFull, NotCommitted
from everstep.versions import Run, Version, fsops

Commit = Callable[[Run, Draft], Version]


@pytest.fixture(params=["from the process", "from the arena"])
def commit(request: pytest.FixtureRequest) -> Commit:
    """Both ways in which a version is made have to stand everything here."""
    return Run.commit if request.param == "from the process" else commit_from_memory


ROUNDS = int(os.environ.get("EVERSTEP_CRASH_ROUNDS", "4"))


def test_a_power_cut_at_any_moment_of_a_commit_loses_at_most_that_version(
    run: Run, commit: Commit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = tmp_path / "before"
    shutil.copytree(run.path, before)
    with monkeypatch.context() as patched:
        recorder = Recorder(run.path, patched)
        commit(run, draft(20))
    operations = recorder.operations
    # Folder, files, flushes, manifest, flush, rename, flush, log: if this shrinks, the test sees less than it should.
    assert len(operations) >= 15
    tried = 0
    for number, (moment, survived) in enumerate(crashes(operations, seed=1, samples=ROUNDS)):
        root = tmp_path / "after" / "r"
        shutil.copytree(before, root)
        play(survived, root)
        is_acknowledged = moment == f"after {len(operations)} of {len(operations)}"
        opens_with(root, {0, 1, 2} if is_acknowledged else {0, 1})
        shutil.rmtree(root)
        tried = number
    assert tried > 50


def test_a_returned_commit_is_durable_whatever_unflushed_names_are_lost(
    run: Run, commit: Commit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = tmp_path / "before"
    shutil.copytree(run.path, before)
    with monkeypatch.context() as patched:
        recorder = Recorder(run.path, patched)
        commit(run, draft(20))
    for moment, survived in crashes(recorder.operations, seed=2, samples=ROUNDS):
        if not moment.startswith(f"after {len(recorder.operations)}"):
            continue
        root = tmp_path / "after" / "r"
        shutil.copytree(before, root)
        play(survived, root)
        opens_with(root, {0, 1, 2})
        shutil.rmtree(root)


OPERATIONS = ("make_folder", "write_file", "write_image", "flush_folder", "rename", "append_line")


def kill_at(nth: int) -> None:
    """Let the nth operation on the disk, counted from now, be the last thing the process does."""
    count = 0

    def dying(real):
        def call(*arguments: object) -> None:
            nonlocal count
            count += 1
            if count == nth:
                os.kill(os.getpid(), signal.SIGKILL)
            real(*arguments)

        return call

    for name in OPERATIONS:
        setattr(fsops, name, dying(getattr(fsops, name)))


def in_child(action) -> int:
    """Run it in a forked process; returns how that ended, as waitpid says."""
    child = os.fork()
    if child == 0:
        try:
            action()
        finally:
            os._exit(0)
    return os.waitpid(child, 0)[1]


def test_a_kill_at_every_step_of_a_commit_leaves_the_version_before(run: Run, commit: Commit) -> None:
    for nth in range(1, 100):
        last = max(version.number for version in run.versions())

        def killed(nth: int = nth) -> None:
            kill_at(nth)
            commit(run, draft(20 + nth))

        ended = in_child(killed)
        known = {version.number for version in run.versions()}
        if os.WIFEXITED(ended):
            assert nth > len(OPERATIONS) * 2, "the commit has fewer steps than it should"
            assert max(known) > last
            return
        assert os.WTERMSIG(ended) == signal.SIGKILL
        opens_with(run.path, known)
    pytest.fail("the commit never ended")


FAILURES = {
    "EIO": errno.EIO,
    "no space": errno.ENOSPC,
    "over quota": errno.EDQUOT,
    "stale handle": errno.ESTALE,
    "no right": errno.EACCES,
}
CALLS = ("mkdir", "open", "write", "fsync", "rename", "posix_fallocate")


class Failing:
    """os, but the nth call of a kind fails: once, or from then on."""

    def __init__(self, call: str, nth: int, number: int, for_good: bool) -> None:
        self.call, self.nth, self.number, self.for_good, self.count = call, nth, number, for_good, 0

    def install(self, monkeypatch: pytest.MonkeyPatch) -> None:
        if self.call == "mkdir":
            monkeypatch.setattr(Path, "mkdir", self._failing(Path.mkdir))
        else:
            monkeypatch.setattr(fsops.os, self.call, self._failing(getattr(os, self.call)))

    def _failing(self, real):
        def call(*arguments: object, **named: object) -> object:
            self.count += 1
            if self.count == self.nth or (self.for_good and self.count > self.nth):
                raise OSError(self.number, os.strerror(self.number))
            return real(*arguments, **named)

        return call


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("kind", FAILURES)
@pytest.mark.parametrize("for_good", [False, True], ids=["once", "for good"])
def test_whatever_call_fails_the_older_versions_are_whole_and_the_next_commit_succeeds(
    run: Run, commit: Commit, monkeypatch: pytest.MonkeyPatch, call: str, kind: str, for_good: bool
) -> None:
    for nth in range(1, 60):
        known = {version.number for version in run.versions()}
        failing = Failing(call, nth, FAILURES[kind], for_good)
        with monkeypatch.context() as patched:
            failing.install(patched)
            try:
                commit(run, draft(20))
            except DiskFull as error:
                assert FAILURES[kind] in fsops.NO_ROOM
                assert "is not committed: it needs" in str(error)
            except NotCommitted as error:
                assert FAILURES[kind] not in fsops.NO_ROOM
                assert os.strerror(FAILURES[kind]) in str(error)
        if failing.count < nth:
            assert nth > 1, f"{call} is never called"
            return
        opens_with(run.path, known)
    pytest.fail("the commit never ended")


def test_short_writes_are_continued(run: Run, commit: Commit, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.write
    with monkeypatch.context() as patched:
        # Past the page cache only whole blocks can be written; the kernel never writes less of them.
        patched.setattr(fsops, "DIRECT", 0)
        patched.setattr(fsops.os, "write", lambda descriptor, piece: real(descriptor, piece[:7]))
        commit(run, draft(20))
    opens_with(run.path, {0, 1, 2})


def test_a_full_disk_shows_before_anything_is_written(
    run: Run, commit: Commit, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fsops, "free_bytes", lambda path: 100)
    with pytest.raises(DiskFull, match=r"version_2 \(step 20\) is not committed: it needs 1"):
        commit(run, draft(20))
    assert not list(run.path.glob(".version*"))
