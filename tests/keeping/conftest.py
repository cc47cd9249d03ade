from pathlib import Path

import pytest
from drafts import draft

from everstep.keeping import memory
from everstep.versions import Run


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """A run with three versions, at steps 0, 10 and 20."""
    made = Run.create(tmp_path / "runs" / "r", "a: 1\n")
    for step in (0, 10, 20):
        made.commit(draft(step))
    return made


@pytest.fixture
def shared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """In place of /dev/shm."""
    folder = tmp_path / "shm"
    folder.mkdir()
    monkeypatch.setattr(memory, "SHARED_MEMORY", folder)
    return folder
