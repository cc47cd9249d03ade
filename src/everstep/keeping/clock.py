"""When versions are due whose interval is found by itself: what they cost here, measured while training runs.

What a version costs is all by which training comes later for its sake: what it waits for the copy, what is measured and
drawn at the version, and by how much steps are slower until the disk has it. Knows nothing of what is trained.
"""

import statistics
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from everstep.contracts import Report
from everstep.keeping.claims import Making
from everstep.keeping.intervals import Cost, Economy, Interval, version_interval
from everstep.versions import Version

RECENT = 5  # versions that are gone by; one that a machine was busy beside, or slept in, does not decide
QUIET_STEPS, FEWEST = 64, 3  # without a version on its way, to know how long steps are
ASLEEP = 10  # times as long as others: a step within which the machine slept tells nothing of steps
TOLD_AGAIN = 1.5  # by which factor the interval has changed before it is said again


class Clock:
    """The interval of one training: as it was set, or found anew after each version."""

    def __init__(
        self, economy: Economy | None, report: Report, size_bytes: int | None = None, set_s: float | None = None
    ) -> None:
        """
        Args:
            economy: what is weighed; None where nothing is found.
            size_bytes: of the version that the training goes on from.
            set_s: the interval where it is not found, if time decides at all.
        """
        self._economy, self._report, self._size_bytes, self._set_s = economy, report, size_bytes, set_s
        self._quiet_s = deque[float](maxlen=QUIET_STEPS)
        self._costs_s, self._commits_s = deque[float](maxlen=RECENT), deque[float](maxlen=RECENT)
        self._open, self._owed_s = 0, 0.0  # versions on their way since steps were quiet, and what they cost so far
        self._stepped_at: float | None = None
        self._waited_s = 0.0  # since the last step
        self._said_s: float | None = None
        self.interval: Interval | None = None  # that was found
        self._find()

    @classmethod
    def of(cls, making: Making, last: Version | None) -> "Clock":
        """For versions that are made so, going on from that one."""
        return cls(making.economy, making.report, None if last is None else last.size_bytes, making.every_s)

    @property
    def every_s(self) -> float | None:
        """None where steps alone decide."""
        return self._set_s if self.interval is None else self.interval.seconds

    def left_s(self, since: float) -> float | None:
        """Seconds to the version that time decides on; steps may bring one sooner.

        Args:
            since: when the last one was made, by time.monotonic.
        """
        return None if self.every_s is None else max(0.0, self.every_s - (time.monotonic() - since))

    def told(self, since: float) -> dict[str, Any]:
        """For other shells, as `LiveStatus` has it."""
        found = self.interval
        return {
            "next_version_in_s": self.left_s(since),
            "versions_every_s": None if found is None else found.seconds,
            "versions_why": None if found is None else found.why,
        }

    # --- what it costs -------------------------------------------------------------------------------------

    def stepped(self, is_busy: bool) -> None:
        """A step has been made; asked once after every one.

        Args:
            is_busy: whether a version is on its way now.
        """
        now = time.perf_counter()
        if self._stepped_at is not None:
            # A version that was on its way when the step began is counted, though the disk has it now.
            self._count(now - self._stepped_at - self._waited_s, is_busy or self._open > 0)
        self._stepped_at, self._waited_s = now, 0.0
        if self._open and not is_busy:
            self._close()

    @contextmanager
    def waiting(self, makes: bool = False, is_cost: bool = True) -> Iterator[None]:
        """Training waits meanwhile.

        Args:
            makes: for a version that the clock asked for.
            is_cost: it is such a version's; not one's that somebody asked for.
        """
        began = time.perf_counter()
        try:
            yield
            self._open += makes
        finally:
            waited_s = time.perf_counter() - began
            self._waited_s += waited_s
            self._owed_s += waited_s if is_cost else 0.0

    def committed(self, size_bytes: int, seconds: float | None) -> None:
        """The disk has a version."""
        self._size_bytes = size_bytes
        if seconds is not None:
            self._commits_s.append(seconds)
        self._find()

    def _count(self, step_s: float, is_busy: bool) -> None:
        """Against the mean, and not the median, of quiet steps: few long ones are as many in busy times."""
        if not is_busy:
            if len(self._quiet_s) < FEWEST or step_s < ASLEEP * statistics.median(self._quiet_s):
                self._quiet_s.append(step_s)
        elif len(self._quiet_s) >= FEWEST:
            self._owed_s += step_s - statistics.fmean(self._quiet_s)

    def _close(self) -> None:
        self._costs_s.append(max(0.0, self._owed_s / self._open))
        self._open, self._owed_s = 0, 0.0
        self._find()
        self._say()

    def _cost(self) -> Cost:
        training_s = statistics.median(self._costs_s) if self._costs_s else None
        commit_s = statistics.median(self._commits_s) if self._commits_s else None
        return Cost(training_s, commit_s, self._size_bytes)

    def _find(self) -> None:
        if self._economy is not None:
            self.interval = version_interval(self._economy, self._cost())

    def _say(self) -> None:
        if self.interval is None:
            return
        now_s, said_s = self.interval.seconds, self._said_s
        if said_s is None or not 1 / TOLD_AGAIN < now_s / said_s < TOLD_AGAIN:
            self._said_s = now_s
            self._report(f"Versions {self.interval.sentence}.")
