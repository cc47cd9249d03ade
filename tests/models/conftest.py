"""Small bases, of which one file each is made."""

from collections.abc import Callable
from pathlib import Path

import pytest

from bases import write_base
from one_file import LAYOUTS


@pytest.fixture
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is unpacked is not there yet."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture(scope="session")
def bases(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    made: dict[str, Path] = {}

    def make(kind: str) -> Path:
        if kind not in made:
            made[kind] = write_base(tmp_path_factory.mktemp("bases") / kind, like=kind)
        return made[kind]

    return make


@pytest.fixture(params=tuple(LAYOUTS))
def folder(request: pytest.FixtureRequest, bases: Callable[[str], Path]) -> Path:
    """A small base in diffusers layout, of which one file is made."""
    return bases(request.param)


@pytest.fixture
def sd15(bases: Callable[[str], Path]) -> Path:
    """The same of one kind, for what does not depend on it."""
    return bases("sd15")
