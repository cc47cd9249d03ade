"""A real run with a branch inside, and another that began with its weights: trained once, copied for each test."""

import shutil
from pathlib import Path

import pytest

from program import Program


@pytest.fixture(scope="session")
def _branched(tiny_base: Path, pairs_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("branched")
    data = ("--base", tiny_base, "--data", pairs_folder, "--optim.batch-size", 2, "--versions.every", 2)
    small = ("--sampling.pairs", 2, "--sampling.steps", 2, "--keep.everything")
    rates = ("optim.learning_rate=0.002", "optim.max_steps=6")
    for words in (
        ("train", "--run", "a", *data, *small, "--optim.max-steps", 4, "--optim.learning-rate", 1e-3),
        ("resume", "a@1", "--set", rates[0], "--set", rates[1]),
        ("train", "--run", "b", "--from", "a@2", *data, *small, "--optim.max-steps", 2, "--optim.ema-decay", 0.9),
    ):
        program = Program(words, folder)
        assert program.wait(120) == 0, program.output
    return folder / "runs"


@pytest.fixture
def branched(_branched: Path, workplace: Path) -> Path:
    """runs/ with a (0 - 1 - 2, and 3 - 4 from 1) and b (0 - 1, from the weights of a@2, with averaged weights)."""
    return shutil.copytree(_branched, workplace / "runs")


@pytest.fixture
def words(tiny_base: Path, pairs_folder: Path) -> tuple[object, ...]:
    """The line that starts a small training, a version every two steps."""
    small = ("--optim.batch-size", 2, "--sampling.pairs", 0, "--scoring.overhead", 0, "--versions.every", 2)
    return ("train", "--run", "a", "--base", tiny_base, "--data", pairs_folder, *small)
