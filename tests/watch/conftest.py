"""A run with pictures and scores, and the page's server as a user starts it."""

import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from everstep.watching.remembered import RememberedRun
from program import Program

EVERSTEP = [sys.executable, "-m", "everstep"]
Serve = Callable[..., str]


@pytest.fixture(scope="session")
def _trained(tiny_base: Path, pairs_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("watched")
    words = ("--optim.max-steps", 4, "--optim.batch-size", 2, "--versions.every", 2, "--sampling.pairs", 2)
    more = ("--sampling.steps", 2, "--optim.learning-rate", 1e-2, "--keep.everything")
    program = Program(("train", "--run", "a", "--base", tiny_base, "--data", pairs_folder, *words, *more), folder)
    assert program.wait(240) == 0, program.output
    return folder / "runs/a"


@pytest.fixture
def trained(_trained: Path, workplace: Path) -> RememberedRun:
    """Versions at steps 0, 2 and 4 with two pairs each, in runs/a of a workplace of its own."""
    return RememberedRun(Path(shutil.copytree(_trained, workplace / "runs/a")))


@pytest.fixture
def serve(workplace: Path) -> Iterator[Serve]:
    """Start `everstep watch`; returns the address that it prints."""
    started: list[subprocess.Popen[str]] = []

    def call(*words: object) -> str:
        command = [*EVERSTEP, "watch", "--port", "0", *map(str, words)]
        process = subprocess.Popen(command, cwd=workplace, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        started.append(process)
        assert process.stdout is not None
        said = process.stdout.readline()
        assert " is seen at " in said, said + process.stdout.read()
        return said.rpartition(" is seen at ")[2].strip()

    yield call
    for process in started:
        process.terminate()
        process.wait(20)
        assert process.stdout is not None
        process.stdout.close()
