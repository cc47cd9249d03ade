"""What no training of this machine can hold, kept all the same: a whole ControlNet of Stable Diffusion XL.

No step is made. Its 1.25 billion numbers are 5 GB of weights, 10 GB of moments and 5 GB of gradients beside 7 GB of a
base in 16 bits, and a snapshot is 15 GB more; 24 GB of memory hold one slot and little else. So states of the true
shapes are drawn tensor by tensor right into shared memory, as a trainer's copy lies there, and from then on everything
is the program's own: commit, death, rescue, verify, slim, export, import.
"""

import json
import multiprocessing
import os
import signal
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from large_bases import Drawn
from test_trainings import handed_on
from watched import everstep, note

from everstep.config.load import dump, resolve
from everstep.contracts import Draft, Reason, TensorFile
from everstep.keeping.arena import Arena, PlannedFile, Slot, plan_arena
from everstep.keeping.ending import recover_memory
from everstep.keeping.memory import release, take_memory
from everstep.keeping.sealed import Filling, commit_slot, piece_digests, slot_notes
from everstep.models.files import CONTROLNET_CONFIG, HPARAMS, METADATA, MOMENTS, OPTIMIZER, STATE, WEIGHTS
from everstep.models.shapes import HINT_CHANNELS, Shape, controlnet_shapes
from everstep.models.whole import SDXL
from everstep.versions import Run, Version
from everstep.versions.tensorfile import TensorImage

NOTES_BYTES = 1 << 20
PROCESSES = multiprocessing.get_context("spawn")  # none shares memory with another but by its name


def shapes() -> Mapping[str, Shape]:
    found = controlnet_shapes(SDXL.parts["unet"], HINT_CHANNELS)
    assert found is not None
    return found


def draft(step: int) -> Draft:
    """A state at this step, other than that of any other step; of moments and weights not a number is made yet."""
    of_weights = {name: Drawn(name, shape, "F32", step) for name, shape in shapes().items()}
    moments = {
        f"{name}.{key}": Drawn(f"{name}.{key}", () if key == "step" else shape, "F32", step)
        for name, shape in shapes().items()
        for key in MOMENTS
    }
    files = [TensorFile(WEIGHTS, of_weights, METADATA[WEIGHTS]), TensorFile(OPTIMIZER, moments, {})]
    config = {"_class_name": "ControlNetModel", "conditioning_embedding_out_channels": HINT_CHANNELS}
    small = {
        HPARAMS: dump(resolve(None, {})).encode(),
        CONTROLNET_CONFIG: json.dumps({**SDXL.parts["unet"], **config}).encode(),
        STATE: json.dumps({"step": step, "images_seen": step}).encode(),
    }
    return Draft(step, step, Reason.INTERVAL, None, files, small, {"base": {"name": "xl", "family": "sdxl"}})


def arena_of(run: Run) -> Arena:
    """One slot, in shared memory."""
    images = [TensorImage(file) for file in draft(0).tensor_files]
    planned = [PlannedFile(image.path, image.size_bytes) for image in images]
    newest = run.next_number() - 1
    taken = take_memory(lambda slots: plan_arena(run.path, planned, NOTES_BYTES, slots, newest), None, (1,))
    assert taken.arena is not None, taken.where
    return taken.arena


def fill(slot: Slot, made: Draft, generation: int, *, claimed: bool) -> None:
    """As a trainer does, one tensor in memory at a time."""
    slot.begin(generation)
    for file in made.tensor_files:
        image, end = slot.image(file.path), 0
        for piece in TensorImage(file).pieces():
            begin, end = end, end + memoryview(piece).nbytes
            image[begin:end] = piece
    pieces = {file.path: piece_digests(slot.image(file.path)) for file in made.tensor_files}
    slot.seal(slot_notes(made, pieces), claimed)


def commit_one(folder: Path) -> None:
    """A version by way of memory, as a keeper makes one."""
    run = Run.create(folder, dump(resolve(None, {})))
    with run.lock("a test"):
        arena = arena_of(run)
        fill(arena.slots[0], draft(0), 1, claimed=True)
        commit_slot(run, arena, Filling.of_sealed(arena.slots[0]))
        release(arena)


def die_with_a_state(folder: Path) -> None:
    """Seal one and be killed, as trainer and keeper at once."""
    run = Run.open(folder)
    with run.lock("a test"):
        fill(arena_of(run).slots[0], draft(10), 1, claimed=False)
        os.kill(os.getpid(), signal.SIGKILL)


def start_again(folder: Path) -> None:
    """What every start does before anything else."""
    run = Run.open(folder)
    with run.lock("a test"):
        run.recover()
        recover_memory(run, None, print)


def in_a_process(act: Any, folder: Path, exit_code: int = 0) -> float:
    """Returns the seconds that it took."""
    began = time.monotonic()
    process = PROCESSES.Process(target=act, args=(folder,))
    process.start()
    process.join()
    assert process.exitcode == exit_code
    return time.monotonic() - began


def check_rescued(version: Version) -> None:
    assert (version.step, version.manifest["reason"]) == (10, Reason.RESCUE)
    expected = {image.path: image.size_bytes for image in map(TensorImage, draft(10).tensor_files)}
    assert {path: version.files[path]["size"] for path in expected} == expected


def test_a_whole_controlnet_of_xl_is_committed_rescued_verified_and_handed_on(place: Path) -> None:
    began, folder = time.monotonic(), place / "runs/a"
    commit_s = in_a_process(commit_one, folder)
    in_a_process(die_with_a_state, folder, -signal.SIGKILL)
    rescue_s = in_a_process(start_again, folder)
    run = Run.open(folder)
    rescued = run.find("latest")
    check_rescued(rescued)
    for version in run.versions():
        everstep(place, "verify", f"a@{version.number}")
    everstep(place, "slim", "a@0")
    assert not (run.find("0").path / OPTIMIZER).exists()
    verified = time.monotonic()
    handed = handed_on(place, rescued)
    note(
        "Stable Diffusion XL, full, without a step",
        version_bytes=rescued.size_bytes,
        draw_and_commit_s=round(commit_s),
        rescue_s=round(rescue_s),
        verify_and_hand_on_s=round(time.monotonic() - verified),
        all_s=round(time.monotonic() - began),
        **handed,
    )
