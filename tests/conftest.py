"""Small real bases, a small real folder of pairs, and the program run as a user runs it."""

import contextlib
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from drafts import draft

from everstep.keeping.memory import lying_about
from everstep.versions import Run
from law import SETTINGS, outcome
from program import Ended, Program

pytest_plugins = ("faults",)
os.environ.setdefault("OMP_NUM_THREADS", "1")


@pytest.fixture(autouse=True)
def _private_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.getbasetemp() / "cache"))


@pytest.fixture(scope="session", autouse=True)
def _no_memory_is_left(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """What killed trainings of this session left in shared memory goes with it, unless somebody uses it."""
    yield
    for found in lying_about(None):
        is_of_tests = found.run is not None and Path(found.run).is_relative_to(tmp_path_factory.getbasetemp())
        if is_of_tests and not found.is_used:
            shutil.rmtree(found.path, ignore_errors=True)


@pytest.fixture
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder to run the program in; runs/ appears there."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(scope="session")
def tiny_base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base of the SD 1.5 layout with random weights, 16 px: as small as every part allows."""
    from bases import write_base

    return write_base(tmp_path_factory.mktemp("bases") / "sd15", like="sd15")


@pytest.fixture(scope="session")
def pairs_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """30 pairs on disk, metadata.jsonl, so that an epoch ends within a few steps."""
    from everstep.data.layouts import circles

    folder = tmp_path_factory.mktemp("data") / "pairs"
    folder.mkdir()
    lines = []
    for number in range(30):
        drawn = circles.circle(number)
        circles.target(drawn, 20).save(folder / f"{number}.png")
        circles.condition(drawn, 20).save(folder / f"{number}_outline.png")
        names = {"file_name": f"{number}.png", "conditioning_image": f"{number}_outline.png"}
        lines.append(json.dumps({**names, "text": drawn.caption}))
    (folder / "metadata.jsonl").write_text("\n".join(lines) + "\n")
    return folder


@contextlib.contextmanager
def captured() -> Iterator[list[str]]:
    """All that is printed inside, by this process and by those that it forks; there afterwards."""
    printed: list[str] = []
    with tempfile.TemporaryFile("w+") as file, contextlib.redirect_stdout(file), contextlib.redirect_stderr(file):
        try:
            yield printed
        finally:
            file.seek(0)
            printed.append(file.read())


@pytest.fixture
def everstep(workplace: Path) -> Callable[..., Ended]:
    """Run the program, as if its words were typed: in this process, but for what trains.

    A keeper forks, which a process that has computed with several threads cannot do safely.
    """

    def call(*words: object) -> Ended:
        from everstep.cli.main import run

        if words and words[0] in ("train", "resume"):
            program = Program(words, workplace)
            return Ended(program.wait(timeout_s=240), program.output)

        before = sys.argv
        sys.argv = ["everstep", *map(str, words)]
        try:
            with captured() as printed:
                code = run(sys.argv[1:])
        finally:
            sys.argv = before
        return Ended(int(code), "".join(printed))

    return call


@pytest.fixture
def start(workplace: Path) -> Iterator[Callable[..., Program]]:
    """Start the program in a process of its own; whatever is left is killed at the end."""
    started: list[Program] = []

    def call(*words: object, prepare: Callable[[], None] | None = None) -> Program:
        started.append(Program(words, workplace, prepare))
        return started[-1]

    yield call
    for program in started:
        program.end()


@pytest.fixture(scope="session")
def straight(tiny_base: Path, pairs_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> object:
    """The uninterrupted run, in a process of its own like all others."""
    folder = tmp_path_factory.mktemp("straight")
    program = Program(("train", "--run", "a", "--base", tiny_base, "--data", pairs_folder, *SETTINGS), folder)
    assert program.wait() == 0, program.output
    return outcome(folder / "runs/a")


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """A run with three versions, at steps 0, 10 and 20."""
    made = Run.create(tmp_path / "runs" / "r", "a: 1\n")
    for step in (0, 10, 20):
        made.commit(draft(step))
    return made
