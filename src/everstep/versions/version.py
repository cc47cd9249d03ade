"""A committed version as everything else sees it: its facts from the manifest, its bytes verified as they are read."""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from everstep.contracts import ParentRef
from everstep.errors import DamageFound
from everstep.versions.layout import MANIFEST, TRAINING
from everstep.versions.reach import is_away, reaching
from everstep.versions.tensorfile import LoadedTensor
from everstep.versions.verify import Fault, faults, load_small, load_tensors


@dataclass(frozen=True, slots=True)
class Version:
    """A committed version. Its bytes never change."""

    number: int
    path: Path
    manifest: dict[str, Any] = field(repr=False)

    @property
    def name(self) -> str:
        return f"version_{self.number}"

    @property
    def step(self) -> int:
        return int(self.manifest["step"])

    @property
    def images_seen(self) -> int:
        return int(self.manifest["images_seen"])

    @property
    def reason(self) -> str:
        return str(self.manifest["reason"])

    @property
    def created_at(self) -> str:
        return str(self.manifest["created_at"])

    @property
    def manifest_digest(self) -> str:
        return str(self.manifest["digest"])

    @property
    def files(self) -> dict[str, Any]:
        """Path inside the version -> size and digests."""
        return dict(self.manifest["files"])

    @property
    def size_bytes(self) -> int:
        return sum(int(entry["size"]) for entry in self.files.values())

    @property
    def resumable(self) -> bool:
        """Whether what an exact resume needs is on disk; slim removes it."""
        return all(os.path.isfile(f"{self.path}/{path}") for path in self.files if path.startswith(f"{TRAINING}/"))

    def sizes_on_disk(self) -> dict[str, int]:
        """Path inside the version -> size, of all its files that are there, and of the manifest.

        Raises: UnreachableDisk.
        """
        sizes = {}
        with reaching(self.path):
            for path in (*self.files, MANIFEST):
                try:
                    sizes[path] = os.stat(f"{self.path}/{path}").st_size
                except OSError as error:
                    if is_away(error):
                        raise
        return sizes

    def is_incomplete(self, sizes: Mapping[str, int]) -> bool:
        """Whether a file is missing or has another size than was committed; without all of training/ it is slim."""
        return bool(self.size_faults(sizes))

    def size_faults(self, sizes: Mapping[str, int]) -> list[Fault]:
        """Which files those are."""
        is_slim = not os.path.isdir(f"{self.path}/{TRAINING}")
        expected = {path: int(entry["size"]) for path, entry in self.files.items()}
        return [
            Fault(path, None, f"is {sizes[path]:,} bytes long, not {size:,}" if path in sizes else "is missing")
            for path, size in expected.items()
            if sizes.get(path) != size and not (is_slim and path.startswith(f"{TRAINING}/"))
        ]

    @property
    def slim_bytes(self) -> int:
        """What is left of its size once it is slim."""
        return sum(int(entry["size"]) for path, entry in self.files.items() if not path.startswith(f"{TRAINING}/"))

    @property
    def disk_bytes(self) -> int:
        """Its size as it is now, whole or slim."""
        return self.size_bytes if self.resumable else self.slim_bytes

    @property
    def parent(self) -> ParentRef | None:
        found = self.manifest.get("parent")
        return None if found is None else ParentRef(**found)


def verify(version: Version) -> list[Fault]:
    """Read a version whole and compare every digest. An empty list means that it is what was committed.

    Raises: UnreachableDisk.
    """
    return list(faults(version.path, version.files))


def read_tensors(version: Version, path: str) -> dict[str, LoadedTensor]:
    """A tensor file of a version, read once and verified on the way. Raises: DamageFound naming the tensor."""
    _entry(version, path)
    return load_tensors(version.path, path, version.files)


def read_small(version: Version, path: str) -> bytes:
    """A small file of a version, verified. Raises: DamageFound."""
    return load_small(version.path, path, _entry(version, path))


def describe_damage(version: Version, wrong: list[Fault]) -> str:
    """One clause: how many tensors or files fail, and the first one's name."""
    tensors = [fault for fault in wrong if fault.tensor is not None]
    if not tensors or len(tensors) < len(wrong):
        return "has damage: " + "; ".join(str(fault) for fault in wrong[:3])
    total = sum(entry.get("tensors", 0) for entry in version.files.values())
    verb = "fails its digest" if len(tensors) == 1 else "fail their digests"
    return f"has damage: {len(tensors)} of {total} tensors {verb} ({tensors[0].tensor} in {tensors[0].file})"


def _entry(version: Version, path: str) -> Any:
    if path not in version.files:
        raise DamageFound(f"{version.name} holds no {path}.")
    return version.files[path]
