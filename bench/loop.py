"""What the training loop costs over a bare PyTorch loop with the same networks, optimizer and batches.

    python bench/loop.py

Everstep's loop counts, records every step, shows progress, writes the live file and looks for requests. The bare loop
takes the same batches from the same stream; a second one finds them ready in memory, which no real training does. All
take turns in one process, so that a noisy machine is noisy for all; the figures are medians of the ratios of
neighbours. Versions and pictures are left out.
"""

import itertools
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import torch

from everstep.config.load import Settings, dump, resolve
from everstep.contracts import Batch
from everstep.data import Source
from everstep.keeping.link import Link
from everstep.launch.checks import complete
from everstep.models.objective import loss as loss_of
from everstep.train import session
from everstep.train.loop import Loop
from everstep.train.progress import Reporter
from everstep.train.rates import learning_rate, set_learning_rate
from everstep.train.ready import Ready, open_data
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


def bare_steps(loop: Loop, batches: Iterator[Batch], steps: int) -> float:
    """Seconds for the same work, written as one would in a script."""
    network, optimizer, optim = loop.state.controlnet, loop.state.optimizer, loop.config.optim
    began = time.perf_counter()
    for _ in range(steps):
        set_learning_rate(optimizer, learning_rate(loop.state.step, optim))
        loss = loss_of(loop.family, network, next(batches))
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
        ready = itertools.cycle([next(loop.batches) for _ in range(STEPS)])
        turns: dict[str, Callable[[], float]] = {
            "everstep": lambda: everstep_steps(loop, STEPS),
            "bare": lambda: bare_steps(loop, loop.batches, STEPS),
            "in memory": lambda: bare_steps(loop, ready, STEPS),
        }
        for turn in turns.values():
            turn()
        rounds = []
        for number in range(ROUNDS):
            names = list(turns)[number % 3 :] + list(turns)[: number % 3]
            rounds.append({name: turns[name]() for name in names})
            print(f"round {number + 1}/{ROUNDS}: {rounds[-1]['everstep'] / rounds[-1]['bare']:.3f}", flush=True)
    against = {name: [taken["everstep"] / taken[name] for taken in rounds] for name in ("bare", "in memory")}
    step_ms = statistics.median(taken["bare"] for taken in rounds) / STEPS * 1e3
    rows = [
        ("bare step, batch 16, circles", f"{step_ms:.1f} ms", ""),
        ("Everstep / bare loop over the same stream of batches", in_words(against["bare"]), "at most 1.03"),
        ("Everstep / bare loop over batches ready in memory", in_words(against["in memory"]), ""),
    ]
    record(
        "The loop over a bare PyTorch loop (bench/loop.py)",
        f"Medians of {ROUNDS} rounds of {STEPS} steps each, with their range.\n\n"
        "| | measured | asked |\n| --- | --- | --- |\n"
        + "".join(f"| {what} | {measured} | {asked} |\n" for what, measured, asked in rows),
    )


def in_words(ratios: list[float]) -> str:
    return f"{statistics.median(ratios):.3f} ({min(ratios):.3f} to {max(ratios):.3f})"


def built_loop(
    folder: Path,
    closing: ExitStack,
    link: Link | None = None,
    settings: Settings | None = None,
    wrap: Callable[[Source], Source] = lambda source: source,
) -> Loop:
    """A training on the built-in base and data, as `everstep train` builds it; with a link, it takes snapshots.

    Args:
        settings: over those of the preset.
        wrap: makes other pairs of the built-in ones.
    """
    alone: Settings = {"optim": {"max_steps": 10**6}, "sampling": {"pairs": 0}, "versions": {"every": 10**6}}
    config, base = complete(resolve("circles", merged(alone, settings or {})))
    run = Run.create(folder, dump(config))
    ready = Ready(run, config, base, base.digest(), wrap(open_data(config, print)), None, None)
    reporter = Reporter()
    signals = closing.enter_context(StopSignals(print))
    return session.build(ready, reporter, signals, closing, link)


def merged(under: Settings, over: Settings) -> Settings:
    """Section by section."""
    return {name: {**under.get(name, {}), **over.get(name, {})} for name in {**under, **over}}


if __name__ == "__main__":
    main()
