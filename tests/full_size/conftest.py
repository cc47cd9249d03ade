"""Room that is given back: a base is there while cases need it, and what a case makes goes with it."""

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from large_bases import write_large_base

from everstep.keeping.memory import lying_about
from everstep.models.whole import Whole


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.full_size)
            item.add_marker(pytest.mark.timeout(7200))


@pytest.fixture(scope="session")
def large_base(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[Whole], Path]]:
    """The folder of a base, written when it is first asked for; the one before it is gone then."""
    folder = tmp_path_factory.mktemp("large")

    def base_of(whole: Whole) -> Path:
        wanted = folder / whole.title.replace(" ", "-")
        if not wanted.is_dir():
            for other in folder.iterdir():
                shutil.rmtree(other)
            write_large_base(wanted, whole)
        return wanted

    yield base_of
    shutil.rmtree(folder)


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Path]:
    """An empty folder; it goes, and the memory of its runs, however a case ends."""
    yield tmp_path
    for found in lying_about(None):
        if found.run is not None and Path(found.run).is_relative_to(tmp_path):
            shutil.rmtree(found.path, ignore_errors=True)
    shutil.rmtree(tmp_path)
