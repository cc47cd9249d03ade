"""What saving costs: ours, the limits of this machine, and what trainers use today, in one run.

    pip install accelerate lightning        # the peers; without them their rows are left out
    python bench/commit.py [--folder ON_THE_DISK_TO_MEASURE] [--parts limits,ours,peers]

A ControlNet of Stable Diffusion 1.5's shape with AdamW, random weights: 4.34 GB. Stall is how long the training thread
waits; durable is from the start of the save until the disk has it.
"""

import argparse
import json
import mmap
import os
import shutil
import statistics
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from diffusers import ControlNetModel
from torch import Tensor

from everstep.config.schema import Optim
from everstep.contracts import Draft
from everstep.keeping.arena import Arena, PlannedFile, plan_arena
from everstep.keeping.channel import Channel
from everstep.keeping.committer import Committer
from everstep.keeping.link import Link
from everstep.keeping.memory import release, take_memory
from everstep.keeping.settings import Settings
from everstep.keeping.snapshots import Snapshots, notes_bytes
from everstep.keeping.stateful import Layout
from everstep.train.optim import make_optimizer
from everstep.train.state import TrainState
from everstep.versions import Run, Version
from everstep.versions.pruning import prune
from everstep.versions.retention import Policy
from everstep.versions.torch import fill
from machine import record
from peers import measure_peers

CHUNK_BYTES = 64 << 20
ROUNDS = 5
RATIOS = {"copy ratio": ("blocking", "bare"), "write ratio": ("raw", "durable"), "read ratio": ("raw read", "load")}
SIDE = 32  # of the latents of the overlapped steps


def main() -> None:
    """Measure, and write RESULTS.md."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=Path("build/bench/commit"))
    parser.add_argument("--parts", default="ours,peers")
    parser.add_argument("--small", action="store_true", help="a small network, to try the script")
    asked = parser.parse_args()
    asked.folder = asked.folder.resolve()
    shutil.rmtree(asked.folder, ignore_errors=True)
    asked.folder.mkdir(parents=True)
    state = make_state(asked.small)
    size = Layout(state).size_bytes
    print(f"{size / 1e9:.2f} GB of state", flush=True)
    rows: list[tuple[str, float | None, float | None]] = []
    text = ""
    if "ours" in asked.parts:
        found = measure_ours(state, asked.folder, size)
        text += ours_table(found)
        rows += [
            ("Everstep, blocking copy", found["blocking"], found["durable"]),
            ("Everstep, copy during the next forward and backward", found["background"], None),
        ]
    if "peers" in asked.parts:
        rows += measure_peers(state, asked.folder)
    text += "\n| | stall | until durable |\n| --- | --- | --- |\n"
    text += "".join(f"| {name} | {seconds(stall)} | {seconds(durable)} |\n" for name, stall, durable in rows)
    record(f"Saving {size / 1e9:.2f} GB (bench/commit.py)", text)
    shutil.rmtree(asked.folder)


def seconds(value: float | None) -> str:
    return "" if value is None else f"{value:.2f} s"


def make_state(is_small: bool) -> TrainState:
    """A ControlNet of Stable Diffusion 1.5's shape with AdamW, all of it random numbers."""
    torch.manual_seed(0)
    widths = (32, 64, 64, 64) if is_small else (320, 640, 1280, 1280)
    controlnet = ControlNetModel(cross_attention_dim=768, block_out_channels=widths)
    optimizer = make_optimizer(controlnet, Optim())
    for moments in optimizer.state.values():
        for moment in moments.values():
            if moment.numel() > 1:
                moment.copy_(torch.randn_like(moment).abs_())
    return TrainState(controlnet, optimizer, torch.amp.GradScaler("cpu", enabled=False), None)


# --- ours, and the limits ----------------------------------------------------------------------------------


def measure_ours(state: TrainState, folder: Path, size: int) -> dict[str, Any]:
    """Copies and commits in the steady state, older versions going for newer ones, taking turns with the bare copy and
    the raw write of the same bytes.
    """
    run = Run.create(folder / "ours", "a: 1\n")
    layout = Layout(state)
    planned = [PlannedFile(image.path, image.size_bytes) for image in layout.images]
    before = resident_bytes()
    began = time.perf_counter()
    taken = take_memory(lambda slots: plan_arena(run.path, planned, notes_bytes(layout, 1 << 16), slots), None)
    arena = taken.arena
    assert arena is not None
    print(f"arena: {taken.where}, made in {time.perf_counter() - began:.1f} s", flush=True)
    keeper, trainer = Channel.pair()
    wake = threading.Event()
    committer = Committer(run, arena, wake.set, retire, print)
    snapshots = Snapshots(arena, state, layout, Link(trainer), Settings(copying="blocking"), print)
    names = ("bare", "blocking", "durable", "raw", "load", "raw read", "first")
    found: dict[str, list[float]] = {name: [] for name in names}
    targets, sources = targets_of(arena, layout), layout.in_order(state.tensors())
    for number in range(len(arena.slots) + ROUNDS):
        is_steady = number >= len(arena.slots)
        bare = timed(bare_copy, targets, sources)
        began = time.perf_counter()
        snapshots.take(draft(state), claimed=True)
        stall = time.perf_counter() - began
        version = committed(committer, keeper, wake)
        durable = time.perf_counter() - began
        settle(committer, wake)
        if not is_steady:  # the first copy into each slot: its pages are new to both processes
            found["first"].append(stall / bare)
            continue
        path = folder / "raw"
        slot = arena.slots[0]
        taken_s = {
            "bare": bare,
            "blocking": stall,
            "durable": durable,
            "raw": timed(lambda s=slot, p=path: [raw_write(p, s.padded_image(f.path)) for f in planned]),
            "load": timed(lambda v=version: load(state.tensors(), v)),
            "raw read": timed(lambda v=version: [raw_read(v.path / f.path) for f in planned]),
        }
        for name, value in taken_s.items():
            found[name].append(value)
        path.unlink()
        print(json.dumps({name: round(value, 3) for name, value in taken_s.items()}), flush=True)
    result: dict[str, Any] = {name: statistics.median(values) for name, values in found.items()}
    result["memory"] = (resident_bytes() - before) / size
    result["slots"] = len(arena.slots)
    for name, (a, b) in RATIOS.items():
        result[name] = statistics.median(x / y for x, y in zip(found[a], found[b], strict=True))
    result |= measure_overlap(state, arena, layout, trainer, keeper)
    for _ in committer.finish():
        pass
    release(arena)
    return result


def retire(run: Run) -> str:
    """As in a training: the newest version is read whole before older ones go."""
    prune(run, Policy(last=2), time.time(), ())
    return ""


def committed(committer: Committer, keeper: Channel, wake: threading.Event) -> Version:
    """Do what a keeper does with the messages of one claim, until it is a version."""
    while True:
        while keeper.is_waiting(0.001):
            message = keeper.receive()
            if message["kind"] == "claim":
                committer.claim(message["slot"], message["generation"], message["step"])
            else:
                committer.sealed(message["generation"])
        for outcome in committer.outcomes():
            assert outcome.version is not None, outcome.error
            return outcome.version
        wake.clear()


def settle(committer: Committer, wake: threading.Event) -> None:
    """Until older versions have gone."""
    while committer._retiring:
        wake.wait(0.1)
        for _ in committer.retired():
            pass
        while committer._retiring and committer._retiring[0].done():
            committer._retiring.pop(0)


def targets_of(arena: Arena, layout: Layout) -> list[torch.Tensor]:
    """Tensors over the last slot, for the bare copy."""
    views = []
    for image in layout.images:
        memory = arena.slots[-1].image(image.path)
        for place in image.places.values():
            count = (place.end - place.begin) // 4
            flat = torch.frombuffer(memory, dtype=torch.float32, count=count, offset=len(image.header) + place.begin)
            views.append(flat.view(place.shape))
    return views


def measure_overlap(
    state: TrainState, arena: Arena, layout: Layout, trainer: Channel, keeper: Channel
) -> dict[str, float]:
    """Steps with and without a copy beside them, taking turns; and with one copied while training waits."""
    taken: dict[str, list[float]] = {"plain step": [], "overlapped step": [], "background": [], "waiting step": []}
    ways = {}
    for copying in ("background", "blocking"):
        ways[copying] = Snapshots(arena, state, layout, Link(trainer), Settings(copying=copying), print)
    step(state)
    for _ in range(ROUNDS):
        taken["plain step"].append(timed(step, state))
        for copying, name in (("background", "overlapped step"), ("blocking", "waiting step")):
            snapshots = ways[copying]
            snapshots._generation = max(slot.generation for slot in arena.slots)
            state.revision.before_change = snapshots._copier._let_change
            began = time.perf_counter()
            snapshots.take(draft(state), claimed=False)
            step(state)
            taken[name].append(time.perf_counter() - began)
            snapshots.wait()
            if copying == "background":
                taken["background"].append(snapshots._pace._costs[-1].stall_s)
                taken.setdefault("beside", []).append(snapshots._pace._costs[-1].beside_s)
        print(json.dumps({name: round(values[-1], 3) for name, values in taken.items()}), flush=True)
    result = {name: statistics.median(values) for name, values in taken.items()}
    cores = os.cpu_count() or 1
    # All that the copy, its digests and its health take of the processors, spread over all of them at no other loss.
    result["limit"] = 1 + result["beside"] / cores / result["plain step"]
    return result


def step(state: TrainState) -> None:
    """A forward and backward of the ControlNet, and the optimizer's step."""
    network = state.controlnet
    noisy, hidden = torch.randn(1, 4, SIDE, SIDE), torch.randn(1, 77, 768)
    downs, mid = network(noisy, torch.tensor([500]), hidden, torch.rand(1, 3, 8 * SIDE, 8 * SIDE), return_dict=False)
    torch.stack([part.square().mean() for part in (*downs, mid)]).sum().backward()  # type: ignore[no-untyped-call]
    state.optimizer.step()
    state.optimizer.zero_grad(set_to_none=True)


def draft(state: TrainState) -> Draft:
    return Draft(1, 1, "interval", None, (), {"training/state.json": b"{}"}, {})


def bare_copy(targets: list[torch.Tensor], sources: list[torch.Tensor]) -> None:
    for target, source in zip(targets, sources, strict=True):
        target.copy_(source.detach())


def timed(action: Callable[..., Any], *arguments: Any) -> float:
    began = time.perf_counter()
    action(*arguments)
    return time.perf_counter() - began


def load(live: Mapping[str, dict[str, Tensor]], version: Version) -> None:
    """All that a resume reads, verified, into the tensors that are there."""
    for path, tensors in live.items():
        fill(tensors, version, path)


def raw_write(path: Path, memory: memoryview) -> int:
    """What the disk can do: whole pages past the page cache, then fsync."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_DIRECT, 0o666)
    os.posix_fallocate(descriptor, 0, memory.nbytes)
    for begin in range(0, memory.nbytes, CHUNK_BYTES):
        os.write(descriptor, memory[begin : begin + CHUNK_BYTES])
    os.fsync(descriptor)
    os.close(descriptor)
    return memory.nbytes


def raw_read(path: Path) -> int:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECT)
    buffer = mmap.mmap(-1, CHUNK_BYTES)
    total = 0
    while count := os.readv(descriptor, [buffer]):
        total += count
    os.close(descriptor)
    return total


def resident_bytes() -> int:
    """Memory of this process, what it shares included."""
    lines = dict(line.split(":") for line in Path("/proc/self/status").read_text().splitlines())
    return int(lines["VmRSS"].split()[0]) << 10


def ours_table(found: dict[str, Any]) -> str:
    rows = [
        ("bare copy of the same bytes", f"{found['bare']:.2f} s", ""),
        ("stall, blocking / bare copy", f"{found['copy ratio']:.2f}", "at most 1.2"),
        ("stall, in the background / bare copy", f"{found['background'] / found['bare']:.3f}", "at most 0.15"),
        (
            "step with a copy beside it / without",
            f"{found['overlapped step'] / found['plain step']:.3f}",
            "at most 1.15",
        ),
        ("the same, copied while training waits", f"{found['waiting step'] / found['plain step']:.3f}", ""),
        ("the least, by the processor time that copy, digests and health take", f"{found['limit']:.3f}", ""),
        ("stall of the first copy into a slot / bare copy", f"{found['first']:.2f}", ""),
        ("raw O_DIRECT write and fsync / copy to durable commit", f"{found['write ratio']:.2f}", "at least 0.92"),
        ("raw O_DIRECT read / load and verify", f"{found['read ratio']:.2f}", "at least 0.92"),
        (f"memory / state, {found['slots']} slots", f"{found['memory']:.2f}", "slots x state"),
    ]
    return "| | measured | asked |\n| --- | --- | --- |\n" + "".join(f"| {a} | {b} | {c} |\n" for a, b, c in rows)


if __name__ == "__main__":
    main()
