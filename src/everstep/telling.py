"""Telling whoever looks on: what cannot be told is dropped and counted, and never ends what is trained.

Owns how the program writes to its standard streams, and how it attempts what is only told. Knows nothing of what is
told, and never raises because of it.
"""

import contextlib
import errno
import io
import os
import select
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any, TextIO

NOBODY_READS = (errno.EPIPE, errno.EIO)  # the pipe is closed, the terminal is gone
STALL_MS = 1000  # what a descriptor that never blocks gets to take more
DEAR = 20  # an attempt that took long is made again after so many times as long: 5 % of all time at most


class Outlet(io.TextIOBase):
    """Stands for a text stream and never raises: lines that it does not take are counted, and said once it does again.

    Writes whole lines past the stream's own buffer, so that nothing is left in it that would be written twice, late, or
    when the interpreter ends.
    """

    def __init__(self, stream: TextIO | None) -> None:
        self._stream = stream  # None where the program was started without it
        self._begun = threading.local()  # the line that a thread is at; no lock, which a fork could leave locked
        self._lost, self._is_torn = 0, False
        self.refused: Exception | None = None  # why the last line was not taken, if it was not
        with contextlib.suppress(OSError, ValueError, AttributeError):
            stream.flush()  # type: ignore[union-attr]  # what was written before comes before

    @classmethod
    def of(cls, stream: TextIO | None) -> "Outlet":
        """The stream itself where it is one already."""
        return stream if isinstance(stream, cls) else cls(stream)

    def write(self, text: str, /) -> int:
        """Lets out what it has as soon as a line is whole."""
        self._begun.text = getattr(self._begun, "text", "") + text
        if "\n" in text:
            self.flush()
        return len(text)

    def flush(self) -> None:
        text, self._begun.text = getattr(self._begun, "text", ""), ""
        if not text:
            return
        before = ("\n" if self._is_torn else "") + (_were_lost(self._lost) if self._lost else "")
        head, body = self._encoded(before), self._encoded(text)
        data = head + body
        written = self._put(data)
        if written < len(head):
            self._lost += _lines(body)
        else:
            self._lost = _lines(data[written:])
        if written:
            self._is_torn = written < len(data) and data[written - 1 : written] != b"\n"

    def _put(self, data: bytes) -> int:
        """Returns how many bytes were taken."""
        written = 0
        if self._stream is None:
            self.refused = OSError(errno.EBADF, os.strerror(errno.EBADF))
            return 0
        try:
            descriptor = self._descriptor()
            if descriptor is None:
                self._stream.write(data.decode(self.encoding))
                self._stream.flush()
                written = len(data)
            while written < len(data):
                written += _write(descriptor, data[written:])  # type: ignore[arg-type]
            self.refused = None
        except (OSError, ValueError) as error:  # ValueError: it was closed
            self.refused = error
        return written

    def _descriptor(self) -> int | None:
        """None for what is no file, and where a console takes letters instead of bytes."""
        if os.name == "nt":
            return None
        try:
            return self._stream.fileno()  # type: ignore[union-attr]
        except (OSError, ValueError, AttributeError):
            return None

    def _encoded(self, text: str) -> bytes:
        """A letter that the encoding lacks becomes a question mark: LANG=C, half an emoji in a name."""
        return text.encode(self.encoding, "replace")

    @property
    def encoding(self) -> str:  # type: ignore[override]
        return getattr(self._stream, "encoding", None) or "utf-8"

    @property
    def errors(self) -> str:  # type: ignore[override]
        return "replace"

    def fileno(self) -> int:
        if self._stream is None:
            raise io.UnsupportedOperation("fileno")
        return self._stream.fileno()

    def isatty(self) -> bool:
        try:
            return self._stream is not None and self._stream.isatty()
        except ValueError:  # it was closed
            return False

    def writable(self) -> bool:
        return True

    def close(self) -> None:
        """The stream is not ours to close."""

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


class Told:
    """Attempts what is only told; says once that it fails, and once that it works again."""

    def __init__(self, name: str, report: Callable[[str], None], retry_s: float = 0.0) -> None:
        """
        Args:
            name: of what is told, as it begins a sentence.
            report: a contracts.Report, which never raises.
            retry_s: after a failure, attempts sooner than this are left out.
        """
        self._name, self._report, self._retry_s = name, report, retry_s
        self._again_at = 0.0
        self.is_failing = False

    def attempt(self, act: Callable[[], object], at_once: bool = False) -> bool:
        """Do it, unless it failed a moment ago and need not be done at once. Returns whether it was; never raises."""
        began = time.monotonic()
        if self.is_failing and began < self._again_at and not at_once:
            return False
        try:
            act()
        except Exception as error:  # whatever it raises, what is trained is worth more
            now = time.monotonic()
            self._again_at = now + max(self._retry_s, DEAR * (now - began))
            if not self.is_failing:
                self.is_failing = True
                self._report(f"{self._name} failed ({why(error)}); training goes on without it, and it is tried again.")
            return False
        if self.is_failing:
            self.is_failing = False
            self._report(f"{self._name}: works again.")
        return True


@contextlib.contextmanager
def untold(
    what: str, unit: str = "", count: Callable[[int], str] = "{:,}".format
) -> Iterator[Callable[[int, int], None]]:
    """A contracts.During where nobody looks on."""
    yield lambda done, total: None


def why(error: Exception) -> str:
    """What an error says, on one line."""
    return " ".join(str(error).split()) or type(error).__name__


def occupy_standard_descriptors() -> None:
    """Give those that the program was started without to /dev/null: the next file opened would get their number, and
    whatever is printed would be written into it."""
    for descriptor in (0, 1, 2):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # gets the lowest number that is free


def part_from_broken_streams(*streams: TextIO | None) -> None:
    """Let nothing be left that the interpreter would fail to write when it ends: it would make the exit code 120."""
    for stream in streams:
        try:
            if stream is not None:
                stream.flush()
        except (OSError, ValueError):
            with contextlib.suppress(OSError, ValueError):
                null = os.open(os.devnull, os.O_WRONLY)
                os.dup2(null, stream.fileno())  # type: ignore[union-attr]
                os.close(null)


def _write(descriptor: int, data: bytes) -> int:
    try:
        return os.write(descriptor, data)
    except BlockingIOError:  # whoever shares the descriptor made it so that it never blocks
        waiting = select.poll()
        waiting.register(descriptor, select.POLLOUT)
        if not waiting.poll(STALL_MS):
            raise
        return os.write(descriptor, data)


def _were_lost(count: int) -> str:
    return f"{count:,} {'line' if count == 1 else 'lines'} could not be written meanwhile.\n"


def _lines(data: bytes) -> int:
    return max(1, data.count(b"\n")) if data else 0
