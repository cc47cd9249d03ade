from pathlib import Path

import pytest
from drafts import draft

from everstep.versions import Run


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """A run with two versions, at steps 0 and 10."""
    made = Run.create(tmp_path / "runs" / "r", "a: 1\n")
    for step in (0, 10):
        made.commit(draft(step))
    return made
