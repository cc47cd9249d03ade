"""A version of Stable Diffusion 1.5's size that the first machine writes alone, and that two write, each its part.

    python bench/extents.py [PLACE] [--turns 5] [--link MB/S]

Both machines are this one and write to one disk, where nothing can be gained: what is measured is what asking, waiting
and comparing cost. With --link each process's writes are held to that rate, as a network between a machine and its disk
holds them; the disk behind has to be quicker than both together.
"""

import argparse
import contextlib
import multiprocessing
import os
import statistics
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import asdict
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np

from everstep.contracts import Draft, TensorFile
from everstep.keeping import sealed
from everstep.keeping.arena import Arena, PlannedFile, Slot, plan_arena
from everstep.keeping.channel import Channel
from everstep.keeping.committer import Committer
from everstep.keeping.deputy import Deputy
from everstep.keeping.memory import release, take_memory
from everstep.keeping.sealed import piece_digests, slot_notes
from everstep.units import size
from everstep.versions import Run, fsops
from everstep.versions.tensorfile import TensorImage
from machine import record
from scale import Numbers

TENSOR_ITEMS = 11_300_000
TENSORS = {"controlnet/diffusion_pytorch_model.safetensors": 32, "training/optimizer.safetensors": 64}


def draft(step: int) -> Draft:
    """4.34 GB: weights, and AdamW's two moments of each. The bytes are the same on every machine."""
    array = np.random.default_rng(0).standard_normal(TENSOR_ITEMS, np.float32)
    files = [
        TensorFile(path, {str(number): Numbers(array) for number in range(count)}) for path, count in TENSORS.items()
    ]
    return Draft(step, 4 * step, "interval", None, files, {"training/state.json": b"{}"}, {})


def fill(slot: Slot, made: Draft) -> dict[str, list[str]]:
    """Returns the digests that are noted at the seal."""
    for file in made.tensor_files:
        image, at = slot.image(file.path), 0
        for piece in TensorImage(file).pieces():
            image[at : at + len(memoryview(piece).cast("B"))] = memoryview(piece).cast("B")
            at += len(memoryview(piece).cast("B"))
    return {file.path: piece_digests(slot.image(file.path)) for file in made.tensor_files}


def hold_to(megabytes_a_second: float | None) -> None:
    """This process's writes of whole pages, from here on."""
    if megabytes_a_second is None:
        return
    real, lock, free_at = fsops.write_pages, threading.Lock(), [0.0]

    def held(descriptor: int, pages: memoryview, offset: int) -> None:
        real(descriptor, pages, offset)
        with lock:
            free_at[0] = max(free_at[0], time.monotonic() - 0.01) + pages.nbytes / megabytes_a_second / 1e6
        time.sleep(max(0.0, free_at[0] - time.monotonic()))

    fsops.write_pages = held
    sealed.write_pages = held  # type: ignore[attr-defined]


def other(run: Run, plan: dict[str, Any], pipe: Connection) -> None:
    """The other machine: its deputy, and what its ranks say to it. Held to the same rate, which it was forked with."""
    deputy, (ours, ranks) = Deputy(run, 1, None, print), Channel.pair()
    ranks.send("plan", plan=plan, coming_bytes=0)
    deputy.hear(ours)
    answer = ranks.receive()
    assert "descriptor" in answer, "there is no memory for it"
    arena = Arena.attach(answer["descriptor"], Path(answer["path"]) if answer["path"] else None)
    made = draft(1)
    pieces = fill(arena.slots[0], made)
    pipe.send("ready")
    while True:
        if pipe.poll(0.0):
            generation = pipe.recv()
            if generation is None:
                break
            arena.slots[0].begin(generation)
            ranks.send("claim", slot=0, generation=generation, step=1)
            arena.slots[0].seal(slot_notes(made, pieces), claimed=True)
            ranks.send("sealed", generation=generation)
        deputy.hear(ours)
        deputy.look()
        time.sleep(min(0.1, deputy.period_s))
    deputy.ranks_ended()
    release(arena)  # the versions are gone already


@contextlib.contextmanager
def another(run: Run, arena: Arena) -> Iterator[Connection]:
    ours, theirs = multiprocessing.Pipe()
    process = multiprocessing.Process(target=other, args=(run, asdict(arena.plan), theirs))
    process.start()
    assert ours.recv() == "ready"
    try:
        yield ours
    finally:
        ours.send(None)
        process.join(60)


def commit(committer: Committer, arena: Arena, made: Draft, pieces: dict[str, list[str]], generation: int) -> float:
    """Seconds from a sealed copy to a version."""
    news = threading.Event()
    committer.wake = news.set
    slot = arena.slots[0]
    slot.begin(generation)
    slot.seal(slot_notes(made, pieces), claimed=True)
    began = time.perf_counter()
    committer.claim(0, generation, made.step)
    committer.sealed(generation)
    while not (ended := list(committer.outcomes())):
        news.wait(0.05)
    assert ended[0].version is not None, ended[0].error
    seconds = time.perf_counter() - began
    fsops.remove_tree(ended[0].version.path)
    os.sync()
    return seconds


def measured(place: Path, turns: int, link: float | None) -> str:
    run, made = Run.create(place / "r", "a: 1\n"), draft(1)
    files = [PlannedFile(image.path, image.size_bytes) for image in map(TensorImage, made.tensor_files)]
    taken = take_memory(lambda slots: plan_arena(run.path, files, 1 << 20, slots), None, (1,))
    assert taken.arena is not None, taken.where
    arena, alone, together = taken.arena, list[float](), list[float]()
    pieces = fill(arena.slots[0], made)
    hold_to(link)
    committer = Committer(run, arena, lambda: None, lambda run: "", print)
    with another(run, arena) as machine:
        for turn in range(turns + 1):  # the first of each is not counted
            for seconds, nodes in ((alone, []), (together, [1])):
                committer.asking.these(nodes)
                generation = 2 * turn + len(nodes) + 1
                if nodes:
                    machine.send(generation)
                seconds.append(commit(committer, arena, made, pieces, generation))
                print(f"{1 + len(nodes)} machines: {seconds[-1]:.2f} s", flush=True)
    list(committer.finish())
    release(arena)
    ratios = [b / a for a, b in zip(alone[1:], together[1:], strict=True)]
    total = size(sum(file.size_bytes for file in files))
    way = "this disk" if link is None else f"{link:g} MB/s for each machine"
    return (
        f"| {total}, {way} | {statistics.median(alone[1:]):.2f} s | {statistics.median(together[1:]):.2f} s | "
        f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f}) |"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("place", nargs="?", type=Path)
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--link", type=float, default=150.0)
    asked = parser.parse_args()
    rows = []
    for link in (None, asked.link):
        with tempfile.TemporaryDirectory(dir=asked.place) as place:
            rows.append(measured(Path(place), asked.turns, link))
    record(
        "extents",
        "Both machines are this one, and write to one disk; the second row holds each to a rate, as its link would.\n\n"
        "| a version | alone | by two machines | of the time alone |\n| --- | --- | --- | --- |\n"
        + "\n".join(rows)
        + f"\n\nMedians of {asked.turns} turns, and the range.",
    )


if __name__ == "__main__":
    main()
