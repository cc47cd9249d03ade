"""A run that is looked at again and again: what cannot have changed is not read again."""

import os
from pathlib import Path

from everstep.versions import Annotation, Run, Version, manifest
from everstep.versions.reach import reaching

Stamp = tuple[int, ...]


class RememberedRun(Run):
    """Reads as any other. A version and a note are read when their files are others than before."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self._versions: dict[int, tuple[Stamp, Version]] = {}
        self._notes: dict[int, tuple[Stamp, Annotation]] = {}

    def versions(self) -> list[Version]:
        """As of any run. Raises: UnreachableDisk."""
        with reaching(self.path):
            folders = self._folders()
            stamps = {number: manifest.stamp(path) for number, path in folders}
            known = {n: held for n, held in self._versions.items() if stamps.get(n) == held[0]}
            unknown = [(number, path) for number, path in folders if number not in known]
            for _, found in self._read(unknown):
                if isinstance(found, Version):
                    known[found.number] = (stamps[found.number], found)
        self._versions = known
        return [known[number][1] for number in sorted(known)]

    def annotation(self, number: int) -> Annotation:
        try:
            found = os.stat(f"{self.layout.records}/version_{number}.json")
        except OSError:
            return super().annotation(number)
        stamp, known = (found.st_ino, found.st_mtime_ns, found.st_size), self._notes.get(number)
        if known is None or known[0] != stamp:
            known = self._notes[number] = (stamp, super().annotation(number))
        return known[1]
