"""A place whose every call is counted, and before any of which something may happen: a kill, a server that freezes."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from typing import Any

from everstep.mirror.backend import Place, Still


class Counting:
    """A `Place` before whose every call, and before every piece that is sent or read, its number is told."""

    def __init__(self, place: Place, at: Callable[[int], None]) -> None:
        self._place, self._at = place, at
        self.seen = 0

    @property
    def address(self) -> str:
        return self._place.address

    def put(self, name: str, content: Iterable[memoryview | bytes], size_bytes: int) -> bool:
        return bool(self._call("put", name, self._told(content), size_bytes))

    def stream(self, name: str, size_bytes: int) -> Iterator[memoryview | bytes]:
        return self._told(self._place.stream(name, size_bytes))

    def alone(self, may_wait: bool) -> AbstractContextManager[Still]:
        return self._place.alone(may_wait)

    def __getattr__(self, name: str) -> Any:
        return lambda *arguments: self._call(name, *arguments)

    def _call(self, name: str, *arguments: Any) -> Any:
        self._tell()
        return getattr(self._place, name)(*arguments)

    def _told(self, content: Iterable[memoryview | bytes]) -> Iterator[memoryview | bytes]:
        for piece in content:
            self._tell()
            yield piece

    def _tell(self) -> None:
        self.seen += 1
        self._at(self.seen)
