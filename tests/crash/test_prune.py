"""A prune may be cut off anywhere: each version is as it was, slim, or gone as a whole, and one is left to resume."""

import contextlib
import os
import shutil
import signal
import subprocess
from pathlib import Path

import pytest
from disk import Recorder, crashes, play
from drafts import arrays, draft
from test_commit import in_child

from everstep.errors import DiskFull, UserError
from everstep.versions import Run, fsops, read_tensors, verify, write_annotation
from everstep.versions.pruning import decide, prune, slim
from everstep.versions.retention import Fate, Policy

POLICY = Policy(last=1, best=0, every_versions=3)
ROUNDS = int(os.environ.get("EVERSTEP_CRASH_ROUNDS", "4"))
OPERATIONS = ("ensure_folder", "rename", "flush_folder", "remove_tree", "remove_file")
NOW = 2e9


@pytest.fixture
def long_run(tmp_path: Path) -> Run:
    """Seven versions, of which a prune makes two slim, drops two and leaves a pinned one."""
    made = Run.create(tmp_path / "runs" / "r", "a: 1\n")
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


def test_a_power_cut_at_any_moment_of_a_prune_leaves_whole_versions(
    long_run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = tmp_path / "before"
    shutil.copytree(long_run.path, before)
    with monkeypatch.context() as patched:
        recorder = Recorder(long_run.path, patched)
        prune(long_run, POLICY, NOW)
    operations = recorder.operations
    assert [operation.name for operation in operations].count("rename") == 5
    assert [operation.name for operation in operations].count("remove_tree") == 5
    tried = 0
    for _, survived in crashes(operations, seed=3, samples=ROUNDS):
        root = tmp_path / "after" / "r"
        shutil.copytree(before, root)
        play(survived, root)
        holds_after_a_crash(root)
        shutil.rmtree(root)
        tried += 1
    assert tried > len(operations)


def kill_at(nth: int) -> None:
    """Let the nth operation on the disk be the last; a removal is cut off when half of it is done."""
    count = 0

    def dying(name, real):
        def call(*arguments: object) -> None:
            nonlocal count
            count += 1
            if count == nth:
                if name == "remove_tree":
                    remove_half(arguments[0])
                os.kill(os.getpid(), signal.SIGKILL)
            real(*arguments)

        return call

    for name in OPERATIONS:
        setattr(fsops, name, dying(name, getattr(fsops, name)))


def remove_half(folder: Path) -> None:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    for path in files[: len(files) // 2]:
        path.unlink()


def test_a_kill_at_every_step_of_a_prune_leaves_whole_versions(long_run: Run, tmp_path: Path) -> None:
    for nth in range(1, 60):
        root = tmp_path / "again" / "r"
        shutil.copytree(long_run.path, root)

        def killed(nth: int = nth, root: Path = root) -> None:
            kill_at(nth)
            prune(Run.open(root), POLICY, NOW)

        ended = in_child(killed)
        if os.WIFEXITED(ended):
            assert nth > 4 * 5, "the prune has fewer steps than it should"
            return
        assert os.WTERMSIG(ended) == signal.SIGKILL
        holds_after_a_crash(root)
        shutil.rmtree(root)
    pytest.fail("the prune never ended")


@pytest.mark.parametrize("name", OPERATIONS[:-1])
def test_whatever_fails_in_a_prune_leaves_whole_versions_and_words(
    long_run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    real = getattr(fsops, name)
    for nth in range(1, 30):
        root, count = tmp_path / "again" / "r", 0
        shutil.copytree(long_run.path, root)

        def failing(*arguments: object, nth: int = nth) -> None:
            nonlocal count
            count += 1
            if count == nth:
                raise OSError(5, "Input/output error")
            real(*arguments)

        with monkeypatch.context() as patched:
            patched.setattr(fsops, name, failing)
            try:
                prune(Run.open(root), POLICY, NOW)
            except UserError as error:
                assert "Input/output error" in str(error)
        if count < nth:
            assert nth > 5
            return
        holds_after_a_crash(root)
        shutil.rmtree(root)
    pytest.fail("the prune never ended")


def test_a_kill_while_a_version_is_made_slim_leaves_it_whole_or_slim(long_run: Run, tmp_path: Path) -> None:
    seen = set()
    for nth in range(1, 20):
        root = tmp_path / "again" / "r"
        shutil.copytree(long_run.path, root)

        def killed(nth: int = nth, root: Path = root) -> None:
            kill_at(nth)
            run = Run.open(root)
            slim(run, run.version(3))

        ended = in_child(killed)
        run = Run.open(root)
        version = run.version(3)
        assert verify(version) == []
        assert version.resumable or not (version.path / "training").exists()
        seen.add(version.resumable)
        with run.lock("test"):
            run.recover()
        assert not run.layout.trash.exists() or list(run.layout.trash.iterdir()) == []
        shutil.rmtree(root)
        if os.WIFEXITED(ended):
            assert seen == {True, False}
            return
    pytest.fail("slim never ended")


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


def test_keep_is_the_only_fate_that_writes_nothing(long_run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    prune(long_run, POLICY, NOW)
    with monkeypatch.context() as patched:
        recorder = Recorder(long_run.path, patched)
        assert {decision.fate for decision in decide(long_run, POLICY, NOW)} == {Fate.KEEP}
        prune(long_run, POLICY, NOW)
    assert recorder.operations == []
