"""Stopping: the first signal asks, the second leaves at once.

A thread reads signals from a pipe that the C handler fills, so that the second one counts even while the main thread
is inside a long kernel or an fsync.
"""

import os
import signal
import sys
import threading
from collections.abc import Callable
from types import FrameType, TracebackType

from everstep.errors import ExitCode

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class StopSignals:
    """While entered, SIGINT and SIGTERM set `received`; a second one ends the process with exit code 3."""

    def __init__(self, announce: Callable[[str], None]) -> None:
        self.received: str | None = None
        self._announce = announce
        self._read_fd, self._write_fd = os.pipe()
        os.set_blocking(self._write_fd, False)

    def __enter__(self) -> "StopSignals":
        self._previous = {number: signal.signal(number, self._handle) for number in SIGNALS}
        self._previous_fd = signal.set_wakeup_fd(self._write_fd, warn_on_full_buffer=False)
        self._thread = threading.Thread(target=self._watch, name="everstep-signals", daemon=True)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        signal.set_wakeup_fd(self._previous_fd)
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        os.close(self._write_fd)
        self._thread.join()
        os.close(self._read_fd)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        """In the main thread, between two of its instructions."""
        self.received = self.received or signal.Signals(number).name

    def _watch(self) -> None:
        """In a thread of its own, at once: C's handler writes the signal's number into the pipe."""
        count = 0
        while byte := os.read(self._read_fd, 1):
            if byte[0] in SIGNALS:
                count += 1
                self._arrived(signal.Signals(byte[0]).name, count)

    def _arrived(self, name: str, count: int) -> None:
        self.received = self.received or name
        if count == 1:
            self._announce(f"{name}: finishing this step and committing it. Once more leaves at once.")
            return
        sys.stderr.write(f"\n{name} again: leaving now. The last version is whole.\n")
        sys.stderr.flush()
        os._exit(ExitCode.STOPPED)
