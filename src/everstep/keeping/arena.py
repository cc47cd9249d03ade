"""Memory that outlives the trainer: slots, each holding the files of one version as they will be on disk.

The keeper makes the arena; the trainer copies its state into a slot and seals it; whoever finds a sealed slot can
commit it with nothing but this file's bytes. Knows names, dtypes, shapes and bytes, not models. Never imports torch.

    page 0         magic, the trainer's heartbeat, then the plan as JSON: run, nonce, files, slots
    each slot      a page: state, generation, length and digest of its notes; the notes; the files, page by page
"""

import contextlib
import json
import mmap
import os
import secrets
import struct
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from enum import IntEnum
from pathlib import Path
from typing import Any

import xxhash

from everstep.errors import DamageFound
from everstep.versions.layout import identity_of

MAGIC = b"EVERARN1"
PAGE_BYTES = 4096
HEAD = struct.Struct("<8sQQQ")  # magic, heartbeat in ns of the monotonic clock, the trainer's step, length of the plan
SLOT = struct.Struct("<IxxxxQQ16s")  # state, generation, length of the notes, their digest
STATE = struct.Struct("<I")
MADV_POPULATE_WRITE = 23


class SlotState(IntEnum):
    """What a slot holds. A trainer seals and claims; a keeper only gives claimed slots back."""

    FREE = 0  # nothing
    WRITING = 1  # being copied into; worth nothing
    SEALED = 2  # a whole state, free to be overwritten by a later one
    CLAIMED = 3  # a whole state that the keeper is to commit; not to be overwritten


@dataclass(frozen=True, slots=True)
class PlannedFile:
    """A file of every version of this run: its place inside the version and its size, which never change."""

    path: str
    size_bytes: int


@dataclass(frozen=True, slots=True)
class ArenaPlan:
    """What an arena is made for."""

    run: str  # absolute path of the run
    files: tuple[PlannedFile, ...]
    notes_bytes: int  # room for a slot's notes
    slots: int
    nonce: str = ""
    identity: str = ""  # of the run

    @property
    def slot_bytes(self) -> int:
        return PAGE_BYTES + pages(self.notes_bytes) + sum(pages(file.size_bytes) for file in self.files)

    @property
    def size_bytes(self) -> int:
        """Of the whole arena."""
        return self._head_bytes + self.slots * self.slot_bytes

    @property
    def _head_bytes(self) -> int:
        return pages(HEAD.size + len(self.encoded()) + 64)

    def encoded(self) -> bytes:
        return json.dumps(asdict(self)).encode()

    def with_nonce(self) -> "ArenaPlan":
        return replace(self, nonce=secrets.token_hex(8))

    def offset(self, slot: int) -> int:
        """Where a slot begins."""
        return self._head_bytes + slot * self.slot_bytes


def pages(size_bytes: int) -> int:
    """Rounded up to whole pages."""
    return -(-size_bytes // PAGE_BYTES) * PAGE_BYTES


class Arena:
    """A mapped arena. The descriptor stays open; whoever holds it or its file keeps the memory."""

    def __init__(self, descriptor: int, plan: ArenaPlan, path: Path | None = None) -> None:
        self.descriptor, self.plan, self.path = descriptor, plan, path
        self._map = mmap.mmap(descriptor, plan.size_bytes)
        self.slots = [Slot(self._map, plan, number) for number in range(plan.slots)]

    @classmethod
    def create(cls, descriptor: int, plan: ArenaPlan, path: Path | None = None) -> "Arena":
        """Lay out an arena in a new file whose space has been taken. The magic comes last."""
        os.pwrite(descriptor, plan.encoded(), HEAD.size)
        arena = cls(descriptor, plan, path)
        arena._map[: HEAD.size] = HEAD.pack(MAGIC, time.monotonic_ns(), 0, len(plan.encoded()))
        return arena

    @classmethod
    def attach(cls, descriptor: int, path: Path | None = None) -> "Arena":
        """Map an arena that somebody else made. Raises: DamageFound if it is none."""
        head = os.pread(descriptor, HEAD.size, 0)
        if len(head) < HEAD.size or not head.startswith(MAGIC):
            raise DamageFound("is no arena")
        try:
            facts = json.loads(os.pread(descriptor, HEAD.unpack(head)[3], HEAD.size))
            files = tuple(PlannedFile(**file) for file in facts.pop("files"))
            plan = ArenaPlan(files=files, **facts)
        except (ValueError, TypeError, KeyError) as error:
            raise DamageFound(f"has a plan that cannot be read ({error!r})") from None
        if os.fstat(descriptor).st_size < plan.size_bytes:
            raise DamageFound("is cut short")
        return cls(descriptor, plan, path)

    def prefault(self) -> None:
        """Map every page now, so that the first copy is as fast as the later ones."""
        try:
            self._map.madvise(MADV_POPULATE_WRITE)
        except (OSError, ValueError):
            return  # an older kernel: the first copy into each slot takes longer

    def beat(self, step: int) -> None:
        """The trainer is alive and at this step."""
        self._map[8:24] = struct.pack("<QQ", time.monotonic_ns(), step)

    def heartbeat(self) -> tuple[float, int]:
        """Seconds since the trainer's last sign of life, and its step then."""
        beat_ns, step = struct.unpack("<QQ", self._map[8:24])
        return (time.monotonic_ns() - beat_ns) / 1e9, step

    def newest(self) -> "Slot | None":
        """The slot with the newest whole state."""
        whole = [slot for slot in self.slots if slot.is_whole]
        return max(whole, key=lambda slot: slot.generation, default=None)

    def clear(self) -> None:
        """Forget what the slots hold."""
        for slot in self.slots:
            slot.set_state(SlotState.FREE)

    def close(self) -> None:
        """Let go of the memory here; the map itself goes when nothing looks at it any more."""
        for slot in self.slots:
            slot.forget()
        with contextlib.suppress(BufferError):  # tensors may still look at it; then it goes with them
            self._map.close()
        os.close(self.descriptor)


class Slot:
    """Room for one version. Its head is written in an order that a kill at any moment leaves readable."""

    def __init__(self, whole: mmap.mmap, plan: ArenaPlan, number: int) -> None:
        self.number = number
        self._begin = plan.offset(number)
        self._map = whole
        self._view = memoryview(whole)[self._begin : self._begin + plan.slot_bytes]
        self._notes_bytes = pages(plan.notes_bytes)
        self._places: dict[str, tuple[int, int]] = {}
        offset = PAGE_BYTES + self._notes_bytes
        for file in plan.files:
            self._places[file.path] = (offset, file.size_bytes)
            offset += pages(file.size_bytes)

    @property
    def state(self) -> SlotState:
        return SlotState(STATE.unpack_from(self._view)[0])

    @property
    def is_whole(self) -> bool:
        return self.state in (SlotState.SEALED, SlotState.CLAIMED)

    @property
    def generation(self) -> int:
        """Counts the states that were ever written into this arena."""
        return int(SLOT.unpack_from(self._view)[1])

    def set_state(self, state: SlotState) -> None:
        STATE.pack_into(self._view, 0, state)

    def begin(self, generation: int) -> None:
        """From here on the slot holds nothing, until it is sealed."""
        self.set_state(SlotState.WRITING)
        SLOT.pack_into(self._view, 0, SlotState.WRITING, generation, 0, bytes(16))

    def seal(self, notes: Mapping[str, Any], claimed: bool) -> None:
        """The slot is whole: its notes, their digest, and last its state."""
        text = json.dumps(notes).encode()
        if len(text) > self._notes_bytes:
            raise ValueError(f"the notes are {len(text):,} bytes, there is room for {self._notes_bytes:,}")
        self._view[PAGE_BYTES : PAGE_BYTES + len(text)] = text
        SLOT.pack_into(self._view, 0, SlotState.WRITING, self.generation, len(text), xxhash.xxh3_128_digest(text))
        self.set_state(SlotState.CLAIMED if claimed else SlotState.SEALED)

    def notes(self) -> dict[str, Any]:
        """What was noted at the seal. Raises: DamageFound."""
        _, _, length, digest = SLOT.unpack_from(self._view)
        text = bytes(self._view[PAGE_BYTES : PAGE_BYTES + min(length, self._notes_bytes)])
        if xxhash.xxh3_128_digest(text) != digest:
            raise DamageFound(f"slot {self.number} has notes that fail their digest")
        noted: dict[str, Any] = json.loads(text)
        return noted

    def image(self, path: str) -> memoryview:
        """A file's bytes, writable, beginning on a page."""
        offset, size = self._places[path]
        return self._view[offset : offset + size]

    def padded_image(self, path: str) -> memoryview:
        """The same up to the end of its last page, for writing past the page cache."""
        offset, size = self._places[path]
        return self._view[offset : offset + pages(size)]

    def forget(self) -> None:
        self._view.release()


def plan_arena(run: Path, files: Sequence[PlannedFile], notes_bytes: int, slots: int) -> ArenaPlan:
    """A plan under a name of its own, so that what one run left is never taken for another's."""
    return ArenaPlan(str(run), tuple(files), notes_bytes, slots, identity=identity_of(run)).with_nonce()
