"""The names of a list against the files of a folder: written on another system, a name may differ in little.

Looks names up in folders that are read once, so that a long list asks the disk nothing twice.
"""

import os
import unicodedata
from pathlib import Path


class Names:
    """Finds what a list means by a path."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._read: dict[str, frozenset[str]] = {}
        self._alike: dict[str, dict[str, list[str]]] = {}
        self.are_as_written = True  # all that were found so far

    def find(self, path: str) -> str:
        """The path of the file that is there; as it is written where that is right, or where there is none."""
        found = self._found(path)
        self.are_as_written &= found == path
        return found

    def lists(self, path: str) -> bool:
        """Whether a folder lists exactly this name."""
        parent, slash, name = path.rpartition("/")
        return name in self._names(parent or slash)

    def _found(self, path: str) -> str:
        if self._is_there(path):
            return path
        slashed = path.strip().replace("\\", "/")
        for meant in dict.fromkeys((path.strip(), slashed)):
            if meant != path and self._is_there(meant):
                return meant
        return self._alike_to(slashed) or path

    def _is_there(self, path: str) -> bool:
        parent, slash, name = path.rpartition("/")
        if name in self._names(parent or slash):
            return True
        try:  # a disk may know a name in another case, or one that no folder lists (".", "a/..")
            return os.path.lexists(self._folder / path)
        except ValueError:
            return False

    def _alike_to(self, path: str) -> str | None:
        """The one path whose names differ only in case, or in how letters with marks are written."""
        found = "/" if path.startswith("/") else ""
        for part in path.split("/"):
            if part in ("", ".", "..") or part in self._names(found.rstrip("/") or found):
                found += f"{part}/" if part else ""
                continue
            alike = self._names_alike(found.rstrip("/") or found).get(_key(part), [])
            same = [name for name in alike if _composed(name) == _composed(part)]
            if len(same or alike) != 1:
                return None
            found += f"{(same or alike)[0]}/"
        return found.rstrip("/")

    def _names(self, parent: str) -> frozenset[str]:
        if parent not in self._read:
            try:
                self._read[parent] = frozenset(os.listdir(self._folder / parent))
            except (OSError, ValueError):
                self._read[parent] = frozenset()
        return self._read[parent]

    def _names_alike(self, parent: str) -> dict[str, list[str]]:
        if parent not in self._alike:
            alike: dict[str, list[str]] = {}
            for name in sorted(self._names(parent)):
                alike.setdefault(_key(name), []).append(name)
            self._alike[parent] = alike
        return self._alike[parent]


def _composed(name: str) -> str:
    return unicodedata.normalize("NFC", name)


def _key(name: str) -> str:
    return _composed(_composed(name).casefold())
