"""A prune may be cut off anywhere: each version is as it was, slim, or gone as a whole, and one is left to resume."""

import contextlib
import errno
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from chance import SEED, rounds
from cuts import try_all
from disk import Change, Entry, Recorder, Sync
from drafts import arrays, draft
from faults import Seen
from interrupted import Failing, killed_at

from everstep.errors import DiskFull, UnreachableDisk, UserError
from everstep.versions import Run, fsops, read_tensors, verify, write_annotation
from everstep.versions.pruning import decide, prune, slim
from everstep.versions.retention import Fate, Policy

POLICY = Policy(last=1, best=0, every_versions=3)
SAMPLES = rounds(4, most=40)
NOW = 2e9


@pytest.fixture
def long_run(memory: Path) -> Run:
    """Seven versions, of which a prune makes two slim, drops two and leaves a pinned one."""
    made = Run.create(memory / "runs" / "r", "a: 1\n")
    for step in range(0, 70, 10):
        made.commit(draft(step))
    write_annotation(made.layout, 2, pinned=True)
    assert [d.fate.value[0] for d in decide(made, POLICY, NOW)] == list("sdksddk")
    return made


def holds_after_a_crash(root: Path) -> None:
    """Listed versions are whole, what was to stay is there, nothing half is under a good name; a next prune ends it."""
    run = Run.open(root)
    assert run.damaged() == []
    versions = {version.number: version for version in run.versions()}
    assert {0, 2, 3, 6} <= set(versions)
    for version in versions.values():
        assert verify(version) == []
        for path, named in arrays(version.step).items():
            if version.resumable or not path.startswith("training/"):
                loaded = read_tensors(version, path)
                assert all(bytes(loaded[name].buffer) == array.tobytes() for name, array in named.items())
        assert version.resumable or not (version.path / "training").exists()
    assert versions[2].resumable
    assert versions[6].resumable
    assert versions.keys() | {1, 4, 5} == set(range(7))
    prune(run, POLICY, NOW)
    assert {version.number: version.resumable for version in run.versions()} == {0: False, 2: True, 3: False, 6: True}
    assert list(run.layout.trash.iterdir()) == []


def pruned(run: Run) -> Recorder:
    with Recorder(run.path) as recorder:
        prune(run, POLICY, NOW)
    return recorder


def moved(changes: list[Change]) -> list[int]:
    """Numbers of the changes that took something out of its folder."""
    return [n for n, c in enumerate(changes) if isinstance(c, Entry) and c.old_folder not in (None, c.folder)]


@pytest.mark.fault("power cut at every moment of a prune")
def test_a_power_cut_at_any_moment_of_a_prune_leaves_whole_versions(long_run: Run, memory: Path, seen: Seen) -> None:
    recorder = pruned(long_run)
    assert len(moved(recorder.changes)) == 5
    tried = try_all(recorder, memory / "after", lambda root, _: holds_after_a_crash(root), SAMPLES, SEED)
    seen.both(tried)
    assert tried > 100


BROKEN: dict[str, Callable[[Recorder], list[Change]]] = {
    "no folder is flushed": lambda recorder: [c for c in recorder.changes if not isinstance(c, Sync)],
    "removed where it lies": lambda recorder: [
        c for n, c in enumerate(recorder.changes) if n not in moved(recorder.changes)
    ],
}


@pytest.mark.parametrize("kind", BROKEN)
def test_a_prune_with_one_guard_less_does_not_survive_every_power_cut(long_run: Run, memory: Path, kind: str) -> None:
    recorder = pruned(long_run)
    with pytest.raises((AssertionError, OSError)):
        try_all(recorder, memory / "x", lambda root, _: holds_after_a_crash(root), 4, SEED, BROKEN[kind](recorder))


@pytest.mark.fault("kill -9 at every change of a prune")
def test_a_kill_at_every_change_of_a_prune_leaves_whole_versions(long_run: Run, memory: Path, seen: Seen) -> None:
    for nth in range(1, 200):
        root = memory / "again"
        shutil.copytree(long_run.path, root)
        if not killed_at(nth, root, lambda: prune(Run.open(memory / "again"), POLICY, NOW)):
            assert nth > 30, "the prune has fewer changes than it should"
            return
        holds_after_a_crash(root)
        seen.both()
        shutil.rmtree(root)
    pytest.fail("the prune never ended")


@pytest.mark.fault("n-th mkdir, open, fsync, rename, unlink, rmdir of a prune fails: EIO")
@pytest.mark.parametrize("call", ["mkdir", "open", "fsync", "rename", "unlink", "rmdir"])
def test_whatever_fails_in_a_prune_leaves_whole_versions_and_words(
    long_run: Run, memory: Path, call: str, seen: Seen
) -> None:
    for nth in range(1, 200):
        root = memory / "again"
        shutil.copytree(long_run.path, root)
        with Failing(root, call, nth, errno.EIO) as failing:
            try:
                prune(Run.open(root), POLICY, NOW)
            except (UserError, UnreachableDisk) as error:
                assert "Input/output error" in str(error)
        if not failing.has_failed:
            assert nth > 5
            return
        holds_after_a_crash(root)
        seen.both()
        shutil.rmtree(root)
    pytest.fail("the prune never ended")


@pytest.mark.fault("kill -9 at every change while a version is made slim")
def test_a_kill_while_a_version_is_made_slim_leaves_it_whole_or_slim(long_run: Run, memory: Path, seen: Seen) -> None:
    states = set()
    for nth in range(1, 50):
        root = memory / "again"
        shutil.copytree(long_run.path, root)

        def make_slim(root: Path = root) -> None:
            run = Run.open(root)
            slim(run, run.version(3))

        was_killed = killed_at(nth, root, make_slim)
        run = Run.open(root)
        version = run.version(3)
        assert verify(version) == []
        assert version.resumable or not (version.path / "training").exists()
        states.add(version.resumable)
        seen.both(was_killed)
        with run.lock("test"):
            run.recover()
        assert not run.layout.trash.exists() or list(run.layout.trash.iterdir()) == []
        shutil.rmtree(root)
        if not was_killed:
            assert states == {True, False}
            return
    pytest.fail("slim never ended")


@pytest.mark.fault("prune of a disk without one free byte")
def test_a_disk_that_is_really_full_can_be_pruned(tmp_path: Path) -> None:
    folder = tmp_path / "small"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k", "none", folder], capture_output=True)
    if mounted.returncode != 0:
        pytest.skip(f"mounting is refused: {mounted.stderr.decode().strip()}")
    try:
        run = Run.create(folder / "r", "a: 1\n")
        with contextlib.suppress(DiskFull):
            while True:
                run.commit(draft(10))
        with (folder / "rest").open("wb", buffering=0) as rest, contextlib.suppress(OSError):
            while True:
                rest.write(bytes(4096))
        assert fsops.free_bytes(folder) == 0
        count = len(run.versions())
        assert len(prune(run, Policy(last=2, best=0, every_versions=None), NOW)) == count - 2
        assert verify(run.commit(draft(20))) == []
    finally:
        subprocess.run(["umount", "-l", folder], check=True)


def test_where_everything_is_kept_nothing_is_written(long_run: Run) -> None:
    prune(long_run, POLICY, NOW)
    assert {decision.fate for decision in decide(long_run, POLICY, NOW)} == {Fate.KEEP}
    recorder = pruned(long_run)
    files = [c for c in recorder.changes if isinstance(c, Entry)]
    assert files == []
