from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from training import Training
from writing_together import Together

from everstep.keeping import extents, memory
from everstep.versions import Run


@pytest.fixture
def shared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """In place of /dev/shm."""
    folder = tmp_path / "shm"
    folder.mkdir()
    monkeypatch.setattr(memory, "SHARED_MEMORY", folder)
    return folder


@pytest.fixture
def make() -> Iterator[Callable[..., Training]]:
    """Trainings that are closed at the end."""
    made: list[Training] = []

    def call(*arguments: Any, **named: Any) -> Training:
        made.append(Training(*arguments, **named))
        return made[-1]

    yield call
    for training in made:
        training.close()


@pytest.fixture
def together(run: Run, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[int], Together]]:
    monkeypatch.setattr(extents, "LEAST_BYTES", 1)
    monkeypatch.setattr(extents, "PATIENCE_S", 1.0)
    made = list[Together]()

    def call(others: int) -> Together:
        made.append(Together(run, others))
        return made[-1]

    yield call
    for one in made:
        one.close()
