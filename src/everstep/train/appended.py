"""Files that whole records are added to, and lines that wait in memory while the disk does not take them.

Knows nothing of what is in a record. A disk that fails costs no training: what it took of a record is cut off again.
"""

import contextlib
import os
from collections import deque
from pathlib import Path

from everstep.contracts import Report
from everstep.telling import Told

LINES_AT_ONCE = 1000  # so that a disk with little room takes some
MOST_WAITING_LINES = 100_000  # some 20 MB
RETRY_S = 5.0


class AppendedFile:
    """Ends with a whole record, whatever the disk does. One process writes it."""

    def __init__(self, path: Path, size_bytes: int | None = None) -> None:
        """
        Args:
            size_bytes: what is behind is the rest of a record that a crash cut, and goes; None keeps all.
        """
        self._path, self._size_bytes = path, size_bytes
        self._descriptor: int | None = None

    def append(self, record: bytes) -> None:
        """Raises: OSError; nothing of the record is in the file then, or will be when the next one is added."""
        try:
            descriptor = self._open()
            left = memoryview(record)
            while left:
                left = left[os.write(descriptor, left) :]
        except OSError:
            self._let_go()
            raise
        self._size_bytes = (self._size_bytes or 0) + len(record)

    def close(self) -> None:
        """Raises: OSError if what was written did not reach the disk, as network disks say only now."""
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is not None:
            os.close(descriptor)

    def _open(self) -> int:
        if self._descriptor is None:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
            self._descriptor = os.open(self._path, flags, 0o666)
            there = os.fstat(self._descriptor).st_size
            if self._size_bytes is not None and there > self._size_bytes:
                os.ftruncate(self._descriptor, self._size_bytes)
            else:
                self._size_bytes = there
        return self._descriptor

    def _let_go(self) -> None:
        """Cut off half a record, and open the file anew for the next: a network disk may have forgotten this one."""
        if self._descriptor is None:
            return
        with contextlib.suppress(OSError):  # then it is cut off when the file is opened again
            os.ftruncate(self._descriptor, self._size_bytes or 0)
        with contextlib.suppress(OSError):
            self.close()


class WaitingLines:
    """Lines for a file: written when the disk takes them, in order; until then in memory, the newest of them."""

    def __init__(self, file: AppendedFile, name: str, report: Report, most: int = MOST_WAITING_LINES) -> None:
        self._file, self._name, self._report = file, name, report
        self._told = Told(f"Writing {name}", report, RETRY_S)
        self._waiting, self._most, self._dropped = deque[str](), most, 0

    def add(self, line: str) -> None:
        """Without its end."""
        self._waiting.append(line)
        if len(self._waiting) <= self._most:
            return
        self._waiting.popleft()
        if self._dropped == 0:
            self._report(f"{self._name}: {self._most:,} lines wait for the disk; the oldest are dropped from now on.")
        self._dropped += 1

    def write(self, at_once: bool = False) -> None:
        """Whatever waits, unless the disk refused it a moment ago; never raises."""
        while self._waiting:
            lines = [self._waiting[i] for i in range(min(LINES_AT_ONCE, len(self._waiting)))]
            record = "".join(f"{line}\n" for line in lines).encode()
            if not self._told.attempt(lambda record=record: self._file.append(record), at_once):  # type: ignore[misc]
                return
            for _ in lines:
                self._waiting.popleft()
        if self._dropped:
            self._report(f"{self._name}: {self._dropped:,} lines were dropped meanwhile.")
            self._dropped = 0

    def close(self) -> None:
        """Try once more."""
        self.write(at_once=True)
        if self._waiting:
            self._report(f"{self._name}: {len(self._waiting):,} more lines could not be written.")
            with contextlib.suppress(OSError):
                self._file.close()
        else:
            self._told.attempt(self._file.close, at_once=True)
