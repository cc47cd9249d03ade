"""A run is made whole or not at all, by one of those who would, and nothing is left of one that was cut off."""

import errno
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from drafts import draft

from everstep.errors import DiskFull, EverstepError, UserError
from everstep.versions import Run, fsops

NAMES = ("make_folder", "ensure_folder", "write_file", "rename", "flush_folder")
RACE = """
import sys, time
from pathlib import Path
from everstep.errors import UserError
from everstep.versions import Run
folder, start = Path(sys.argv[1]), float(sys.argv[2])
while time.time() < start:
    pass
try:
    run = Run.create(folder, f"a: {sys.argv[3]}\\n")
    print("made", run.layout.identity.read_text(), flush=True)
except UserError as error:
    print("refused", error, flush=True)
"""


@pytest.fixture(params=["nothing", "an empty folder"])
def root(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """Where a run is to be made: deep below, or where somebody made a folder for it."""
    if request.param == "nothing":
        return tmp_path / "many" / "runs" / "r"
    (tmp_path / "runs" / "r").mkdir(parents=True)
    return tmp_path / "runs" / "r"


def names(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def patch_all(act: Callable[[str, Callable[..., None]], Callable[..., None]], patch: Callable[..., None]) -> None:
    for name in NAMES:
        patch(fsops, name, act(name, getattr(fsops, name)))


def test_of_many_that_make_one_run_at_once_one_does(root: Path) -> None:
    start = time.time() + 1.5
    programs = [
        subprocess.Popen(
            [sys.executable, "-c", RACE, str(root), str(start), str(number)], stdout=subprocess.PIPE, text=True
        )
        for number in range(8)
    ]
    said = [program.communicate(timeout=60)[0] for program in programs]
    made = [number for number, line in enumerate(said) if line.startswith("made")]
    assert len(made) == 1, said
    assert all("Nothing was changed" in line for number, line in enumerate(said) if number not in made), said
    run = Run.open(root)
    assert run.layout.hparams.read_text() == f"a: {made[0]}\n"
    assert said[made[0]].split()[1] == run.layout.identity.read_text()
    assert [path.name for path in root.parent.iterdir()] == ["r"]
    run.commit(draft(0))


def test_a_kill_at_every_step_leaves_no_run_or_all_of_it_and_the_next_one_clears_up(root: Path, tmp_path: Path) -> None:
    seen = set()
    for nth in range(1, 60):
        child = os.fork()
        if child == 0:
            count = 0

            def dying(_: str, real: Callable[..., None], nth: int = nth) -> Callable[..., None]:
                def call(*arguments: object) -> None:
                    nonlocal count
                    count += 1
                    if count == nth:
                        os.kill(os.getpid(), signal.SIGKILL)
                    real(*arguments)

                return call

            patch_all(dying, setattr)
            try:
                Run.create(root, "a: 1\n")
            finally:
                os._exit(0)
        ended = os.waitpid(child, 0)[1]
        seen.add(is_there := Run.exists(root))
        assert not [path for path in tmp_path.rglob("*") if path.name.endswith(".new") and Run.exists(path)]
        if is_there:
            assert Run.open(root).layout.trash.is_dir()
        else:
            Run.create(root, "a: 2\n")
        assert [path.name for path in root.parent.iterdir()] == ["r"]
        assert Run.open(root).commit(draft(0)).number == 0
        if os.WIFEXITED(ended):
            assert nth > 12, "there are fewer steps than there should be"
            assert seen == {True, False}
            return
        clear(root, tmp_path)
    pytest.fail("it never ended")


def clear(root: Path, tmp_path: Path) -> None:
    fsops.remove_tree(root)
    if root.parent.parent.name == "many":
        fsops.remove_tree(tmp_path / "many")
    else:
        root.mkdir()


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EACCES, errno.EIO])
def test_whatever_fails_nothing_is_left_and_it_is_said(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    before = names(tmp_path)
    for nth in range(1, 60):
        count = 0

        def failing(_: str, real: Callable[..., None], nth: int = nth) -> Callable[..., None]:
            def call(*arguments: object) -> None:
                nonlocal count
                count += 1
                if count == nth:
                    raise OSError(number, os.strerror(number))
                real(*arguments)

            return call

        with monkeypatch.context() as patched:
            patch_all(failing, patched.setattr)
            try:
                Run.create(root, "a: 1\n")
            except EverstepError as error:
                assert isinstance(error, DiskFull if number == errno.ENOSPC else UserError)
                said = ("flushed", "It is whole") if Run.exists(root) else ("made", "Nothing was left behind")
                assert f"{root} cannot be {said[0]}: {os.strerror(number)}. {said[1]}" in str(error)
        if count < nth:
            return
        if Run.exists(root):  # only the last flush failed
            assert [path.name for path in root.parent.iterdir()] == ["r"]
            clear(root, tmp_path)
        else:
            assert names(tmp_path) == before
    pytest.fail("it never ended")


def test_every_new_name_is_flushed_before_the_run_is_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[tuple[str, Path]] = []

    def noting(name: str, real: Callable[..., None]) -> Callable[..., None]:
        def call(*arguments: Path) -> None:
            real(*arguments)
            done.append((name, arguments[1] if name == "rename" else arguments[0]))

        return call

    patch_all(noting, monkeypatch.setattr)
    Run.create(tmp_path / "a" / "b" / "c" / "r", "a: 1\n")
    for folder in ("a", "a/b", "a/b/c"):
        made = done.index(("make_folder", tmp_path / folder))
        assert ("flush_folder", (tmp_path / folder).parent) in done[made:]
    assert done[-2:] == [("rename", tmp_path / "a/b/c/r"), ("flush_folder", tmp_path / "a/b/c")]


def test_nothing_is_made_over_a_run_a_file_or_somebody_elses_folder(tmp_path: Path) -> None:
    Run.create(tmp_path / "r", "a: 1\n")
    (tmp_path / "file").write_text("mine")
    (tmp_path / "photos" / "records").mkdir(parents=True)
    (tmp_path / "photos" / "records" / "a.png").write_text("mine")
    before = names(tmp_path)
    for name, said in (("r", "is a run already"), ("file", "is a file"), ("photos", "is not empty, but no run")):
        with pytest.raises(UserError, match=said):
            Run.create(tmp_path / name, "a: 2\n")
    assert names(tmp_path) == before
    assert (tmp_path / "r/hparams.yaml").read_text() == "a: 1\n"


def test_an_empty_folder_stays_the_one_that_it_was(tmp_path: Path) -> None:
    """It may be mounted there, or have rights of its own."""
    (tmp_path / "r").mkdir(mode=0o770)
    before = (tmp_path / "r").stat()
    Run.create(tmp_path / "r", "a: 1\n")
    after = (tmp_path / "r").stat()
    assert (after.st_ino, after.st_mode) == (before.st_ino, before.st_mode)


def test_one_that_is_still_being_made_is_not_cleared_away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real, others = fsops.replace_file, []

    def slow(path: Path, content: bytes) -> None:
        real(path, content)
        if not others:
            others.append(path)
            with monkeypatch.context() as patched:
                patched.setattr(fsops, "replace_file", real)
                Run.create(tmp_path / "r", "a: 2\n")

    monkeypatch.setattr(fsops, "replace_file", slow)
    with pytest.raises(UserError, match="is a run already"):
        Run.create(tmp_path / "r", "a: 1\n")
    assert Run.open(tmp_path / "r").layout.hparams.read_text() == "a: 2\n"
    assert [path.name for path in tmp_path.iterdir()] == ["r"]
