import sys
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[1] / "versions")]

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
