"""One file of the cache: records under keys, each with its digest; written whole, never changed.

A shard is a safetensors file of four tensors: `keys` [N,16] and `digests` [N,8] bytes, `ends` [N] where each record
ends, and `records`, all of them end to end. Its name holds the digest of all but the records, and those of the records
are in there: what is whole can be told from the name on.
"""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import xxhash

from everstep.contracts import Int64Array, TensorFile, Uint8Array
from everstep.errors import DamageFound
from everstep.versions import fsops
from everstep.versions.tensorfile import Header, TensorImage, TensorPlace, read_header

KEY_BYTES, DIGEST_BYTES = 16, 8
SUFFIX, UNFINISHED = ".safetensors", ".new"
TABLES = ("ends", "keys", "digests")


@dataclass(frozen=True, slots=True)
class Shard:
    """An open shelf's view of a file. Shapes: keys [N,16] and digests [N,8] uint8; begins and ends [N], in the file."""

    path: Path
    keys: Uint8Array
    digests: Uint8Array
    begins: Int64Array
    ends: Int64Array

    def read(self, place: int) -> bytes:
        """A record, verified. Raises: DamageFound; OSError."""
        begin, end = int(self.begins[place]), int(self.ends[place])
        descriptor = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            record = os.pread(descriptor, end - begin, begin)
        finally:
            os.close(descriptor)
        if xxhash.xxh3_64_digest(record) != self.digests[place].tobytes():
            raise DamageFound(f"{self.path} is damaged: a record in it is not what was written")
        return record


class _Bytes:
    """A tensor to be written."""

    def __init__(self, array: npt.NDArray[Any], dtype: str) -> None:
        self._array, self.dtype, self.shape = np.ascontiguousarray(array), dtype, array.shape

    def buffer(self) -> memoryview:
        return self._array.reshape(-1).view(np.uint8).data


def write_shard(folder: Path, number: int, records: Sequence[tuple[bytes, bytes]]) -> Path:
    """Write keys and their records as one file, durable under its name when this returns.

    Crash: the whole file, or one that is not under any shard's name. Raises: OSError, with nothing left behind.
    """
    keys = np.frombuffer(b"".join(key for key, _ in records), np.uint8).reshape(-1, KEY_BYTES)
    digests = np.frombuffer(b"".join(xxhash.xxh3_64_digest(record) for _, record in records), np.uint8)
    ends = np.cumsum([len(record) for _, record in records], dtype=np.int64)
    content = np.frombuffer(b"".join(record for _, record in records), np.uint8)
    tensors = {
        "ends": _Bytes(ends, "I64"),
        "keys": _Bytes(keys, "U8"),
        "digests": _Bytes(digests.reshape(-1, DIGEST_BYTES), "U8"),
        "records": _Bytes(content, "U8"),
    }
    image = TensorImage(TensorFile("", tensors, {"format": "everstep-cache-1"}))
    path = folder / f"{number:06d}-{_name(image.header, *(tensors[name].buffer() for name in TABLES))}{SUFFIX}"
    beside = folder / f".{path.name}.{os.getpid()}{UNFINISHED}"
    try:
        fsops.write_file(beside, image.pieces(), image.size_bytes)
        fsops.rename(beside, path)
    except OSError:
        beside.unlink(missing_ok=True)
        raise
    fsops.flush_folder(folder)
    return path


def read_shard(path: Path) -> Shard:
    """Open a shard. Raises: DamageFound naming it where it is not what its name says; OSError."""
    with path.open("rb", buffering=0) as file:
        try:
            header, raw = read_header(file, path.stat().st_size)
            tables = {name: _read(file.fileno(), header, name) for name in TABLES}
        except (DamageFound, KeyError) as error:
            raise DamageFound(f"{path} is damaged: {_why(error)}") from None
    if path.name != f"{path.name.partition('-')[0]}-{_name(raw, *tables.values())}{SUFFIX}":
        raise DamageFound(f"{path} is damaged: its table is not what was written")
    ends = np.frombuffer(tables["ends"], np.int64) + header.data_start + header.tensors["records"].begin
    return Shard(
        path,
        np.frombuffer(tables["keys"], np.uint8).reshape(-1, KEY_BYTES),
        np.frombuffer(tables["digests"], np.uint8).reshape(-1, DIGEST_BYTES),
        np.concatenate([[header.data_start + header.tensors["records"].begin], ends[:-1]]).astype(np.int64),
        ends,
    )


def shards_in(folder: Path) -> Iterator[Path]:
    """All that lie there, in the order in which they were written."""
    return iter(sorted(path for path in folder.glob(f"[0-9]*{SUFFIX}")))


def _read(descriptor: int, header: Header, name: str) -> bytes:
    place: TensorPlace = header.tensors[name]
    return os.pread(descriptor, place.end - place.begin, header.data_start + place.begin)


def _name(*pieces: bytes | memoryview) -> str:
    total = xxhash.xxh3_64()
    for piece in pieces:
        total.update(piece)
    return total.hexdigest()


def _why(error: Exception) -> str:
    return str(error) if isinstance(error, DamageFound) else f"it has no {error}"
