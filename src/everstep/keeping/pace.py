"""How often snapshots are taken, and in which of two ways: by what they cost here, measured while training runs."""

import math
import statistics
import time
from collections import deque
from dataclasses import dataclass

from everstep.keeping.intervals import snapshot_interval
from everstep.keeping.settings import Settings

TRIALS = 3  # of each way to copy, before one is chosen
RECENT = 5
FIRST_STEPS = 3  # without a snapshot, to know how long a step is
LONGEST_INTERVAL = 1000


@dataclass(slots=True)
class Cost:
    """What one snapshot took of the training, in seconds: waiting, and processor time of the second thread."""

    mode: str
    stall_s: float = 0.0
    beside_s: float = 0.0

    @property
    def total_s(self) -> float:
        return self.stall_s + self.beside_s


class Pace:
    """Decides from the costs so far. Modes: blocking copies while training waits, background during the next pass."""

    def __init__(self, settings: Settings, modes: tuple[str, ...]) -> None:
        """
        Args:
            modes: the ways that can be taken here; where there are two, each is tried and the cheaper one stays.
        """
        self._settings, self._modes, self.mode = settings, modes, modes[0]
        self._costs: list[Cost] = []
        self._steps_s: deque[float] = deque(maxlen=31)
        self._stepped_at: float | None = None

    def begin(self) -> Cost:
        """A snapshot begins; the step that it falls into says nothing of how long steps are."""
        self._stepped_at = None
        self._costs.append(Cost(self.mode))
        return self._costs[-1]

    def ended(self) -> None:
        """The newest snapshot is sealed: its cost is whole."""
        tried = {mode: [cost.total_s for cost in self._costs if cost.mode == mode] for mode in self._modes}
        missing = [mode for mode in self._modes if len(tried[mode]) < TRIALS]
        if missing:
            self.mode = missing[0]
        elif len(self._costs) == TRIALS * len(self._modes):
            self.mode = min(tried, key=lambda mode: statistics.median(tried[mode]))

    def only(self, mode: str) -> None:
        """Nothing but this way from now on."""
        self._modes, self.mode = (mode,), mode

    def is_due(self, steps_since: int) -> bool:
        """Whether to take one now; asked once after every step."""
        now = time.perf_counter()
        if self._stepped_at is not None:
            self._steps_s.append(now - self._stepped_at)
        self._stepped_at = now
        every = self._settings.snapshots
        return every != "off" and steps_since >= (self.interval if every == "auto" else every)

    @property
    def interval(self) -> int:
        """Steps between automatic snapshots: as few as the stated overhead allows, once steps were measured; more where
        it is known how often trainers die, and fewer copies cost less in all.
        """
        if len(self._steps_s) < FIRST_STEPS:
            return LONGEST_INTERVAL
        if not self._costs:
            return 1
        cost_s = statistics.median(cost.total_s for cost in self._costs[-RECENT:])
        step_s, deaths_s = statistics.median(self._steps_s), self._settings.deaths_s
        steps = math.ceil(cost_s / (self._settings.overhead * step_s))
        if deaths_s is not None:
            steps = max(steps, round(snapshot_interval(cost_s, deaths_s) / step_s))
        return min(LONGEST_INTERVAL, max(1, steps))
