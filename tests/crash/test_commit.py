"""A commit may be cut off anywhere: what was whole stays whole, and nothing half-written is ever offered."""

import errno
import fcntl
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from chance import SEED, rounds
from cuts import Cut, try_all
from disk import Recorder
from drafts import draft
from faults import Seen
from interrupted import Failing, killed_at
from invariants import opens_with
from memory_of import commit_from_memory

from everstep.contracts import Draft
from everstep.errors import DiskFull, NotCommitted
from everstep.versions import Run, Version, fsops, verify

Commit = Callable[[Run, Draft], Version]
SAMPLES = rounds(8, most=60)
BLOCK_BYTES = 4096


@pytest.fixture(params=["from the process", "from the arena"])
def commit(request: pytest.FixtureRequest) -> Commit:
    """Both ways in which a version is made have to stand everything here."""
    return Run.commit if request.param == "from the process" else commit_from_memory


def recorded(run: Run, commit: Commit) -> Recorder:
    """A commit of version_2 after those at steps 0 and 10."""
    with Recorder(run.path) as recorder:
        commit(run, draft(20))
    return recorder


@pytest.mark.fault("power cut at every moment of a commit, {commit}")
def test_a_power_cut_at_any_moment_of_a_commit_loses_at_most_that_version(
    run: Run, commit: Commit, memory: Path, seen: Seen
) -> None:
    recorder = recorded(run, commit)

    def check(root: Path, cut: Cut) -> None:
        is_acknowledged = cut.done == len(recorder.changes)
        opens_with(root, {0, 1, 2} if is_acknowledged else {0, 1})

    tried = try_all(recorder, memory / "after", check, SAMPLES, SEED)
    seen.both(tried)
    assert tried > 60


@pytest.mark.fault("power cut after a commit has returned, {commit}")
def test_a_returned_commit_is_durable_whatever_was_not_flushed(
    run: Run, commit: Commit, memory: Path, seen: Seen
) -> None:
    recorder = recorded(run, commit)
    last = len(recorder.changes)
    seen.both(
        try_all(recorder, memory / "after", lambda root, _: opens_with(root, {0, 1, 2}), 10 * SAMPLES, SEED, first=last)
    )


@pytest.mark.fault("power cut while a run and its first version are made")
@pytest.mark.parametrize("is_first_run", [False, pytest.param(True)], ids=["runs/ is there", "is new"])
def test_a_power_cut_at_any_moment_of_the_first_version_leaves_it_or_room_for_it(
    memory: Path, commit: Commit, is_first_run: bool, seen: Seen
) -> None:
    place = memory / "place"
    (place if is_first_run else place / "runs").mkdir(parents=True)
    with Recorder(place) as recorder:
        commit(Run.create(place / "runs" / "r", "a: 1\n"), draft(0))

    def check(root: Path, cut: Cut) -> None:
        run = root / "runs" / "r"
        if cut.done == len(recorder.changes):
            assert Run.exists(run), "the run is lost"
            opens_with(run, {0})
        elif Run.exists(run):
            assert Run.open(run).damaged() == []
            assert all(verify(version) == [] for version in Run.open(run).versions())

    tried = try_all(recorder, memory / "after", check, SAMPLES, SEED)
    seen.both(tried)
    assert tried > 60


@pytest.mark.fault("kill -9 at every change of a commit, {commit}")
def test_a_kill_at_every_change_of_a_commit_leaves_the_version_before(run: Run, commit: Commit, seen: Seen) -> None:
    for nth in range(1, 200):
        known = {version.number for version in run.versions()}
        step = 20 + nth
        if not killed_at(nth, run.path, lambda step=step: commit(run, draft(step))):  # type: ignore[misc]
            assert nth > 25, "the commit has fewer changes than it should"
            assert max(version.number for version in run.versions()) > max(known)
            return
        opens_with(run.path, known)
        seen.both()
    pytest.fail("the commit never ended")


FAILURES = {
    "EIO": errno.EIO,
    "no space": errno.ENOSPC,
    "over quota": errno.EDQUOT,
    "stale handle": errno.ESTALE,
    "no right": errno.EACCES,
}
FAILING = ("mkdir", "open", "write", "fsync", "rename", "fallocate")


@pytest.mark.fault("n-th {call} of a commit fails: EIO, ENOSPC, EDQUOT, ESTALE, EACCES; once, for good")
@pytest.mark.parametrize("call", FAILING)
@pytest.mark.parametrize("kind", FAILURES)
@pytest.mark.parametrize("for_good", [False, True], ids=["once", "for good"])
def test_whatever_call_fails_the_older_versions_are_whole_and_the_next_commit_succeeds(
    run: Run, commit: Commit, call: str, kind: str, for_good: bool, seen: Seen
) -> None:
    for nth in range(1, 100):
        known = {version.number for version in run.versions()}
        with Failing(run.path, call, nth, FAILURES[kind], for_good) as failing:
            try:
                commit(run, draft(20))
            except DiskFull as error:
                assert FAILURES[kind] in fsops.NO_ROOM
                assert "is not committed: it needs" in str(error)
            except NotCommitted as error:
                assert FAILURES[kind] not in fsops.NO_ROOM
                assert os.strerror(FAILURES[kind]) in str(error)
        if not failing.has_failed:
            assert nth > 1, f"{call} is never called"
            return
        opens_with(run.path, known)
        seen.both()
    pytest.fail("the commit never ended")


def writes_little(real: Callable[..., int], is_many: bool) -> Callable[..., int]:
    """A write that takes seven bytes at most; past the page cache one block, as the kernel takes whole ones only."""

    def little(descriptor: int, given: Any, *where: int) -> int:
        is_direct = fcntl.fcntl(descriptor, fcntl.F_GETFL) & getattr(os, "O_DIRECT", 0)
        piece = memoryview(given[0] if is_many else given).cast("B")[: BLOCK_BYTES if is_direct else 7]
        return real(descriptor, [piece] if is_many else piece, *where)

    return little


@pytest.mark.fault("writes that take 7 bytes, or one block past the page cache")
def test_short_writes_are_continued(run_on_disk: Run, commit: Commit, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patched:
        for name in ("write", "pwrite", "writev", "pwritev"):
            patched.setattr(os, name, writes_little(getattr(os, name), name.endswith("v")))
        commit(run_on_disk, draft(20))
    opens_with(run_on_disk.path, {0, 1, 2})


@pytest.mark.fault("disk without room for a version, seen before it is begun")
def test_a_full_disk_shows_before_anything_is_written(
    run: Run, commit: Commit, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fsops, "free_bytes", lambda path: 100)
    with (
        Recorder(run.path) as recorder,
        pytest.raises(DiskFull, match=r"version_2 \(step 20\) is not committed"),
    ):
        commit(run, draft(20))
    assert recorder.changes == []
    assert not list(run.path.glob(".version*"))
