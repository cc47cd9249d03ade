"""What snapshots at their default setting cost a real training: the quickstart's steps with and without them.

    python bench/snapshots.py

Both take turns in one process; the figure is the median of the ratios of neighbours.
"""

import statistics
import tempfile
import threading
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from everstep.keeping.arena import PlannedFile, SlotState, plan_arena
from everstep.keeping.channel import Channel
from everstep.keeping.link import Link
from everstep.keeping.memory import release, take_memory
from everstep.keeping.sealed import Filling, commit_slot
from everstep.versions import Run
from loop import built_loop, everstep_steps
from machine import record

ROUNDS, STEPS, WARM_STEPS = 10, 60, 60


def answer(channel: Channel, run: Path, closing: ExitStack) -> None:
    """What a keeper does for a trainer: memory, and version_0."""
    message = channel.receive()
    files = [PlannedFile(path, size) for path, size in message["files"]]
    taken = take_memory(lambda slots: plan_arena(run, files, message["notes_bytes"], slots), None)
    assert taken.arena is not None
    closing.callback(release, taken.arena)
    channel.send("arena", taken.arena.descriptor, where=taken.where, path=None)
    claim, _ = channel.receive(), channel.receive()
    slot = taken.arena.slots[claim["slot"]]
    version = commit_slot(Run.open(run), taken.arena, Filling.of_sealed(slot))
    slot.set_state(SlotState.SEALED)
    facts: dict[str, Any] = {"number": version.number, "manifest": version.manifest}
    channel.send("committed", None, generation=claim["generation"], seconds=0.0, **facts)


def main() -> None:
    """Measure and write RESULTS.md."""
    with tempfile.TemporaryDirectory() as folder, ExitStack() as closing:
        keeper, trainer = Channel.pair()
        closing.callback(keeper.close)
        answering = threading.Thread(target=answer, args=(keeper, Path(folder) / "run", closing))
        answering.start()
        loop = built_loop(Path(folder) / "run", closing, Link(trainer))
        answering.join()
        snapshots, snapshot = loop.saver.snapshots, loop.saver.snapshot
        assert snapshots is not None
        loop.rate.start(0)
        everstep_steps(loop, WARM_STEPS)
        ratios, taken = [], 0
        for number in range(ROUNDS):
            seconds = {}
            for with_them in (True, False) if number % 2 else (False, True):
                loop.saver.snapshot = snapshot if with_them else lambda: None  # type: ignore[method-assign]
                before = snapshots.generation
                seconds[with_them] = everstep_steps(loop, STEPS)
                taken += snapshots.generation - before
            ratios.append(seconds[True] / seconds[False])
            print(f"round {number + 1}/{ROUNDS}: {ratios[-1]:.4f}", flush=True)
        record(
            "Snapshots at their default setting (bench/snapshots.py)",
            f"| | measured | asked |\n| --- | --- | --- |\n"
            f"| circles, batch 16: steps with snapshots / without, median of {ROUNDS} paired rounds of {STEPS} steps "
            f"| {statistics.median(ratios):.4f} | at most 1.01 |\n"
            f"| range | {min(ratios):.4f} to {max(ratios):.4f} | |\n"
            f"| steps between snapshots | {ROUNDS * STEPS / max(1, taken):.1f} | |\n"
            f"| way to copy, chosen by measurement | {snapshots.mode} | |",
        )


if __name__ == "__main__":
    main()
