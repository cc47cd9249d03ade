"""Whether bytes that pass by, from a disk to a place or back, are what a manifest says: none is read twice for it."""

import io
import struct
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import xxhash

from everstep.errors import DamageFound
from everstep.versions.digests import ALGORITHM
from everstep.versions.tensorfile import read_header
from everstep.versions.verify import Fault, check_header

LENGTH_BYTES = 8  # of what stands before a header


class Passing:
    """One file of a version: fed from its beginning, it knows at the end what was not as it was committed."""

    def __init__(self, path: str, entry: Mapping[str, Any], digests: Mapping[str, str]) -> None:
        self.path = path
        self.faults: list[Fault] = []
        self._entry, self._digests = entry, digests
        self._seen_bytes = 0
        self._head: bytearray | None = bytearray() if "tensors" in entry else None
        self._hash = xxhash.xxh3_128()
        self._coming: Iterator[tuple[str, int]] = iter(())
        self._tensor, self._left_bytes = "", 0

    def anew(self) -> "Passing":
        """For the same file once more."""
        return Passing(self.path, self._entry, self._digests)

    def feed(self, piece: memoryview | bytes) -> None:
        """The next bytes."""
        view = memoryview(piece).cast("B")
        self._seen_bytes += view.nbytes
        if self.faults:
            return
        if self._head is not None:
            view = self._take_head(self._head, view)
        if "tensors" not in self._entry:
            self._hash.update(view)
        else:
            self._feed_tensors(view)

    def end(self) -> list[Fault]:
        """After the last byte. Returns what is wrong."""
        if not self.faults and self._seen_bytes != self._entry["size"]:
            self._wrong(None, f"is {self._seen_bytes:,} bytes long, not {self._entry['size']:,}")
        if not self.faults and self._head is not None:
            self._begin_tensors(bytes(self._head))  # longer than the whole file: what is wrong with it is said
        if not self.faults and "tensors" not in self._entry and self._taken() != self._entry["digest"]:
            self._wrong(None, "fails its digest")
        return self.faults

    def _take_head(self, head: bytearray, view: memoryview) -> memoryview:
        """Collect the header; returns what is left of the piece behind it."""
        while view and self._head is not None:
            wanted = self._head_bytes(head) - len(head)
            head += view[:wanted]
            view = view[wanted:]
            if len(head) >= LENGTH_BYTES and len(head) >= self._head_bytes(head):
                self._begin_tensors(bytes(head))
        return view

    def _head_bytes(self, head: bytearray) -> int:
        """How many bytes the header takes, as far as that is known."""
        if len(head) < LENGTH_BYTES:
            return LENGTH_BYTES
        # A length that is nonsense must not fill the memory: what is longer than the file is damage, said below.
        return LENGTH_BYTES + int(min(struct.unpack("<Q", head[:LENGTH_BYTES])[0], self._entry["size"]))

    def _begin_tensors(self, raw: bytes) -> None:
        self._head = None
        try:
            header, raw = read_header(io.BytesIO(raw), self._entry["size"])
            check_header(header, raw, self._entry)
        except DamageFound as damage:
            self._wrong(None, str(damage))
            return
        self._coming = iter([(name, place.end - place.begin) for name, place in header.tensors.items()])
        self._next_tensor()

    def _feed_tensors(self, view: memoryview) -> None:
        while view and self._tensor:
            part = view[: self._left_bytes]
            self._hash.update(part)
            view, self._left_bytes = view[part.nbytes :], self._left_bytes - part.nbytes
            if not self._left_bytes:
                self._compare()
                self._next_tensor()

    def _next_tensor(self) -> None:
        for name, size_bytes in self._coming:
            self._tensor, self._left_bytes = name, size_bytes
            self._hash.reset()
            if size_bytes:
                return
            self._compare()  # a tensor without elements
        self._tensor = ""

    def _compare(self) -> None:
        if self._digests and self._digests.get(self._tensor) != self._taken():
            self._wrong(self._tensor, "fails its digest")

    def _taken(self) -> str:
        return f"{ALGORITHM}:{self._hash.hexdigest()}"

    def _wrong(self, tensor: str | None, what: str) -> None:
        self.faults.append(Fault(self.path, tensor, what))


def passing(check: Passing, pieces: Iterable[memoryview | bytes]) -> Iterator[memoryview | bytes]:
    """The same bytes, compared on their way. Raises: DamageFound before the end is reached, so that nothing counts."""
    for piece in pieces:
        check.feed(piece)
        if check.faults:
            break
        yield piece
    if check.end():
        raise DamageFound(str(check.faults[0]))
