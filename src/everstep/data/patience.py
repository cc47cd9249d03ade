"""Pairs that cannot be read for a moment: a network disk that stutters, a file that is just being replaced.

While training, reading is tried again for a while. Whether a pair can be used at all was checked before it began.
"""

import threading
import time
from collections.abc import Callable

from everstep.contracts import Contents, Pair, PairSource, Report, Smaller, Which
from everstep.data.framing import FIRST
from everstep.errors import DataUnreadable, EverstepError, ExitCode, UserError
from everstep.units import duration

FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.1, 5.0
PATIENCE_S = 60.0
POLL_S = 0.1  # how soon a stop is heard while it waits


class StopAsked(EverstepError):
    """A stop was asked for while a pair could not be read. No step was made of what was read until then."""

    exit_code = ExitCode.STOPPED

    def __init__(self) -> None:
        super().__init__("Stopped while it waited for the data. Versions are whole.")


class PatientSource:
    """A source whose pairs are read again until they can be, or patience ends. Any threads may read at once."""

    def __init__(
        self,
        source: PairSource,
        report: Report,
        is_stopped: Callable[[], bool] = lambda: False,
        patience_s: float = PATIENCE_S,
    ) -> None:
        """
        Args:
            is_stopped: whether somebody asks the training to stop; asked while it waits.
            patience_s: for one pair, from the first time that it could not be read.
        """
        self._source, self._report, self.is_stopped, self._patience_s = source, report, is_stopped, patience_s
        self._closed = threading.Event()
        self._lock = threading.Lock()  # the two below; no fork happens while threads read
        self._waiting, self._since = 0, 0.0

    def __len__(self) -> int:
        return len(self._source)

    def name(self, pair: int) -> str:
        return self._source.name(pair)

    def fingerprint(self) -> str:
        return self._source.fingerprint()

    def contents(self, pair: int) -> Contents:
        return self._source.contents(pair)

    def is_as_checked(self, pair: int, condition: int) -> bool:
        return self._source.is_as_checked(pair, condition)

    def load(self, pair: int, which: Which = FIRST, smaller: Smaller | None = None) -> Pair:
        """Raises: DataUnreadable when patience ends; StopAsked."""
        try:
            return self._source.load(pair, which, smaller)
        except UserError as error:
            return self._again(pair, which, smaller, error)

    def close(self) -> None:
        """Whoever waits for a pair waits no longer."""
        self._closed.set()

    def _again(self, pair: int, which: Which, smaller: Smaller | None, error: UserError) -> Pair:
        began, pause_s = time.monotonic(), FIRST_PAUSE_S
        self._begin_to_wait(error)
        try:
            while True:
                self._pause(min(pause_s, max(0.0, began + self._patience_s - time.monotonic())))
                try:
                    return self._source.load(pair, which, smaller)
                except UserError as again:
                    if time.monotonic() - began >= self._patience_s:
                        raise DataUnreadable(
                            f"{again} It was tried for {duration(self._patience_s)}. Training ends here and can be "
                            "resumed once the data can be read."
                        ) from again
                pause_s = min(2 * pause_s, LONGEST_PAUSE_S)
        finally:
            self._end_waiting()

    def _pause(self, seconds: float) -> None:
        """Raises: StopAsked."""
        until = time.monotonic() + seconds
        while True:
            if self._closed.wait(max(0.0, min(POLL_S, until - time.monotonic()))) or self.is_stopped():
                raise StopAsked
            if time.monotonic() >= until:
                return

    def _begin_to_wait(self, error: UserError) -> None:
        """Said once, however many threads wait."""
        with self._lock:
            self._waiting += 1
            is_first = self._waiting == 1
            self._since = time.monotonic() if is_first else self._since
        if is_first:
            self._report(f"{error} Training waits for it, up to {duration(self._patience_s)}.")

    def _end_waiting(self) -> None:
        with self._lock:
            self._waiting -= 1
            is_last = self._waiting == 0
        if is_last and not self._closed.is_set():
            self._report(f"Waited {time.monotonic() - self._since:.1f} s for the data.")
