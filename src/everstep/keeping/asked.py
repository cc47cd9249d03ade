"""What other shells, and the keeper, ask of a training: to save, to stop. Done once each, and answered."""

import time
from collections.abc import Callable, Iterable

from everstep.contracts import Reason
from everstep.keeping.channel import Message
from everstep.keeping.interrupts import Interrupts
from everstep.keeping.signals import MOMENT_S
from everstep.versions import Request, answer, drop_request, read_requests
from everstep.versions.layout import RunLayout

SaveAsked = Callable[[str | None], str | None]  # makes a version under a label; returns why the disk refuses it


class Asked:
    """Hears requests after every step, and remembers those that are done."""

    def __init__(self, layout: RunLayout, save: SaveAsked, is_saved: Callable[[], bool]) -> None:
        """
        Args:
            is_saved: whether the newest version is of this very step.
        """
        self._layout, self._save, self._is_saved = layout, save, is_saved
        self._heard: set[str] = set()  # a disk that keeps a request shall not have it done again and again
        self._warned_at = -MOMENT_S
        self.signal: str | None = None  # that the keeper passed on

    def by_keeper(self, messages: Iterable[Message]) -> None:
        for message in messages:
            if message["kind"] == "stop":
                self.signal = message["signal"]
            elif message["kind"] == "save":
                self._warned()

    def by_signals(self, interrupts: Interrupts) -> None:
        """What a program that is kept has heard itself."""
        self.signal = self.signal or interrupts.asked
        if interrupts.is_warned:
            interrupts.is_warned = False
            self._warned()

    def _warned(self) -> None:
        """Keeper and program hear the same warning: within a moment they are one, as are those within an evaluation."""
        now = time.monotonic()
        if now - self._warned_at > MOMENT_S and not self._is_saved():
            self._warned_at = now
            self._save(None)

    def to_stop(self) -> Reason | None:
        """The reason to stop after this step, or None to go on. What else was asked is done."""
        reason = None if self.signal is None else Reason.SIGNAL
        for request in read_requests(self._layout):
            if request.name in self._heard:
                continue
            if request.kind == "save":
                self._heard.add(request.name)
                self._answer(request, self._save(request.details.get("label")))
            elif request.kind == "stop":
                reason = reason or Reason.ASKED
        return reason

    def _answer(self, request: Request, refusal: str | None) -> None:
        if refusal is None:
            drop_request(self._layout, request)
        else:
            answer(self._layout, request, refusal)
