"""How fast training goes: images per second over the last while, commits and samples left out."""

import contextlib
import time
from collections import deque
from collections.abc import Iterator

WINDOW_S = 60.0


class Rate:
    """Images per second over a sliding minute of training time."""

    def __init__(self) -> None:
        self._marks: deque[tuple[float, int]] = deque()
        self._paused_s = 0.0

    def start(self, images_seen: int) -> None:
        self._marks.clear()
        self._marks.append((self._now(), images_seen))

    def images_per_second(self, images_seen: int) -> float | None:
        """None until there is something to measure."""
        now = self._now()
        self._marks.append((now, images_seen))
        while len(self._marks) > 2 and now - self._marks[0][0] > WINDOW_S:
            self._marks.popleft()
        began, before = self._marks[0]
        return (images_seen - before) / (now - began) if now > began and images_seen > before else None

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Time inside does not count as training."""
        began = time.monotonic()
        try:
            yield
        finally:
            self._paused_s += time.monotonic() - began

    def _now(self) -> float:
        return time.monotonic() - self._paused_s
