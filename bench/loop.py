"""What the training loop costs over a bare PyTorch loop with the same networks, optimizer and batches.

    python bench/loop.py

The bare loop gets its batches ready in memory. Everstep's prepares them, counts, records every step, shows progress,
writes the live file and looks for requests. Both take turns in one process, so that a noisy machine is noisy for both;
the figure is the median of the ratios of neighbours. Versions and pictures are left out.
"""

import statistics
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch

from everstep.config import dump, resolve
from everstep.contracts import Batch
from everstep.train import session
from everstep.train.channel import Channel
from everstep.train.intent import Ready, complete, open_data
from everstep.train.loop import Loop
from everstep.train.optim import learning_rate, set_learning_rate
from everstep.train.progress import Reporter
from everstep.train.stop import StopSignals
from everstep.versions import Run
from machine import record

ROUNDS, STEPS = 12, 25


def everstep_steps(loop: Loop, steps: int) -> float:
    """Seconds for steps of Everstep's own loop."""
    began = time.perf_counter()
    for _ in range(steps):
        loop.advance()
        loop.asked_to_stop()
    return time.perf_counter() - began


def bare_steps(loop: Loop, batches: list[Batch], steps: int) -> float:
    """Seconds for the same work, written as one would in a script."""
    network, optimizer, optim = loop.state.controlnet, loop.state.optimizer, loop.config.optim
    began = time.perf_counter()
    for i in range(steps):
        set_learning_rate(optimizer, learning_rate(loop.state.step, optim))
        loss = loop.family.loss(network, batches[i % len(batches)])
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        loss.item()
    return time.perf_counter() - began


def main() -> None:
    """Measure and write RESULTS.md."""
    with tempfile.TemporaryDirectory() as folder, ExitStack() as closing:
        loop = built_loop(Path(folder) / "run", closing)
        batches = [next(loop.batches) for _ in range(STEPS)]
        everstep_steps(loop, 5)
        bare_steps(loop, batches, 5)
        ratios, bare = [], []
        for number in range(ROUNDS):
            turns: list[Any] = [lambda: everstep_steps(loop, STEPS), lambda: bare_steps(loop, batches, STEPS)]
            first, second = (turn() for turn in (turns if number % 2 else turns[::-1]))
            ours, theirs = (first, second) if number % 2 else (second, first)
            ratios.append(ours / theirs)
            bare.append(theirs / STEPS)
            print(f"round {number + 1}/{ROUNDS}: {ours / theirs:.3f}", flush=True)
    spread = f"{min(ratios):.3f} to {max(ratios):.3f}"
    record(
        "The loop over a bare PyTorch loop (bench/loop.py)",
        f"| | |\n| --- | --- |\n| bare step, batch 16, circles | {statistics.median(bare) * 1e3:.1f} ms |\n"
        f"| Everstep / bare, median of {ROUNDS} paired rounds of {STEPS} steps | {statistics.median(ratios):.3f} |\n"
        f"| range | {spread} |\n| asked | at most 1.03 |",
    )


def built_loop(folder: Path, closing: ExitStack, channel: Channel | None = None) -> Loop:
    """A training on the built-in base and data, as `everstep train` builds it; with a channel, it takes snapshots."""
    config = resolve("circles", {"optim": {"max_steps": 10**6}, "sampling": {"pairs": 0}, "versions": {"every": 10**6}})
    config, base = complete(config)
    run = Run.create(folder, dump(config))
    ready = Ready(run, config, base, base.digest(), open_data(config, print), None, None)
    reporter = Reporter()
    signals = closing.enter_context(StopSignals(print))
    return session.build(ready, reporter, signals, closing, channel)


if __name__ == "__main__":
    main()
