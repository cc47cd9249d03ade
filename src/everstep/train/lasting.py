"""What takes long, in words while it does: nothing for two seconds, then what it is, how much is done, for how long.

A thread keeps the time, so that it is said while one computation goes on. Never raises.
"""

import contextlib
import threading
import time
from collections.abc import Callable

from everstep.units import duration

TERMINAL_PERIOD_S, PLAIN_PERIOD_S = 0.5, 15.0
QUIET_S = 2.0  # what takes no longer is not worth a word
LEFT_AFTER_S = 4.0  # an estimate from less is no estimate


class Lasting:
    """One thing that is being done, and the thread that says so."""

    def __init__(
        self, what: str, unit: str, count: Callable[[int], str], show: Callable[["Lasting"], bool], period_s: float
    ) -> None:
        """
        Args:
            count: a number of what is counted, in words.
            show: says it, and returns whether it did; called from the thread, once it is long, then at every period.
        """
        self.what, self._unit, self._count, self._show, self._period_s = what, unit, count, show, period_s
        self._began = time.monotonic()
        self._first: tuple[float, int] | None = None  # when counting began, and at what
        self._done: tuple[int, int] | None = None
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._tell, name="everstep-lasting", daemon=True)
        self.was_shown = False

    def begin(self) -> None:
        with contextlib.suppress(RuntimeError):  # no more threads are to be had: it is done all the same
            self._thread.start()

    def end(self) -> None:
        """The thread is over when this returns: a fork that came now would take its locks along."""
        self._is_over.set()
        if self._thread.ident is not None:
            self._thread.join()

    def said(self, done: int, total: int) -> None:
        """So much of so much is done. Safe to call from threads, and as often as one likes."""
        if self._first is None:
            self._first = (time.monotonic(), done)
        self._done = (done, total)

    @property
    def share_done(self) -> float | None:
        """0..1, where it can be counted."""
        return None if self._done is None or not self._done[1] else min(1.0, self._done[0] / self._done[1])

    @property
    def took_s(self) -> float:
        return time.monotonic() - self._began

    def text(self) -> str:
        """Checking the pairs: 1,200 of 12,000 · 12 s · about 2 min 00 s left."""
        parts, left_s = [], self._left_s()
        if self._done is not None:
            done, total = map(self._count, self._done)
            parts.append(f"{done} of {total}{f' {self._unit}' if self._unit else ''}")
        parts.append(duration(self.took_s))
        if left_s is not None:
            parts.append(f"about {duration(left_s)} left")
        return f"{self.what}: {' · '.join(parts)}"

    def _left_s(self) -> float | None:
        """As long as the rest takes at the pace since counting began: what was known before took no time."""
        if self._first is None or self._done is None:
            return None
        (began, before), (done, total) = self._first, self._done
        took_s = time.monotonic() - began
        return took_s * (total - done) / (done - before) if done > before and took_s > LEFT_AFTER_S else None

    def _tell(self) -> None:
        wait_s = QUIET_S
        while not self._is_over.wait(wait_s):
            wait_s = self._period_s
            with contextlib.suppress(Exception):
                self.was_shown |= self._show(self)
