"""A trainer that makes no step: noticed once, told with the place where it is, and left alone."""

import contextlib
import time
from pathlib import Path

from everstep.contracts import Report
from everstep.keeping import stacks
from everstep.keeping.arena import Arena
from everstep.keeping.child import Child
from everstep.units import duration

ANSWERS_S = 5.0  # how soon a trainer writes its stacks, if anything in it can move


class Hangs:
    """Of one training, over as many trainers as it takes."""

    def __init__(self, minutes: float, records: Path, report: Report) -> None:
        """
        Args:
            minutes: without a step, after which it hangs.
            records: the folder of its stacks.
        """
        self._patience_s, self._stacks, self._report = 60 * minutes, records / stacks.NAME, report
        self._is_told = False
        self._asked_at: float | None = None  # while no answer is there
        self._before = 0  # bytes of stacks, then

    def has_begun(self, arena: Arena, child: Child, quiet_since: float) -> bool:
        """Whether it hangs since this look.

        Args:
            quiet_since: when it was paused last, or started, on the clock of `time.monotonic`.
        """
        age_s, step = arena.heartbeat()
        if min(age_s, time.monotonic() - quiet_since) < self._patience_s:
            self._is_told, self._asked_at = False, None
            return False
        if self._is_told:
            self._ask_again(child)
            return False
        self._is_told = True
        where = f"It is process {child.pid}, and is left alone."
        if child.hears_signals:  # a program of somebody's own knows none of ours, which would end it
            self._before, self._asked_at = self._written(), time.monotonic()
            child.signal(stacks.ASKED)
            where = f"Where the trainer is: {self._stacks}"
        self._report(f"No step for {duration(age_s)}, since step {step:,}. {where}")
        return True

    def _ask_again(self, child: Child) -> None:
        """Where nothing was written: something hangs with the interpreter's lock."""
        if self._asked_at is None or time.monotonic() < self._asked_at + ANSWERS_S:
            return
        self._asked_at = None
        if self._written() == self._before:
            child.signal(stacks.ASKED_AGAIN)

    def _written(self) -> int:
        with contextlib.suppress(OSError):
            return self._stacks.stat().st_size
        return 0
