"""Arenas filled as a trainer fills them, without a trainer."""

import os
from pathlib import Path

import numpy as np
from drafts import ArrayTensor, draft

from everstep.contracts import Draft, TensorFile
from everstep.keeping import memory
from everstep.keeping.arena import Arena, ArenaPlan, PlannedFile, Slot, plan_arena
from everstep.keeping.sealed import PIECE_BYTES, WRITE_BYTES, Filling, commit_slot, piece_digests, slot_notes
from everstep.versions import Run, Version
from everstep.versions.tensorfile import TensorImage


def plan_for(run: Path, slots: int = 3, newest: int = -1) -> ArenaPlan:
    images = [TensorImage(file) for file in draft(0).tensor_files]
    return plan_arena(run, [PlannedFile(image.path, image.size_bytes) for image in images], 1 << 14, slots, newest)


def arena(run: Path, slots: int = 3) -> Arena:
    """In a nameless memory file."""
    newest = Run(run).next_number() - 1 if run.is_dir() else -1
    plan = plan_for(run, slots, newest)
    descriptor = os.memfd_create("test")
    os.ftruncate(descriptor, plan.size_bytes)
    return Arena.create(descriptor, plan)


def named_arena(run: Run) -> Arena:
    """In shared memory, as a keeper makes it."""
    newest = run.next_number() - 1
    taken = memory.take_memory(lambda slots: plan_for(run.path, slots, newest), None)
    assert taken.arena is not None
    return taken.arena


def fill(slot: Slot, made: Draft, generation: int, claimed: bool = False) -> None:
    """Begin, copy and seal a slot."""
    slot.begin(generation)
    slot.seal(slot_notes(made, copy(slot, made)), claimed)


def copy(slot: Slot, made: Draft) -> dict[str, list[str]]:
    """Returns the digests that are noted at the seal."""
    for file in made.tensor_files:
        slot.image(file.path)[:] = b"".join(bytes(piece) for piece in TensorImage(file).pieces())
    return {file.path: piece_digests(slot.image(file.path)) for file in made.tensor_files}


def commit_from_memory(run: Run, made: Draft) -> Version:
    """As the keeper does."""
    held = arena(run.path)
    fill(held.slots[0], made, 1, claimed=True)
    try:
        return commit_slot(run, held, Filling.of_sealed(held.slots[0]))
    finally:
        held.close()


# --- files of several pieces and writes -------------------------------------------------------------------------


def large_draft(step: int) -> Draft:
    """Files of several pieces and writes, so that tensors, pieces and writes end at different places."""
    random = np.random.default_rng(step)
    named = {
        "a": random.integers(0, 255, WRITE_BYTES + PIECE_BYTES + 1717, dtype=np.uint8),
        "b": random.standard_normal((1000, 3), dtype=np.float32),
        "none": np.zeros((0, 3), dtype=np.float32),
        "c": random.integers(0, 255, PIECE_BYTES // 2, dtype=np.uint8),
    }
    files = [TensorFile(path, {name: ArrayTensor(array) for name, array in named.items()}) for path in ("x", "in/y")]
    return Draft(step, step, "interval", None, files, {"a.json": b"{}"}, {})


def large_plan(run: Run, slots: int = 2) -> ArenaPlan:
    files = [PlannedFile(file.path, TensorImage(file).size_bytes) for file in large_draft(0).tensor_files]
    return plan_arena(run.path, files, 1 << 16, slots, run.next_number() - 1)


def large_arena(run: Run, slots: int = 2) -> Arena:
    plan = large_plan(run, slots)
    descriptor = os.memfd_create("test")
    os.ftruncate(descriptor, plan.size_bytes)
    return Arena.create(descriptor, plan)


def content(made: Draft) -> dict[str, bytes]:
    return {file.path: b"".join(bytes(piece) for piece in TensorImage(file).pieces()) for file in made.tensor_files}
