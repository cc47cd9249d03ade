"""What is looked at of a copy, once, while it is in the cache: digests of its pieces, and whether it is numbers."""

from collections import deque
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from everstep.keeping.sealed import PIECE_BYTES, piece_digest
from everstep.versions.tensorfile import TensorPlace

# Exponents of all ones: infinities and what is no number, in formats that numpy does not compute with.
ALL_ONES = {"F16": (np.uint16, 0x7C00), "BF16": (np.uint16, 0x7F80), "F8_E5M2": (np.uint8, 0x7C)}
NAN = {"F8_E4M3": (np.uint8, 0x7F)}  # has no infinities
REAL = {"F32": np.float32, "F64": np.float64, "C64": np.float32}  # a complex number is two
WATCHED = {**dict.fromkeys(ALL_ONES), **dict.fromkeys(NAN), **dict.fromkeys(REAL)}


class Health:
    """Watches one file in memory, piece by piece."""

    def __init__(self, data_start: int, places: Mapping[str, TensorPlace], exempt: Collection[str]) -> None:
        """
        Args:
            data_start: bytes of the file before its first tensor; a multiple of every item's size.
            exempt: names of tensors that may hold anything.
        """
        self._start, self._places = data_start, places
        self._regions: list[tuple[int, int, str]] = []
        for name, place in places.items():
            if place.dtype not in WATCHED or name in exempt or place.begin == place.end:
                continue
            begin, end = data_start + place.begin, data_start + place.end
            if self._regions and self._regions[-1][1:] == (begin, place.dtype):
                self._regions[-1] = (self._regions[-1][0], end, place.dtype)  # what lies together is looked at at once
            else:
                self._regions.append((begin, end, place.dtype))

    def sick(self, image: memoryview, begin: int, end: int) -> str | None:
        """The first tensor in this piece of the file that holds something that is no number."""
        for first, last, dtype in self._regions:
            low, high = max(first, begin), min(last, end)
            if low < high and not _is_finite(image[low:high], dtype):
                return self._name(image, low, high, dtype)
        return None

    def _name(self, image: memoryview, low: int, high: int, dtype: str) -> str:
        for name, place in self._places.items():
            begin, end = max(low, self._start + place.begin), min(high, self._start + place.end)
            if begin < end and not _is_finite(image[begin:end], dtype):
                return name
        raise AssertionError("a sum that is not finite over numbers that are")


def _is_finite(piece: memoryview, dtype: str) -> bool:
    if dtype in REAL:
        values = np.frombuffer(piece, dtype=REAL[dtype])
        with np.errstate(all="ignore"):
            is_clear = np.isfinite(values.sum())  # one pass; a sum that overflows is looked at more closely
        return bool(is_clear or np.isfinite(values).all())
    kind, mask = ALL_ONES.get(dtype) or NAN[dtype]
    bits = np.frombuffer(piece, dtype=kind)
    return not bool(((bits & mask) == mask).any())


@dataclass(frozen=True, slots=True)
class Piece:
    """What is digested at once of a slot. Units: begin and end in bytes of the file, the others of all files."""

    number: int
    file: int
    begin: int
    end: int
    first: int
    last: int  # how much of the slot's files is there when all of it is


def pieces_of(sizes_bytes: Sequence[int]) -> list[Piece]:
    """The pieces of a slot's files, in their order."""
    found, before = list[Piece](), 0
    for file, size in enumerate(sizes_bytes):
        for begin in range(0, size, PIECE_BYTES):
            end = min(begin + PIECE_BYTES, size)
            found.append(Piece(len(found), file, begin, end, before + begin, before + end))
        before += size
    return found


class Looking:
    """Looks at pieces of a slot, in their order, as far as they have been copied."""

    def __init__(self, images: Sequence[memoryview], health: Sequence[Health], pieces: Iterable[Piece]) -> None:
        self._images, self._health, self._coming = images, health, deque(pieces)
        self.digests: dict[int, str] = {}  # by the piece's number
        self.sick: tuple[str, int] | None = None  # the first tensor that is no numbers, and its file

    def upto(self, copied_bytes: int) -> None:
        """So many bytes of the slot's files are there, counted in their order."""
        while self._coming and self._coming[0].last <= copied_bytes:
            self._look(self._coming.popleft())

    def _look(self, piece: Piece) -> None:
        image = self._images[piece.file]
        self.digests[piece.number] = piece_digest(image[piece.begin : piece.end])
        if self.sick is None:
            found = self._health[piece.file].sick(image, piece.begin, piece.end)
            self.sick = None if found is None else (found, piece.file)
