"""A run that is looked at again and again: what cannot have changed is not read again, nor what is dear too often."""

import contextlib
import math
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar, cast

from everstep.versions import Annotation, Run, Version, manifest
from everstep.versions.layout import version_number
from everstep.versions.reach import reaching

Stamp = tuple[int, ...]
Made = TypeVar("Made")
UNSAID = Annotation()
SETTLED_S = 2.0  # a folder that was changed so long ago shows every later change in its time
LISTED_S = 10.0  # manifests that were written over in place are found so late


class RememberedRun(Run):
    """Reads as any other. A version and a note are read when their files are others than before, and are the same
    objects until then.
    """

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self._listed: tuple[Stamp, float, list[Version]] = ((), 0.0, [])
        self._records = str(self.layout.records)
        self._versions: dict[int, tuple[Stamp, Version]] = {}
        self._notes: dict[int, tuple[Stamp, Annotation]] = {}
        self._made: dict[str, tuple[object, float, float, object]] = {}

    def once(
        self, what: str, stamp: object, make: Callable[[], Made], lasts_s: float = math.inf, share: float = math.inf
    ) -> Made:
        """What was made for the same stamp, or is made now.

        Args:
            lasts_s: after so long it is made anew.
            share: of the time, that making it may take at most; a stamp that moves faster than that is not followed.
        """
        known, began = self._made.get(what), time.monotonic()
        if known is not None:
            was, at, took, made = known
            age = began - at
            if (was == stamp and age < lasts_s) or age < took / share:
                return cast("Made", made)
        fresh = make()
        now = time.monotonic()
        self._made[what] = (stamp, now, now - began, fresh)
        return fresh

    def versions(self) -> list[Version]:
        """As of any run. Raises: UnreachableDisk."""
        with reaching(self.path):
            listed, now = _folder_stamp(self.path), time.monotonic()
            if listed and listed == self._listed[0] and now - self._listed[1] < LISTED_S:
                return list(self._listed[2])
            stamps = {number: manifest.stamp(f"{self.path}/version_{number}") for number in self._numbers()}
            known = {n: held for n, held in self._versions.items() if stamps.get(n) == held[0]}
            unknown = [(number, self.layout.version(number)) for number in stamps if number not in known]
            for _, found in self._read(unknown):
                if isinstance(found, Version):
                    known[found.number] = (stamps[found.number], found)
        self._versions = known
        self._listed = (listed, now, [known[number][1] for number in sorted(known)])
        return list(self._listed[2])

    def annotation(self, number: int) -> Annotation:
        stamp = stamp_of(f"{self._records}/version_{number}.json")
        if not stamp:
            return UNSAID
        known = self._notes.get(number)
        if known is None or known[0] != stamp:
            known = self._notes[number] = (stamp, super().annotation(number))
        return known[1]

    def stamps(self) -> dict[int, Stamp]:
        """Of each version's folder: moves when something in it comes or goes, as when it is made slim."""
        return {
            number: stamp
            for name, stamp in stamps_in(self.path).items()
            if (number := version_number(name)) is not None
        }


def stamps_in(folder: Path) -> dict[str, Stamp]:
    """Of all that lies there, by name, in one pass."""
    stamps: dict[str, Stamp] = {}
    with contextlib.suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            with contextlib.suppress(OSError):
                found = entry.stat()
                stamps[entry.name] = (found.st_ino, found.st_mtime_ns, found.st_size)
    return stamps


def stamp_of(*paths: str | Path) -> Stamp:
    """Moves when one of them is written; empty where there is none."""
    stamp: list[int] = []
    for path in paths:
        with contextlib.suppress(OSError):
            found = os.stat(path)
            stamp += (found.st_ino, found.st_mtime_ns, found.st_size)
    return tuple(stamp)


def _folder_stamp(folder: Path) -> Stamp:
    """Moves with what lies in it; empty as long as it could change again within the same tick of its clock."""
    found = os.stat(folder)
    is_settled = time.time() - found.st_mtime > SETTLED_S
    return (found.st_ino, found.st_mtime_ns) if is_settled else ()
