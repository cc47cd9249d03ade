"""What training says of its versions, their loss and the label that was asked for: written when the disk takes it."""

from collections import deque
from typing import Any

from everstep.contracts import Report
from everstep.telling import Told
from everstep.versions import write_annotation
from everstep.versions.layout import RunLayout


class Notes:
    """Notes on versions, in order; those that a disk refuses wait in memory. They are few, one for each version."""

    def __init__(self, layout: RunLayout, report: Report) -> None:
        self._layout, self._told = layout, Told("Writing notes on versions", report)
        self._waiting = deque[tuple[int, dict[str, Any]]]()

    def add(self, number: int, **changes: Any) -> None:
        """Note it, and what could not be noted before; never raises."""
        if changes:
            self._waiting.append((number, changes))
        while self._waiting and self._told.attempt(self._write_oldest):
            self._waiting.popleft()

    def _write_oldest(self) -> None:
        number, changes = self._waiting[0]
        write_annotation(self._layout, number, **changes)
