"""How the files of a listing are read, whatever holds them: a folder, a table, a tar."""

import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Protocol

from everstep.plain_files import read_plain
from everstep.stamps import SAME_BYTES, stamp_of, stamps_of


class Files(Protocol):
    """What the names of a listing stand for. Any threads may read at once."""

    def read(self, name: str) -> bytes:
        """The content. Raises: OSError; ValueError in words."""
        ...

    def stamp(self, name: str) -> bytes | None:
        """What tells its content without reading it, as `stamps.stamp_of`; None where nothing does."""
        ...

    def stamps(self, names: Sequence[str]) -> Iterator[bytes]:
        """The same of many, as `stamps.stamps_of`: end to end, some at a time."""
        ...

    def place(self, name: str) -> str:
        """Where it lies among all files of the machine: what is remembered of it is remembered under this."""
        ...

    def where(self, name: str) -> str:
        """The same for people."""
        ...

    def in_order(self, names: Iterable[str]) -> Iterable[str]:
        """Names in the order in which it is best to read them."""
        ...


def refuse_another(path: Path, stamp: bytes | None) -> None:
    """Raises: FileNotFoundError; ValueError in words if a file is not the one that was checked, by size and time."""
    now = stamp_of(str(path))
    if now is None:
        raise FileNotFoundError(f"{path} is missing")
    if stamp is not None and now[:SAME_BYTES] != stamp[:SAME_BYTES]:
        raise ValueError(f"{path} has changed since it was checked")


class FolderFiles:
    """Files of a folder, by paths relative to it or absolute."""

    def __init__(self, folder: Path) -> None:
        self.folder, self._root = folder, os.path.join(folder, "")

    def read(self, name: str) -> bytes:
        return read_plain(self.folder / name)

    def stamp(self, name: str) -> bytes | None:
        return stamp_of(self.place(name))

    def stamps(self, names: Sequence[str]) -> Iterator[bytes]:
        return stamps_of(str(self.folder), names)

    def place(self, name: str) -> str:
        """Millions are asked for, for which a Path takes longer than the disk."""
        return name if name.startswith("/") else self._root + name

    def where(self, name: str) -> str:
        return str(self.folder / name)

    def in_order(self, names: Iterable[str]) -> Iterable[str]:
        return sorted(names)
