"""safetensors files, built and taken apart without the library: a header of constant length, then plain bytes.

The header is padded so that data starts on a 4,096-byte boundary, and holds nothing that changes from step to step: it
can be written once for a whole run. Knows names, dtypes, shapes and bytes; not what they mean.
"""

import json
import math
import struct
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Protocol

from everstep.contracts import TensorFile
from everstep.errors import DamageFound
from everstep.versions import fsops
from everstep.versions.ahead import Ahead
from everstep.versions.digests import digest, digest_of

PAGE_BYTES = 4096
LARGEST_HEADER_BYTES = 100_000_000
ITEM_BYTES = {
    "BOOL": 1, "U8": 1, "I8": 1, "F8_E4M3": 1, "F8_E5M2": 1, "I16": 2, "U16": 2, "F16": 2, "BF16": 2,
    "I32": 4, "U32": 4, "F32": 4, "I64": 8, "U64": 8, "F64": 8, "F8_E4M3FNUZ": 1, "F8_E5M2FNUZ": 1, "C64": 8,
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class TensorPlace:
    """Where a tensor is in its file. Units: begin and end in bytes from the start of the data."""

    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int


@dataclass(frozen=True, slots=True)
class Header:
    """A parsed header: the tensors in the order of their bytes."""

    data_start: int
    tensors: Mapping[str, TensorPlace]
    metadata: Mapping[str, str]

    @property
    def size_bytes(self) -> int:
        """Of the whole file."""
        return self.data_start + max((place.end for place in self.tensors.values()), default=0)


@dataclass(frozen=True, slots=True)
class LoadedTensor:
    """A tensor read from disk and found to be what its manifest says; the buffer is writable."""

    dtype: str
    shape: tuple[int, ...]
    buffer: memoryview


# --- writing -----------------------------------------------------------------------------------------------


class TensorImage:
    """A file about to be written: its header is known, its tensors are asked for one after the other."""

    def __init__(self, file: TensorFile) -> None:
        self.file = file
        # Largest items first, so that every tensor is aligned to its items without holes.
        self._names = sorted(file.tensors, key=lambda name: -ITEM_BYTES[file.tensors[name].dtype])
        self.places: dict[str, TensorPlace] = {}
        offset = 0
        for name in self._names:
            source = file.tensors[name]
            size = math.prod(source.shape) * ITEM_BYTES[source.dtype]
            self.places[name] = TensorPlace(source.dtype, tuple(source.shape), offset, offset + size)
            offset += size
        self.header = encode_header(self.places, file.metadata)
        self.size_bytes = len(self.header) + offset
        self.digests: dict[str, str] = {}

    @property
    def path(self) -> str:
        """Inside the version."""
        return self.file.path

    @property
    def is_direct(self) -> bool:
        """Tensors lie anywhere in memory, so they go through the page cache."""
        return False

    def write(self, descriptor: int) -> None:
        """Write it into its new file; not flushed. Raises: OSError."""
        fsops.write_all(descriptor, self.pieces())

    def pieces(self) -> Iterator[memoryview | bytes]:
        """The file's bytes in order; each tensor's digest is taken as it passes."""
        yield self.header
        for name in self._names:
            place, buffer = self.places[name], self.file.tensors[name].buffer()
            assert buffer.nbytes == place.end - place.begin, f"{name}: {buffer.nbytes} bytes"
            self.digests[name] = digest(buffer)
            yield buffer

    def entry(self) -> dict[str, Any]:
        """What the manifest says of the file; the header fixes names, dtypes and shapes."""
        return {"size": self.size_bytes, "header_digest": digest(self.header), "tensors": len(self.places)}


def encode_header(places: Mapping[str, TensorPlace], metadata: Mapping[str, str]) -> bytes:
    """Eight bytes of length, then JSON, padded with spaces to the end of a page."""
    table: dict[str, Any] = {"__metadata__": dict(metadata)} if metadata else {}
    for name, place in places.items():
        table[name] = {"dtype": place.dtype, "shape": place.shape, "data_offsets": [place.begin, place.end]}
    text = json.dumps(table, separators=(",", ":"), ensure_ascii=False).encode()
    padded = text.ljust(math.ceil((len(text) + 8) / PAGE_BYTES) * PAGE_BYTES - 8)
    return struct.pack("<Q", len(padded)) + padded


# --- reading -----------------------------------------------------------------------------------------------


class Readable(Protocol):
    """A file at its beginning."""

    def read(self, size_bytes: int, /) -> bytes: ...


def read_header(file: Readable, file_bytes: int) -> tuple[Header, bytes]:
    """Parse and check a header: no hole, no overlap, no surplus. Raises: DamageFound in words without the path."""
    length_bytes = file.read(8)
    text = file.read(_length(length_bytes, file_bytes))
    header = _parse_header(text)
    if header.size_bytes != file_bytes:
        raise DamageFound(f"is {file_bytes:,} bytes long, but its header describes {header.size_bytes:,}")
    return header, length_bytes + text


def header_of(image: memoryview) -> tuple[Header, bytes]:
    """The same of a file in memory, behind which there may be more. Raises: DamageFound in words without the path."""
    end = 8 + _length(image[:8], image.nbytes)
    header = _parse_header(bytes(image[8:end]))
    if header.size_bytes > image.nbytes:
        raise DamageFound(f"is {image.nbytes:,} bytes long, but its header describes {header.size_bytes:,}")
    return header, bytes(image[:end])


def _length(length_bytes: bytes | memoryview, file_bytes: int) -> int:
    if len(length_bytes) < 8:
        raise DamageFound("is cut short before its header")
    length: int = struct.unpack("<Q", length_bytes)[0]
    if length > min(LARGEST_HEADER_BYTES, file_bytes - 8):
        raise DamageFound("has a header longer than the file")
    return length


def _parse_header(text: bytes) -> Header:
    try:
        table = json.loads(text)
        metadata = table.pop("__metadata__", {})
        places = {
            name: TensorPlace(entry["dtype"], tuple(entry["shape"]), *entry["data_offsets"])
            for name, entry in table.items()
        }
        ordered = dict(sorted(places.items(), key=lambda item: (item[1].begin, item[1].end)))
        _check_places(ordered)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DamageFound(f"has a header that cannot be read ({error!r})") from None
    return Header(8 + len(text), ordered, metadata)


def _check_places(places: Mapping[str, TensorPlace]) -> None:
    offset = 0
    for name, place in places.items():
        size = math.prod(place.shape) * ITEM_BYTES[place.dtype]
        if place.begin != offset or place.end - place.begin != size:
            raise ValueError(f"{name} lies at {place.begin}..{place.end}, not {offset}..{offset + size}")
        offset = place.end


def read_file(path: Path) -> tuple[Header, bytes, Iterator[tuple[str, memoryview]]]:
    """Open a file whole: its header, the header's bytes, and its tensors as they are read, one after the other."""
    file, header, raw = _open(path)
    return header, raw, _tensors(file, header)


@contextmanager
def read_digests(path: Path) -> Iterator[tuple[Header, bytes, Iterator[tuple[str, str]]]]:
    """The same with the digest of each tensor instead of its bytes, past the page cache, in little memory."""
    with Ahead(path) as ahead:
        header, raw = read_header(ahead, ahead.size_bytes)
        taken = ((name, digest_of(ahead.pieces(place.end - place.begin))) for name, place in header.tensors.items())
        yield header, raw, taken


def _open(path: Path) -> tuple[BinaryIO, Header, bytes]:
    file = path.open("rb", buffering=0)
    try:
        return file, *read_header(file, path.stat().st_size)
    except BaseException:
        file.close()
        raise


def _tensors(file: BinaryIO, header: Header) -> Iterator[tuple[str, memoryview]]:
    import numpy as np  # not at the top: verbs that only look load no numbers

    with file:
        for name, place in header.tensors.items():
            buffer = np.empty(place.end - place.begin, dtype=np.uint8).data
            _read_all(file, buffer)
            yield name, buffer


def _read_all(file: BinaryIO, buffer: memoryview) -> None:
    filled = 0
    while filled < buffer.nbytes:
        count = file.readinto(buffer[filled:])  # type: ignore[attr-defined]
        if not count:
            raise DamageFound("is cut short")
        filled += count
