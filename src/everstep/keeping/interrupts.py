"""Signals to a program that is kept: within its steps they wait for the end of the one that is being made.

Elsewhere, and where the program has plans of its own for them, they do what they always did. Imports no torch.
"""

import contextlib
import os
import signal
import threading
import time
from types import FrameType
from typing import Any

from everstep.contracts import Report
from everstep.keeping.signals import MOMENT_S, SAVE

# Of a notebook or terminal; of service managers and schedulers; of a terminal that closes.
USUAL = {signal.SIGINT: signal.default_int_handler, signal.SIGTERM: signal.SIG_DFL, signal.SIGHUP: signal.SIG_DFL}


class Interrupts:
    """Notes the signals that ask to stop, or to save, from `listen` to `close`."""

    def __init__(self, report: Report) -> None:
        self._report = report
        self._replaced: dict[signal.Signals, Any] = {}
        self._asked_at = 0.0
        self.asked: str | None = None  # the first signal within a step
        self.is_stepping = False
        self.is_warned = False  # by a scheduler, which warns every process of a job; until somebody has acted on it

    def listen(self) -> None:
        """Only the main thread of a program hears signals."""
        if threading.current_thread() is not threading.main_thread():
            return
        for number, usual in USUAL.items():
            if signal.getsignal(number) == usual:
                self._replaced[number] = signal.signal(number, self._note)
        for number in SAVE:
            if signal.getsignal(number) == signal.SIG_DFL:
                self._replaced[number] = signal.signal(number, self._warn)

    def close(self) -> None:
        for number, before in self._replaced.items():
            signal.signal(number, before)
        self._replaced.clear()

    def _note(self, number: int, frame: FrameType | None) -> None:
        if not self.is_stepping:
            self._leave(number, frame)
        elif self.asked is None:
            self.asked, self._asked_at = signal.Signals(number).name, time.monotonic()
            with contextlib.suppress(RuntimeError):  # it may come while something is being printed
                self._report(f"{self.asked}: finishing this step and committing it. Once more leaves at once.")
        elif time.monotonic() - self._asked_at > MOMENT_S and number != signal.SIGHUP:
            self._leave(number, frame)

    def _warn(self, number: int, frame: FrameType | None) -> None:
        self.is_warned = True

    def _leave(self, number: int, frame: FrameType | None) -> None:
        """As if nobody had listened."""
        if number == signal.SIGINT:
            raise KeyboardInterrupt
        signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)
