"""Machines that train together, all of which are this one."""

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from everstep.keeping.memory import lying_about
from machines import TRAINING, Machines, slurm
from program import Program

Start = Callable[..., Program]


@pytest.fixture
def machine(
    start: Start, monkeypatch: pytest.MonkeyPatch, tiny_base: Path, pairs_folder: Path, workplace: Path
) -> Callable[..., Program]:
    """Start what srun starts on one of two machines."""

    def call(node: int, *more: object, data: Path = pairs_folder, job_step: int = 0, **how: object) -> Program:
        environ = slurm(node, f"{os.getpid()}-{workplace.name}", job_step)
        for name, value in environ.items():
            monkeypatch.setenv(name, value)
        return start("train", "--base", tiny_base, "--data", data, "--run", "a", *TRAINING, *more, **how)  # type: ignore[arg-type]

    return call


@pytest.fixture
def words(tiny_base: Path, pairs_folder: Path) -> tuple[object, ...]:
    return ("train", "--base", tiny_base, "--data", pairs_folder, "--run", "a", *TRAINING)


@pytest.fixture
def machines(monkeypatch: pytest.MonkeyPatch, words: tuple[object, ...], tmp_path: Path) -> Iterator[Machines]:
    (tmp_path / "mirror").mkdir()
    found = Machines(tmp_path, str(tmp_path / "mirror"), monkeypatch, words)
    yield found
    for program in found.started:
        program.end()
    for memory in lying_about(None):  # of one that was killed, which other tests would be told of
        if memory.run is not None and Path(memory.run).is_relative_to(tmp_path) and not memory.is_used:
            shutil.rmtree(memory.path, ignore_errors=True)
