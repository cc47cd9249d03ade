"""A file read from its disk in large pieces, several on their way at once, past the page cache where that can be had.

So reading a version pushes out neither the data set nor the trainer's memory. Knows bytes; not what they mean.
"""

import fcntl
import mmap
import os
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from types import TracebackType

from everstep.errors import DamageFound
from everstep.versions.fsops import DIRECT, NOT_OFFERED

PIECE_BYTES = 8 << 20
BUFFERS, READERS = 6, 4  # one buffer is looked at, the others are full or being filled
BLOCK_BYTES = 4096  # a multiple of every block size


class EndOfFile(DamageFound):
    """There are no more bytes."""


class Uncached:
    """An open file whose bytes go from the disk into memory of our own, and nowhere else."""

    def __init__(self, path: Path) -> None:
        self._descriptor, self._is_direct = _open(path)
        self.size_bytes = os.fstat(self._descriptor).st_size
        self._begin = 0

    def close(self) -> None:
        os.close(self._descriptor)

    def places(self, begin: int) -> range:
        """Where the pieces lie that hold all from a place on."""
        return range(begin // BLOCK_BYTES * BLOCK_BYTES, self.size_bytes, PIECE_BYTES)

    def read_piece(self, buffer: memoryview, place: int) -> memoryview:
        """Fill a buffer with the piece at a place; shorter where the file ends. Raises: DamageFound; OSError."""
        return self._fill(buffer, place, min(PIECE_BYTES, self.size_bytes - place))

    def read(self, size_bytes: int) -> bytes:
        """The next bytes from the beginning on, as a file gives them: what stands before the pieces."""
        begin, self._begin = self._begin, min(self._begin + size_bytes, self.size_bytes)
        place = begin // BLOCK_BYTES * BLOCK_BYTES
        buffer = memoryview(mmap.mmap(-1, max(1, whole_blocks(self._begin - place))))
        return bytes(self._fill(buffer, place, self._begin - place)[begin - place :])

    def _fill(self, buffer: memoryview, place: int, wanted: int) -> memoryview:
        filled, may_drop = 0, True
        while filled < wanted:
            try:
                count = os.preadv(self._descriptor, [buffer[filled : whole_blocks(wanted)]], place + filled)
            except OSError as error:
                # Some file systems take the flag and then refuse to read, or do so after a short read.
                if error.errno not in NOT_OFFERED or not may_drop:
                    raise
                may_drop = False
                self._go_through_cache()
                continue
            if not count:
                raise EndOfFile("is cut short")
            filled = min(filled + count, wanted)
        if not self._is_direct and hasattr(os, "posix_fadvise"):
            os.posix_fadvise(self._descriptor, place, wanted, os.POSIX_FADV_DONTNEED)
        return buffer[:wanted]

    def _go_through_cache(self) -> None:
        flags = fcntl.fcntl(self._descriptor, fcntl.F_GETFL)
        fcntl.fcntl(self._descriptor, fcntl.F_SETFL, flags & ~DIRECT)
        self._is_direct = False


class Ahead:
    """A file from its beginning on. What was handed out is good until the next is taken."""

    def __init__(self, path: Path) -> None:
        self._file = Uncached(path)
        self.size_bytes = self._file.size_bytes
        places = self._file.places(0)
        self._places = iter(places)
        self._readers = ThreadPoolExecutor(READERS, "everstep-read") if len(places) > 1 else None
        self._coming = deque[Callable[[], memoryview]]()
        self._spent: memoryview | None = None
        self._rest = memoryview(b"")
        for _ in places[:BUFFERS]:
            self._ask(new_buffer(self.size_bytes))

    def __enter__(self) -> "Ahead":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._readers is not None:
            self._readers.shutdown(cancel_futures=True)
        self._file.close()

    def take(self, most_bytes: int) -> memoryview:
        """The next bytes, at least one. Raises: EndOfFile, which is DamageFound; OSError as the system gave it."""
        if not self._rest:
            if self._spent is not None:
                self._ask(self._spent)
            if not self._coming:
                raise EndOfFile("is cut short")
            self._rest = self._spent = self._coming.popleft()()
        piece, self._rest = self._rest[:most_bytes], self._rest[most_bytes:]
        return piece

    def pieces(self, size_bytes: int) -> Iterator[memoryview]:
        """The next bytes, so many of them. Raises: as take."""
        while size_bytes:
            piece = self.take(size_bytes)
            size_bytes -= piece.nbytes
            yield piece

    def read(self, size_bytes: int) -> bytes:
        """The next bytes as a file gives them: fewer where it ends."""
        found = bytearray()
        try:
            for piece in self.pieces(size_bytes):
                found += piece
        except EndOfFile:
            pass
        return bytes(found)

    def _ask(self, buffer: memoryview) -> None:
        """Have the buffer filled with the next piece, if there is one."""
        place = next(self._places, None)
        if place is None:
            return
        read = partial(self._file.read_piece, buffer, place)
        self._coming.append(read if self._readers is None else self._readers.submit(read).result)


def new_buffer(file_bytes: int) -> memoryview:
    """For a piece of a file of this size: on a page, and whole blocks long."""
    return memoryview(mmap.mmap(-1, min(PIECE_BYTES, whole_blocks(file_bytes))))


def whole_blocks(size_bytes: int) -> int:
    return -(-size_bytes // BLOCK_BYTES) * BLOCK_BYTES


def _open(path: Path) -> tuple[int, bool]:
    try:
        return os.open(path, os.O_RDONLY | os.O_CLOEXEC | DIRECT), bool(DIRECT)
    except OSError as error:
        if error.errno not in NOT_OFFERED:
            raise
        return os.open(path, os.O_RDONLY | os.O_CLOEXEC), False
