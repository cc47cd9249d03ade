"""A run of five versions that are all kept, to be copied and tried on."""

import shutil
from pathlib import Path

import pytest

from everstep.versions import Run
from law import SETTINGS
from program import Program

KEPT = (*SETTINGS, "--keep.everything")


@pytest.fixture(scope="session")
def kept(tiny_base: Path, pairs_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Versions at steps 0, 10, 20, 30 and 40; nobody writes to it."""
    folder = tmp_path_factory.mktemp("kept")
    program = Program(("train", "--run", "a", "--base", tiny_base, "--data", pairs_folder, *KEPT), folder)
    assert program.wait() == 0, program.output
    return folder / "runs/a"


@pytest.fixture
def copied(kept: Path, workplace: Path) -> Run:
    """The same in a workplace of its own."""
    shutil.copytree(kept, workplace / "runs/a")
    return Run.open(workplace / "runs/a")
