"""From a sealed slot to a committed version: the one way, for the live keeper and for whoever opens the run later.

Every tensor is digested again as it is written and compared with what the trainer noted: a torn or rotten copy is
refused.
"""

import base64
import io
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import Any

from everstep.contracts import Draft, ParentRef, Reason
from everstep.errors import DamageFound
from everstep.keeping.arena import Arena, Slot
from everstep.versions import fsops
from everstep.versions.digests import digest
from everstep.versions.run import Run
from everstep.versions.tensorfile import read_header
from everstep.versions.version import Version

SNAPSHOT = "snapshot"  # the manifest's key: which arena and generation a version was taken from


def slot_notes(draft: Draft, digests: Mapping[str, Mapping[str, str]], label: str | None = None) -> dict[str, Any]:
    """What a sealed slot says of itself: a draft without its tensors, and a digest of each of them."""
    return {
        "step": draft.step,
        "images_seen": draft.images_seen,
        "reason": draft.reason,
        "label": label,
        "parent": None if draft.parent is None else asdict(draft.parent),
        "small_files": {path: base64.b64encode(content).decode() for path, content in draft.small_files.items()},
        "facts": dict(draft.facts),
        "digests": digests,
    }


def commit_slot(
    run: Run, arena: Arena, slot: Slot, parent: ParentRef | None = None, reason: str | None = None
) -> Version:
    """Commit what a slot holds. The run's lock has to be held.

    Args:
        parent, reason: instead of those noted.

    Raises: DamageFound if the slot is torn or rotten; NotCommitted if the disk refuses it. Older versions are whole.
    """
    generation, notes = slot.generation, slot.notes()
    draft = Draft(
        step=notes["step"],
        images_seen=notes["images_seen"],
        reason=reason or notes["reason"],
        parent=parent or _noted_parent(notes),
        tensor_files=(),
        small_files={path: base64.b64decode(text) for path, text in notes["small_files"].items()},
        facts={**notes["facts"], SNAPSHOT: {"arena": arena.plan.nonce, "generation": generation}},
    )
    images = [SlotImage(slot, file.path, notes["digests"][file.path]) for file in arena.plan.files]
    return run.commit(draft, images)


def rescue(run: Run, arena: Arena) -> tuple[Version | None, list[str]]:
    """Commit the newest whole state of an arena that no trainer writes to, if it is newer than every version of it.

    Returns the version, or None where there was nothing to rescue, and a sentence for each state that was refused.
    Raises: NotCommitted if the disk refuses it; the arena is as it was.
    """
    done = [version for version in run.versions() if _taken_from(version) == arena.plan.nonce]
    last = max(done, key=lambda version: version.number, default=None)
    newest_done = max((version.manifest[SNAPSHOT]["generation"] for version in done), default=0)
    refused: list[str] = []
    whole = [slot for slot in arena.slots if slot.is_whole and slot.generation > newest_done]
    for slot in sorted(whole, key=lambda slot: -slot.generation):
        try:
            parent = None if last is None else ParentRef(run.name, last.number, last.manifest_digest)
            return commit_slot(run, arena, slot, parent, Reason.RESCUE), refused
        except DamageFound as damage:
            refused.append(f"A state in memory was refused: it {damage}.")
    return None, refused


def _noted_parent(notes: Mapping[str, Any]) -> ParentRef | None:
    return ParentRef(**notes["parent"]) if notes["parent"] else None


def _taken_from(version: Version) -> str | None:
    taken = version.manifest.get(SNAPSHOT)
    return taken["arena"] if isinstance(taken, dict) else None


class SlotImage:
    """A file in a slot: written as it lies there, its tensors digested meanwhile in a second thread."""

    def __init__(self, slot: Slot, path: str, noted: Mapping[str, str]) -> None:
        self.path, self._slot, self._noted = path, slot, noted
        whole = slot.image(path)
        self.size_bytes = whole.nbytes
        head = whole[: min(8 + int.from_bytes(whole[:8], "little"), whole.nbytes)]
        self._header, self._raw = read_header(io.BytesIO(head), self.size_bytes)
        self.digests: dict[str, str] = {}

    def write(self, path: Path) -> None:
        """Raises: OSError; DamageFound naming the first tensor whose digest is not the one that was noted."""
        with ThreadPoolExecutor(1, "everstep-digest") as beside:
            taken = beside.submit(lambda: dict(self._take()))
            fsops.write_image(path, self._slot.padded_image(self.path), self.size_bytes)
            self.digests = taken.result()
        torn = [name for name, found in self.digests.items() if self._noted.get(name) != found]
        if torn or self.digests.keys() != self._noted.keys():
            raise DamageFound(f"is torn: {len(torn)} tensors of {self.path} ({', '.join(torn[:1])})")

    def _take(self) -> Iterator[tuple[str, str]]:
        image = self._slot.image(self.path)
        for name, place in self._header.tensors.items():
            yield name, digest(image[self._header.data_start + place.begin : self._header.data_start + place.end])

    def entry(self) -> dict[str, Any]:
        """What the manifest says of it."""
        return {"size": self.size_bytes, "header_digest": digest(self._raw), "tensors": len(self.digests)}
