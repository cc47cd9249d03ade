from pathlib import Path

import pytest
from drafts import draft

from everstep.versions import Run


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """A run with three versions, at steps 0, 10 and 20."""
    made = Run.create(tmp_path / "runs" / "r", "a: 1\n")
    for step in (0, 10, 20):
        made.commit(draft(step))
    return made
