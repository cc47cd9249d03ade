"""A limit on bytes a second, for those who share their line with others."""

import threading
import time
from collections.abc import Iterable, Iterator

BURST_S = 0.25  # so long at most nothing moves between two pieces


class Rate:
    """Counts all that passes, whichever way. Units: bytes a second; None for no limit."""

    def __init__(self, limit: int | None) -> None:
        self.limit = limit
        self._free_at = 0.0  # of the monotonic clock: when the line has taken what was given to it
        self._lock = threading.Lock()

    def pieces(self, content: Iterable[memoryview | bytes]) -> Iterator[memoryview | bytes]:
        """The same bytes, not faster than the limit."""
        if self.limit is None:
            yield from content
            return
        most = max(1, int(self.limit * BURST_S))
        for piece in content:
            view = memoryview(piece).cast("B")
            while view:
                self._wait_for(min(most, view.nbytes))
                yield view[:most]
                view = view[most:]

    def _wait_for(self, size_bytes: int) -> None:
        assert self.limit is not None
        with self._lock:
            now = time.monotonic()
            begin = max(now, self._free_at)  # what was not used before is not saved up
            self._free_at = begin + size_bytes / self.limit
        time.sleep(begin - now)


UNLIMITED = Rate(None)
