"""Whether a version is what its manifest says: every byte of every file."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from everstep.errors import DamageFound
from everstep.versions.digests import digest
from everstep.versions.layout import DIGESTS, TRAINING
from everstep.versions.reach import is_away, reaching
from everstep.versions.tensorfile import Header, LoadedTensor, read_digests, read_file


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing that is not as it was committed."""

    file: str
    tensor: str | None
    what: str

    def __str__(self) -> str:
        return f"{self.file}: {self.what}" if self.tensor is None else f"{self.file}: {self.tensor} {self.what}"


def faults(folder: Path, files: Mapping[str, Any]) -> Iterator[Fault]:
    """Check all files against the manifest's entries. Files that no entry names are none of our business.

    A version whose training folder is gone as a whole was made slim; what is left of it is checked.

    Raises: UnreachableDisk.
    """
    with reaching(folder):
        yield from _faults(folder, files)


def _faults(folder: Path, files: Mapping[str, Any]) -> Iterator[Fault]:
    try:
        digests = load_digests(folder, files)
    except (DamageFound, OSError):
        digests = {}  # said below, where its turn comes
    is_slim = not (folder / TRAINING).exists()
    for path, entry in files.items():
        if is_slim and path.startswith(f"{TRAINING}/"):
            continue
        if not (folder / path).is_file():
            yield Fault(path, None, "is missing")
        elif "tensors" in entry:
            yield from _tensor_faults(folder, path, entry, digests.get(path, {}))
        elif (found := _small_fault(folder / path, entry)) is not None:
            yield Fault(path, None, found)


def load_digests(folder: Path, files: Mapping[str, Any]) -> dict[str, dict[str, str]]:
    """Every tensor's digest, by file and name. Raises: DamageFound if they are not those that were committed."""
    found: dict[str, dict[str, str]] = json.loads(load_small(folder, DIGESTS, files[DIGESTS]))
    return found


def load_tensors(folder: Path, path: str, files: Mapping[str, Any]) -> dict[str, LoadedTensor]:
    """Read a tensor file once, checking every digest on the way. Raises: DamageFound naming the tensor."""
    return dict(stream_tensors(folder, path, files))


def stream_tensors(folder: Path, path: str, files: Mapping[str, Any]) -> Iterator[tuple[str, LoadedTensor]]:
    """The same, one tensor after the other in the order of the file, so that a file need not fit into memory."""
    digests = load_digests(folder, files)[path]
    try:
        header, raw, tensors = read_file(folder / path)
        check_header(header, raw, files[path])
        for name, buffer in tensors:
            if digest(buffer) != digests[name]:
                raise DamageFound(f"fails its digest in tensor {name}")
            place = header.tensors[name]
            yield name, LoadedTensor(place.dtype, place.shape, buffer)
    except DamageFound as damage:
        raise DamageFound(f"{folder / path} {damage}. Nothing was changed.") from None


def load_small(folder: Path, path: str, entry: Mapping[str, Any]) -> bytes:
    """Read a small file and check it. Raises: DamageFound."""
    content = (folder / path).read_bytes()
    if digest(content) != entry["digest"]:
        raise DamageFound(f"{folder / path} fails its digest. Nothing was changed.")
    return content


def _tensor_faults(folder: Path, path: str, entry: Mapping[str, Any], digests: Mapping[str, str]) -> Iterator[Fault]:
    try:
        with read_digests(folder / path) as (header, raw, found):
            check_header(header, raw, entry)
            for name, taken in found:
                if digests and digests.get(name) != taken:
                    yield Fault(path, name, "fails its digest")
    except DamageFound as damage:
        yield Fault(path, None, str(damage))
    except OSError as error:
        if is_away(error):
            raise
        yield Fault(path, None, f"cannot be read ({error.strerror})")


def check_header(header: Header, raw: bytes, entry: Mapping[str, Any]) -> None:
    """Raises: DamageFound in words without the path."""
    if digest(raw) != entry["header_digest"] or header.size_bytes != entry["size"]:
        raise DamageFound("has a header that fails its digest")


def _small_fault(path: Path, entry: Mapping[str, Any]) -> str | None:
    try:
        content = path.read_bytes()
    except OSError as error:
        if is_away(error):
            raise
        return f"cannot be read ({error.strerror})"
    if len(content) != entry["size"]:
        return f"is {len(content):,} bytes long, not {entry['size']:,}"
    return None if digest(content) == entry["digest"] else "fails its digest"
