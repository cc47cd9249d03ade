"""Stopping: the first signal asks; without a keeper, the second leaves at once.

A thread reads signals from a pipe that the C handler fills, so that the second one counts even while the main thread
is inside a long kernel or an fsync. Under a keeper all signals are its own to judge: a service manager sends them to
both at once, and one that reaches the trainer alone asks it to stop, however often it is sent.
"""

import os
import signal
import sys
import threading
import time
from contextlib import suppress
from types import FrameType, TracebackType

from everstep.contracts import Report
from everstep.errors import ExitCode
from everstep.keeping.signals import AGAIN, MOMENT_S, STOP


class StopSignals:
    """While entered, a signal sets `received`; a second one, where nobody keeps us, ends the process with code 3."""

    def __init__(self, announce: Report, is_kept: bool = False) -> None:
        self.received: str | None = None
        self._announce, self._is_kept = announce, is_kept
        self._read_fd, self._write_fd = os.pipe()
        os.set_blocking(self._write_fd, False)

    def __enter__(self) -> "StopSignals":
        heard = [number for number in STOP if signal.getsignal(number) is not signal.SIG_IGN]
        self._previous = {number: signal.signal(number, self._handle) for number in heard}
        self._previous_fd = signal.set_wakeup_fd(self._write_fd, warn_on_full_buffer=False)
        self._thread = threading.Thread(target=self._watch, name="everstep-signals", daemon=True)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        signal.set_wakeup_fd(self._previous_fd)
        if self.received is None and not self._is_kept:
            for number, handler in self._previous.items():
                signal.signal(number, handler)
        # Else the process is leaving: a signal that comes again now must not change how it ends.
        os.close(self._write_fd)
        self._thread.join()
        os.close(self._read_fd)

    def ask(self, name: str) -> None:
        """The keeper passes a signal on."""
        self.received = self.received or name

    def _handle(self, number: int, frame: FrameType | None) -> None:
        """In the main thread, between two of its instructions."""
        self.ask(signal.Signals(number).name)

    def _watch(self) -> None:
        """In a thread of its own, at once: C's handler writes the signal's number into the pipe."""
        first = None
        while byte := os.read(self._read_fd, 1):
            number, now = byte[0], time.monotonic()
            if number not in STOP:
                continue
            self.ask(signal.Signals(number).name)
            if first is None:
                first = now
                if not self._is_kept:
                    self._announce(f"{self.received}: finishing this step and committing it. Once more leaves at once.")
            elif number in AGAIN and now - first > MOMENT_S and not self._is_kept:
                self._leave(signal.Signals(number).name)

    @staticmethod
    def _leave(name: str) -> None:
        with suppress(OSError, ValueError):
            sys.stderr.write(f"\n{name} again: leaving now. The last version is whole.\n")
            sys.stderr.flush()
        os._exit(ExitCode.STOPPED)
