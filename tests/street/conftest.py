"""A street to bring things to: an empty folder, and copies of what works."""

from pathlib import Path

import pytest

from street import Street


@pytest.fixture(params=[False, pytest.param(True, marks=pytest.mark.slow)], ids=["", "walked_on"])
def street(request: pytest.FixtureRequest, workplace: Path, tiny_base: Path, pairs_folder: Path) -> Street:
    return Street(workplace, tiny_base, pairs_folder, request.param)
