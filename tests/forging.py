"""Versions changed so that every checksum holds: what a bit leaves behind that flipped before it was digested."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from everstep.versions import Version, digest, manifest
from everstep.versions.layout import DIGESTS, MANIFEST
from everstep.versions.tensorfile import read_header


def flip(version: Version, file: str, tensor: str, element: int, bit: int) -> None:
    """Flip one bit of a float32, and digest it as if it had always been so."""
    path = version.path / file
    content = bytearray(path.read_bytes())
    with path.open("rb", buffering=0) as opened:
        header, _ = read_header(opened, len(content))
    place = header.tensors[tensor]
    begin, end = header.data_start + place.begin, header.data_start + place.end
    content[begin + 4 * element + bit // 8] ^= 1 << bit % 8
    path.write_bytes(content)
    digests = json.loads((version.path / DIGESTS).read_bytes())
    digests[file][tensor] = digest(bytes(content[begin:end]))
    write_small(version, DIGESTS, json.dumps(digests, indent=1).encode())


def write_small(version: Version, file: str, content: bytes) -> None:
    """Replace a small file, and let the manifest say that it is the right one."""
    (version.path / file).write_bytes(content)
    entry = {"size": len(content), "digest": digest(content)}
    seal(version, lambda facts: facts["files"].update({file: entry}))


def seal(version: Version, change: Callable[[dict[str, Any]], Any]) -> None:
    """Change the manifest's facts and seal it anew."""
    facts = {key: value for key, value in manifest.read(version.path).items() if key != "digest"}
    change(facts)
    (version.path / MANIFEST).write_bytes(manifest.encode(facts))


def tree(folder: Path) -> dict[str, tuple[int, bytes]]:
    """Every file with its time and content."""
    files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    return {str(path.relative_to(folder)): (path.stat().st_mtime_ns, path.read_bytes()) for path in files}
