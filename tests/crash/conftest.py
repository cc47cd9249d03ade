import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from drafts import draft
from signalled import Training, own_group
from trainers import ENDLESS, SELDOM, STEPS, words_for

from disks import small_disk
from everstep.versions import Run
from law import UNSEEN
from program import Program

SHARED_MEMORY = Path("/dev/shm")


@pytest.fixture
def memory(tmp_path: Path) -> Iterator[Path]:
    """A folder in memory where there is one: thousands of states are put there, none of which needs a real flush."""
    if not os.access(SHARED_MEMORY, os.W_OK):
        yield tmp_path
        return
    folder = Path(tempfile.mkdtemp(prefix="crash-", dir=SHARED_MEMORY))
    yield folder
    shutil.rmtree(folder)


def run_in(folder: Path) -> Run:
    made = Run.create(folder / "runs" / "r", "a: 1\n")
    for step in (0, 10):
        made.commit(draft(step))
    return made


@pytest.fixture
def run(memory: Path) -> Run:
    """A run with two versions, at steps 0 and 10."""
    return run_in(memory)


@pytest.fixture
def run_on_disk(tmp_path: Path) -> Run:
    """The same where a flush is one, and O_DIRECT too."""
    return run_in(tmp_path)


@pytest.fixture
def words(tiny_base: Path, pairs_folder: Path) -> Callable[..., tuple[object, ...]]:
    """The command of a training; by default its only versions are the first and the last."""

    def call(
        steps: int = STEPS, every: int = SELDOM, *more: object, sheets: int = 0, scores: float = 0
    ) -> tuple[object, ...]:
        return words_for(tiny_base, pairs_folder, steps, every, *more, sheets=sheets, scores=scores)

    return call


@pytest.fixture
def unending(tiny_base: Path, pairs_folder: Path) -> tuple[object, ...]:
    """The command of a training that has no version but version_0 until something ends it."""
    small = ("--optim.max-steps", ENDLESS, "--versions.every", SELDOM, "--optim.batch-size", 2, *UNSEEN)
    return ("train", "--run", "a", "--base", tiny_base, "--data", pairs_folder, *small, "--keeper.snapshots", 1)


@pytest.fixture
def training(start: Callable[..., Program], unending: tuple[object, ...], workplace: Path) -> Callable[..., Training]:
    """Begin it; returns once it tells of a state in memory."""

    def call(prepare: Callable[[], None] = own_group, *more: object) -> Training:
        return Training(start(*unending, *more, prepare=prepare), workplace)

    return call


@pytest.fixture
def runs_disk(workplace: Path) -> Iterator[Path]:
    """runs/ is a disk of its own."""
    with small_disk(workplace / "runs", "size=40m") as folder:
        yield folder
