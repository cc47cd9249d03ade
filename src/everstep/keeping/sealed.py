"""From a slot to a committed version: the one way, for the live keeper and for whoever opens the run later.

A slot that is still being filled is written behind the copy. Every piece is digested again after it was written and
compared with what the trainer noted, and the slot is looked at once more at the end: a torn, rotten or reused copy is
refused.
"""

import base64
import io
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Protocol

import xxhash

from everstep.contracts import COMPLETE, Draft, ParentRef, Reason
from everstep.errors import DamageFound
from everstep.keeping.arena import Arena, Slot
from everstep.versions import Run, Version
from everstep.versions.commit import Coming
from everstep.versions.digests import ALGORITHM, digest
from everstep.versions.fsops import write_pages
from everstep.versions.tensorfile import Header, TensorPlace, read_header

SNAPSHOT = "snapshot"  # the manifest's key: which arena and generation a version was taken from
PIECE_BYTES = 4 << 20  # of one digest: it stays in the processor's cache from the copy on
WRITE_BYTES = 32 << 20  # of one write; a multiple of a piece
POLL_S, LOOK_S = 0.0005, 0.1  # between two looks at a copy that is being made, and at one that waits for its seal


def slot_notes(draft: Draft, pieces: Mapping[str, Sequence[str]], label: str | None = None) -> dict[str, Any]:
    """What a sealed slot says of itself: a draft without its tensors, and digests of each file, piece by piece."""
    return {
        "step": draft.step,
        "images_seen": draft.images_seen,
        "reason": draft.reason,
        "label": label,
        "parent": None if draft.parent is None else asdict(draft.parent),
        "small_files": {path: base64.b64encode(content).decode() for path, content in draft.small_files.items()},
        "facts": dict(draft.facts),
        "pieces": {path: list(digests) for path, digests in pieces.items()},
    }


def piece_digests(image: memoryview) -> list[str]:
    """As they are noted: one of every PIECE_BYTES."""
    return [piece_digest(image[begin : begin + PIECE_BYTES]) for begin in range(0, image.nbytes, PIECE_BYTES)]


def piece_digest(piece: memoryview) -> str:
    """Of bytes in memory only; what is on the disk has digests of its own."""
    return xxhash.xxh3_64_hexdigest(piece)


class Filling:
    """A slot that is being filled, as the keeper knows it: to be sealed, or to come to nothing."""

    def __init__(self, slot: Slot, generation: int, step: int) -> None:
        self.slot, self.generation, self.step = slot, generation, step
        self._is_over = threading.Event()
        self._why: str | None = None

    @classmethod
    def of_sealed(cls, slot: Slot) -> "Filling":
        """One that is whole already. Raises: DamageFound."""
        filling = cls(slot, slot.generation, int(slot.notes()["step"]))
        filling.sealed()
        return filling

    def sealed(self) -> None:
        """The trainer sealed it."""
        self._is_over.set()

    def void(self, why: str) -> None:
        """It will never be sealed."""
        self._why = self._why or why
        self._is_over.set()

    def await_bytes(self, wanted_bytes: int) -> None:
        """Wait until so many bytes are as they will be sealed. Raises: DamageFound if nothing comes of it."""
        while True:
            is_over = self._is_over.is_set()
            self.check()
            # A sealed slot has all its bytes; the first layout had no count of them.
            if is_over or self.slot.copied_bytes >= wanted_bytes:
                return
            time.sleep(POLL_S)

    def await_seal(self) -> dict[str, Any]:
        """The slot's notes. Raises: DamageFound if nothing comes of it."""
        while not self._is_over.wait(LOOK_S):
            self.check()
        self.check()
        if not self.slot.is_whole:
            raise DamageFound("was overwritten before it was written")
        return self.slot.notes()

    def check(self) -> None:
        """Raises: DamageFound if the slot is not what was claimed any more."""
        if self._why is not None:
            raise DamageFound(self._why)
        if self.slot.generation != self.generation:
            raise DamageFound("was overwritten before it was written")


class Shared(Protocol):
    """A version that other machines write parts of; `extents.Asked`."""

    def is_mine(self, path: str, begin: int) -> bool:
        """Whether the bytes of a file from here on, WRITE_BYTES of them, are to be written here."""
        ...

    def begin(self, staging: Path) -> None:
        """The files are there."""
        ...

    def finish(self, noted: Mapping[str, Sequence[str]], name_of: Callable[[str, int], str]) -> None:
        """Wait until the others have written theirs. Raises whatever is to end this try."""
        ...


def commit_slot(
    run: Run,
    arena: Arena,
    filling: Filling,
    parent: ParentRef | None = None,
    reason: Reason | None = None,
    shared: Shared | None = None,
) -> Version:
    """Commit what a slot holds, or will hold once it is sealed. The run's lock has to be held.

    Args:
        parent, reason: instead of those noted; a version that ends a training keeps its own.
        shared: with whom it is written.

    Raises: DamageFound if the slot is torn or rotten; NotCommitted if the disk refuses it; what `shared` raises. Older
        versions are whole.
    """
    images = {file.path: SlotImage(filling, file.path, begin, shared) for file, begin in _begins(arena)}

    def draft() -> Draft:
        notes = filling.await_seal()
        for image in images.values():
            image.compare(notes)
        if shared is not None:
            shared.finish(notes["pieces"], lambda path, piece: images[path].first_tensor(piece))
        # Once more after all was written: a slot that was given to a later state meanwhile is not what was meant.
        filling.check()
        noted = _draft(notes, arena, filling.generation)
        return replace(
            noted,
            parent=parent or noted.parent,
            reason=noted.reason if reason is None or noted.reason in COMPLETE else reason,
        )

    begun = (lambda staging: None) if shared is None else shared.begin
    return run.commit(Coming(filling.step, list(images.values()), arena.plan.notes_bytes, draft, begun))


def _begins(arena: Arena) -> Iterator[tuple[Any, int]]:
    """The files of a slot, and how many bytes of it lie before each."""
    begin = 0
    for file in arena.plan.files:
        yield file, begin
        begin += file.size_bytes


def _draft(notes: Mapping[str, Any], arena: Arena, generation: int) -> Draft:
    return Draft(
        step=notes["step"],
        images_seen=notes["images_seen"],
        reason=notes["reason"],
        parent=ParentRef(**notes["parent"]) if notes["parent"] else None,
        tensor_files=(),
        small_files={path: base64.b64decode(text) for path, text in notes["small_files"].items()},
        facts={**notes["facts"], SNAPSHOT: {"arena": arena.plan.nonce, "generation": generation}},
    )


class SlotImage:
    """A file in a slot: written as it lies there, behind the copy; digested behind the write, in a second thread."""

    is_direct = True

    def __init__(self, filling: Filling, path: str, begin: int, shared: Shared | None = None) -> None:
        """
        Args:
            begin: bytes of the slot's files before this one.
            shared: who knows what of it others write.
        """
        self.path, self._filling, self._begin, self._shared = path, filling, begin, shared
        self._image, self._padded = filling.slot.image(path), filling.slot.padded_image(path)
        self.size_bytes = self._image.nbytes
        self.digests: dict[str, str] = {}
        self._pieces: list[str] = []
        self._header: bytes = b""

    def write(self, descriptor: int) -> None:
        """Raises: OSError; DamageFound if what lies there is no such file, or comes to nothing."""
        with ThreadPoolExecutor(1, "everstep-digest") as beside:
            taking: Taking | None = None
            written = 0
            while written < self.size_bytes:
                ready = min(written + WRITE_BYTES, self.size_bytes)
                self._filling.await_bytes(self._begin + ready)
                if taking is None:
                    taking = self._taking()
                end = self._padded.nbytes if ready == self.size_bytes else ready  # a write is whole pages
                if self._shared is None or self._shared.is_mine(self.path, written):
                    write_pages(descriptor, self._padded[written:end], written)
                # After the write: what changed between the two shows in the digest.
                beside.submit(taking.take, ready)
                written = end
            if taking is not None:
                beside.submit(taking.end).result()
                self.digests, self._pieces = taking.digests, taking.pieces

    def _taking(self) -> "Taking":
        head = self._image[: min(8 + int.from_bytes(self._image[:8], "little"), self.size_bytes)]
        header, self._header = read_header(io.BytesIO(head), self.size_bytes)
        return Taking(self._image, header)

    def compare(self, notes: Mapping[str, Any]) -> None:
        """Raises: DamageFound naming the first tensor whose bytes are not those that were noted."""
        if "pieces" in notes:
            noted = notes["pieces"].get(self.path, ())
            torn = [number for number, found in enumerate(self._pieces) if noted[number : number + 1] != [found]]
            if torn or len(noted) != len(self._pieces):
                raise DamageFound(f"is torn: {self.first_tensor(torn[0] if torn else 0)} of {self.path}")
            return
        noted = notes["digests"][self.path]  # of every tensor, as it was noted at first
        names = [name for name, found in self.digests.items() if noted.get(name) != found]
        if names or self.digests.keys() != noted.keys():
            raise DamageFound(f"is torn: {', '.join(names[:1])} of {self.path}")

    def first_tensor(self, piece: int) -> str:
        """The name of the first tensor that lies in a piece, or the header."""
        header = read_header(io.BytesIO(self._header), self.size_bytes)[0]
        for name, place in header.tensors.items():
            if header.data_start + place.end > piece * PIECE_BYTES and place.end > place.begin:
                return name if header.data_start < (piece + 1) * PIECE_BYTES else "the header"
        return "the header"

    def entry(self) -> dict[str, Any]:
        """What the manifest says of it."""
        return {"size": self.size_bytes, "header_digest": digest(self._header), "tensors": len(self.digests)}


class Taking:
    """Digests of a file in memory, of its tensors and its pieces, in one pass as far as it has been written."""

    def __init__(self, image: memoryview, header: Header) -> None:
        self._image, self._header = image, header
        self.digests: dict[str, str] = {}
        self.pieces: list[str] = []
        self._tensors = iter(header.tensors.items())
        self._now: tuple[str, TensorPlace] | None = next(self._tensors, None)
        self._total, self._taken = xxhash.xxh3_128(), 0
        self._piece_begin = 0

    def take(self, end: int) -> None:
        """Up to here all bytes are there."""
        while self._piece_begin + PIECE_BYTES <= end:
            self._take_piece(self._piece_begin + PIECE_BYTES)

    def end(self) -> None:
        """The rest."""
        self.take(self._image.nbytes)
        if self._piece_begin < self._image.nbytes:
            self._take_piece(self._image.nbytes)
        self._advance(self._image.nbytes)

    def _take_piece(self, end: int) -> None:
        self.pieces.append(piece_digest(self._image[self._piece_begin : end]))
        self._piece_begin = end
        self._advance(end)

    def _advance(self, end: int) -> None:
        """Digest tensors up to here; the bytes are still in the processor's cache."""
        start = self._header.data_start
        while self._now is not None:
            name, place = self._now
            upto = min(start + place.end, end)
            if upto > start + place.begin + self._taken:
                self._total.update(self._image[start + place.begin + self._taken : upto])
                self._taken = upto - start - place.begin
            if start + place.end > end:
                return
            self.digests[name] = f"{ALGORITHM}:{self._total.hexdigest()}"
            self._total, self._taken = xxhash.xxh3_128(), 0
            self._now = next(self._tensors, None)


# --- which state of an arena is to be kept -------------------------------------------------------------------


class Lineage:
    """What the versions of a run say of an arena's states. Reads every manifest, once."""

    def __init__(self, run: Run, arena: Arena) -> None:
        """Raises: UnreachableDisk."""
        self._run, self._arena, self._versions = run, arena, run.versions()
        self._ours = [version for version in self._versions if _taken_from(version) == arena.plan.nonce]

    def uncommitted(self) -> list[Slot]:
        """Whole states that no version has yet, the newest first."""
        done = max((int(version.manifest[SNAPSHOT]["generation"]) for version in self._ours), default=0)
        whole = [slot for slot in self._arena.slots if slot.is_whole and slot.generation > done]
        return sorted(whole, key=lambda slot: -slot.generation)

    def overtaken_by(self) -> Version | None:
        """A version that somebody else made since this memory was begun, as another host does."""
        if self._arena.plan.is_first:  # it does not say when it was begun
            return None
        others = (version for version in self._versions if version not in self._ours)
        later = (version for version in others if version.number > self._arena.plan.newest)
        return max(later, key=lambda version: version.number, default=None)

    def last(self) -> ParentRef | None:
        """The last version that was taken from this arena: what its next one went on from."""
        found = max(self._ours, key=lambda version: version.number, default=None)
        return None if found is None else self._run.ref(found)


def _taken_from(version: Version) -> str | None:
    taken = version.manifest.get(SNAPSHOT)
    return taken["arena"] if isinstance(taken, dict) else None
