"""Arenas filled as a trainer fills them, without a trainer."""

import os
from pathlib import Path

from drafts import draft

from everstep.contracts import Draft
from everstep.keeping.arena import Arena, ArenaPlan, PlannedFile, Slot, plan_arena
from everstep.keeping.sealed import commit_slot, slot_notes
from everstep.versions import Run, Version
from everstep.versions.tensorfile import TensorImage


def plan_for(run: Path, slots: int = 3) -> ArenaPlan:
    images = [TensorImage(file) for file in draft(0).tensor_files]
    return plan_arena(run, [PlannedFile(image.path, image.size_bytes) for image in images], 1 << 14, slots)


def arena(run: Path, slots: int = 3) -> Arena:
    """In a nameless memory file."""
    plan = plan_for(run, slots)
    descriptor = os.memfd_create("test")
    os.ftruncate(descriptor, plan.size_bytes)
    return Arena.create(descriptor, plan)


def fill(slot: Slot, made: Draft, generation: int, claimed: bool = False) -> None:
    """Begin, copy and seal a slot."""
    slot.begin(generation)
    digests = copy(slot, made)
    slot.seal(slot_notes(made, digests), claimed)


def copy(slot: Slot, made: Draft) -> dict[str, dict[str, str]]:
    digests = {}
    for file in made.tensor_files:
        image = TensorImage(file)
        slot.image(file.path)[:] = b"".join(bytes(piece) for piece in image.pieces())
        digests[file.path] = image.digests
    return digests


def commit_from_memory(run: Run, made: Draft) -> Version:
    """As the keeper does."""
    held = arena(run.path)
    fill(held.slots[0], made, 1, claimed=True)
    try:
        return commit_slot(run, held, held.slots[0])
    finally:
        held.close()
