"""Memory that outlives the trainer: slots, each holding the files of one version as they will be on disk.

The keeper makes the arena; the trainer copies its state into a slot and seals it; whoever finds a sealed slot can
commit it with nothing but this file's bytes. Knows names, dtypes, shapes and bytes, not models. Never imports torch.

    page 0         magic, the plan's length and digest, the trainer's heartbeat, then the plan as JSON
    each slot      a page: state, generation, length and digest of its notes, bytes copied; the notes; the files

Whoever writes or reads an arena holds a lock on its open file, which lasts as long as any of them lives.
"""

import contextlib
import ctypes
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

MAGIC = b"EVERARN2"
PAGE_BYTES = 4096
HEAD = struct.Struct("<8sQ16s")  # magic, length of the plan, its digest
BEAT = struct.Struct("<QQ")  # heartbeat in ns of the monotonic clock, the trainer's step then
BEAT_AT, PLAN_AT = 64, 128
SLOT = struct.Struct("<IxxxxQQ16s")  # state, generation, length of the notes, their digest
STATE = struct.Struct("<I")
COPIED, COPIED_AT = struct.Struct("<Q"), 64  # bytes of the slot's files that are there, in their order
MADV_POPULATE_WRITE = 23

# How memory was laid out before plans had digests; what a keeper of then left is still rescued.
MAGIC_1, HEAD_1 = b"EVERARN1", struct.Struct("<8sQQQ")


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
    newest: int = -1  # the run's newest version when the arena was made; later ones are its own, or somebody else's
    is_first: bool = False  # laid out as arenas were at first

    @property
    def slot_bytes(self) -> int:
        return PAGE_BYTES + pages(self.notes_bytes) + sum(pages(file.size_bytes) for file in self.files)

    @property
    def size_bytes(self) -> int:
        """Of the whole arena."""
        return self._head_bytes + self.slots * self.slot_bytes

    @property
    def _head_bytes(self) -> int:
        return pages((HEAD_1.size + 64 if self.is_first else PLAN_AT) + len(self.encoded()))

    def encoded(self) -> bytes:
        known = asdict(self)
        left_out = ("is_first", "newest") if self.is_first else ("is_first",)
        return json.dumps({key: value for key, value in known.items() if key not in left_out}).encode()

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
        self._beat_at = 8 if plan.is_first else BEAT_AT
        self.slots = [Slot(self._map, plan, number) for number in range(plan.slots)]

    @classmethod
    def create(cls, descriptor: int, plan: ArenaPlan, path: Path | None = None) -> "Arena":
        """Lay out an arena in a new file whose space has been taken. The magic comes last."""
        plan_text = plan.encoded()
        os.pwrite(descriptor, plan_text, PLAN_AT)
        arena = cls(descriptor, plan, path)
        arena.beat(0)
        arena._map[: HEAD.size] = HEAD.pack(MAGIC, len(plan_text), xxhash.xxh3_128_digest(plan_text))
        return arena

    @classmethod
    def attach(cls, descriptor: int, path: Path | None = None) -> "Arena":
        """Map an arena that somebody else made. Raises: DamageFound if it is none, or what it says of itself rotted."""
        plan = _read_plan(descriptor)
        if os.fstat(descriptor).st_size < plan.size_bytes:
            raise DamageFound("is cut short")
        return cls(descriptor, plan, path)

    def prefault(self) -> None:
        """Map every page into this process now, so that its first copy is as fast as the later ones."""
        # Through ctypes, since mmap's own call holds the interpreter's lock for the seconds that gigabytes take. An
        # older kernel refuses it: then the first copy into each slot takes longer.
        address = ctypes.addressof(ctypes.c_char.from_buffer(self._map))
        ctypes.CDLL(None).madvise(ctypes.c_void_p(address), ctypes.c_size_t(self.plan.size_bytes), MADV_POPULATE_WRITE)

    def beat(self, step: int) -> None:
        """The trainer is alive and at this step."""
        BEAT.pack_into(self._map, self._beat_at, time.monotonic_ns(), step)

    def heartbeat(self) -> tuple[float, int]:
        """Seconds since the trainer's last sign of life, and its step then."""
        beat_ns, step = BEAT.unpack_from(self._map, self._beat_at)
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
        if self.descriptor >= 0:  # once: the number may be another file's by the second time
            os.close(self.descriptor)
            self.descriptor = -1


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
        """FREE where it rotted: such a slot holds nothing that could be believed."""
        number = STATE.unpack_from(self._view)[0]
        return SlotState(number) if number <= max(SlotState) else SlotState.FREE

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
        COPIED.pack_into(self._view, COPIED_AT, 0)
        SLOT.pack_into(self._view, 0, SlotState.WRITING, generation, 0, bytes(16))

    @property
    def copied_bytes(self) -> int:
        """How much of the slot's files is there, counted in their order: what may be written to the disk already."""
        return int(COPIED.unpack_from(self._view, COPIED_AT)[0])

    def tell_copied(self, total_bytes: int) -> None:
        """Everything up to here is as it will be sealed. Only ever grows between begin and seal."""
        COPIED.pack_into(self._view, COPIED_AT, total_bytes)

    def seal(self, notes: Mapping[str, Any], claimed: bool) -> None:
        """The slot is whole: its notes, their digest, and last its state."""
        text = json.dumps({**notes, "generation": self.generation}).encode()
        if len(text) > self._notes_bytes:
            raise ValueError(f"the notes are {len(text):,} bytes, there is room for {self._notes_bytes:,}")
        self._view[PAGE_BYTES : PAGE_BYTES + len(text)] = text
        SLOT.pack_into(self._view, 0, SlotState.WRITING, self.generation, len(text), xxhash.xxh3_128_digest(text))
        self.tell_copied(sum(size for _, size in self._places.values()))
        self.set_state(SlotState.CLAIMED if claimed else SlotState.SEALED)

    def notes(self) -> dict[str, Any]:
        """What was noted at the seal. Raises: DamageFound."""
        _, generation, length, digest = SLOT.unpack_from(self._view)
        text = bytes(self._view[PAGE_BYTES : PAGE_BYTES + min(length, self._notes_bytes)])
        if xxhash.xxh3_128_digest(text) != digest:
            raise DamageFound(f"slot {self.number} has notes that fail their digest")
        noted: dict[str, Any] = json.loads(text)
        if noted.get("generation", generation) != generation:
            raise DamageFound(f"slot {self.number} has a generation that is not the one it was sealed with")
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
        with contextlib.suppress(BufferError):  # somebody still looks at it
            self._view.release()


def plan_arena(run: Path, files: Sequence[PlannedFile], notes_bytes: int, slots: int, newest: int = -1) -> ArenaPlan:
    """A plan under a name of its own, so that what one run left is never taken for another's."""
    return ArenaPlan(str(run), tuple(files), notes_bytes, slots, identity=identity_of(run), newest=newest).with_nonce()


def _read_plan(descriptor: int) -> ArenaPlan:
    head = os.pread(descriptor, PLAN_AT, 0)
    if len(head) < PLAN_AT or head[:8] not in (MAGIC, MAGIC_1):
        raise DamageFound("is no arena")
    is_first = head[:8] == MAGIC_1
    size = os.fstat(descriptor).st_size
    if is_first:
        text = os.pread(descriptor, min(HEAD_1.unpack_from(head)[3], size), HEAD_1.size)
    else:
        _, length, digest = HEAD.unpack_from(head)
        text = os.pread(descriptor, min(length, size), PLAN_AT)  # a length that rotted asks for no memory
        if xxhash.xxh3_128_digest(text) != digest:
            raise DamageFound("has a plan that fails its digest")
    try:
        facts = json.loads(text)
        return ArenaPlan(files=tuple(PlannedFile(**file) for file in facts.pop("files")), is_first=is_first, **facts)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise DamageFound(f"has a plan that cannot be read ({error!r})") from None
