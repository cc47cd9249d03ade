"""How long training may be held for measuring: its share of the time trained so far, and a little to begin with.

Counts seconds and nothing else. The clock may decide when is measured, since nothing of it changes what is trained.
Never imports torch.
"""

import contextlib
import time
from collections.abc import Callable, Iterator

START_S = 10.0  # so that short trainings, and the first version of most, are measured at once


class Exceeded(Exception):
    """It is seen that a measurement takes longer than it may."""


class Allowance:
    """An account: training fills it, measuring empties it."""

    def __init__(self, share: float, clock: Callable[[], float] = time.monotonic, start_s: float = START_S) -> None:
        self.share, self._start_s = share, start_s
        self.needed_s: float | None = None  # by one measurement, as far as it is known
        self._clock, self._began = clock, clock()
        self._apart, self._spent = _Stopwatch(clock), _Stopwatch(clock)

    @property
    def left_s(self) -> float:
        """What may be spent now; below zero where a measurement took longer than was thought."""
        trained_s = self._clock() - self._began - self._apart.total_s
        return self._start_s + self.share * trained_s - self._spent.total_s

    @property
    def spent_s(self) -> float:
        """By all measurements so far."""
        return self._spent.total_s

    @property
    def is_enough(self) -> bool:
        """Whether a measurement can be begun."""
        return self.left_s >= (self.needed_s or 0.0)

    @property
    def trained_until_enough_s(self) -> float:
        """So long has to be trained until it is."""
        return max(0.0, (self.needed_s or 0.0) - self.left_s) / self.share

    def expect(self, needed_s: float, rest_s: float) -> None:
        """One measurement takes so long, and this is still to come of it. Raises: Exceeded if that is not left."""
        self.needed_s = needed_s
        if rest_s > self.left_s:
            raise Exceeded

    @contextlib.contextmanager
    def spending(self) -> Iterator[None]:
        """The time inside is spent."""
        with self.apart(), self._spent.running():
            yield

    @contextlib.contextmanager
    def apart(self) -> Iterator[None]:
        """The time inside is not trained."""
        with self._apart.running():
            yield


class _Stopwatch:
    """Adds up the time inside; what is inside of itself counts once."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock, self._before_s, self._since = clock, 0.0, list[float]()

    @property
    def total_s(self) -> float:
        return self._before_s + (self._clock() - self._since[0] if self._since else 0.0)

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        self._since.append(self._clock())
        try:
            yield
        finally:
            began = self._since.pop()
            self._before_s += 0.0 if self._since else self._clock() - began
