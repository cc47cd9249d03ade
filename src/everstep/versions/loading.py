"""A tensor file read right into memory that is there, and verified on the way: what a resume takes.

Nothing as large as the state is allocated for it. Pieces are read ahead in a second thread, past the page cache where
the file system can, while the last one is digested and put where it belongs.
"""

import itertools
import mmap
import os
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Any

import xxhash

from everstep.errors import DamageFound
from everstep.versions.digests import ALGORITHM
from everstep.versions.fsops import DIRECT, NOT_OFFERED
from everstep.versions.tensorfile import PAGE_BYTES, TensorPlace, read_header
from everstep.versions.verify import check_header, load_digests

PIECE_BYTES = 32 << 20  # a multiple of every block size
TargetFor = Callable[[str, TensorPlace], memoryview]


def load_into(folder: Path, path: str, files: Mapping[str, Any], target_for: TargetFor) -> Iterator[str]:
    """Fill the memory that target_for gives for each tensor; yields its name once it is there and verified.

    Args:
        target_for: writable bytes, as many as the tensor has. May raise DamageFound if the tensor does not belong.

    Raises: DamageFound naming the tensor; what was filled before is then worth nothing, the file is untouched.
    """
    if path not in files:
        raise DamageFound(f"{folder.name} holds no {path}.")
    digests = load_digests(folder, files)[path]
    try:
        with (folder / path).open("rb", buffering=0) as file:
            header, raw = read_header(file, (folder / path).stat().st_size)
        check_header(header, raw, files[path])
        with Ahead(folder / path, header.data_start) as pieces:
            for name, place in header.tensors.items():
                found = f"{ALGORITHM}:{_fill(target_for(name, place), pieces)}"
                if found != digests[name]:
                    raise DamageFound(f"fails its digest in tensor {name}")
                yield name
    except DamageFound as damage:
        raise DamageFound(f"{folder / path} {damage}. Nothing was changed.") from None


def _fill(target: memoryview, pieces: "Ahead") -> str:
    """Returns the digest of what was put there, taken of it where it lies."""
    total, filled = xxhash.xxh3_128(), 0
    while filled < target.nbytes:
        piece = pieces.take(target.nbytes - filled)
        there = target[filled : filled + piece.nbytes]
        there[:] = piece
        total.update(there)
        filled += piece.nbytes
    return total.hexdigest()


class Ahead:
    """A file from a place on, the next piece always on its way. What was handed out is good until the next is taken."""

    def __init__(self, path: Path, begin: int) -> None:
        self._descriptor = _open_direct(path)
        self._buffers = itertools.cycle([memoryview(mmap.mmap(-1, PIECE_BYTES)) for _ in range(2)])
        self._worker = ThreadPoolExecutor(1, "everstep-read")
        self._place = begin // PAGE_BYTES * PAGE_BYTES
        self._rest = memoryview(b"")
        self._skip = begin - self._place
        self._coming = self._ask()

    def __enter__(self) -> "Ahead":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._worker.shutdown()
        os.close(self._descriptor)

    def take(self, most_bytes: int) -> memoryview:
        """The next bytes, at least one. Raises: DamageFound if the file has ended."""
        if not self._rest:
            self._rest = self._coming.result()[self._skip :]
            self._skip = 0
            if not self._rest:
                raise DamageFound("is cut short")
            self._coming = self._ask()
        piece, self._rest = self._rest[:most_bytes], self._rest[most_bytes:]
        return piece

    def _ask(self) -> Future[memoryview]:
        buffer, place = next(self._buffers), self._place
        self._place += PIECE_BYTES
        return self._worker.submit(self._read, buffer, place)

    def _read(self, buffer: memoryview, place: int) -> memoryview:
        filled = 0
        while filled < buffer.nbytes:
            count = os.preadv(self._descriptor, [buffer[filled:]], place + filled)
            filled += count
            if count % PAGE_BYTES or not count:  # the end of the file
                break
        return buffer[:filled]


def _open_direct(path: Path) -> int:
    try:
        return os.open(path, os.O_RDONLY | os.O_CLOEXEC | DIRECT)
    except OSError as error:
        if error.errno not in NOT_OFFERED:
            raise
        return os.open(path, os.O_RDONLY | os.O_CLOEXEC)
