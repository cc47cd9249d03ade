"""What scores and pictures cost at their default settings, against the training between two versions.

    python bench/scores.py

Steps, a measurement of control gain and a drawing of the contact sheet take turns in one process; the figures are
medians of the ratios of neighbours.
"""

import math
import statistics
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

from everstep.config.load import Settings
from everstep.data import BatchStream, split
from everstep.evaluation.gain import num_examples
from everstep.evaluation.scorer import Found, Scorer
from everstep.train.loop import Loop
from loop import built_loop, everstep_steps
from machine import record

ROUNDS, STEPS, INTERVAL_STEPS = 7, 20, 300
# The schema's batch, at which little training is done between versions, and the quickstart's.
BATCHES = {"batch 4, 4 pictures": (4, 4), "batch 16, 8 pictures (quickstart)": (16, 8)}


def main() -> None:
    """Measure and write RESULTS.md."""
    rows = []
    for name, (batch, pairs) in BATCHES.items():
        settings: Settings = {"optim": {"batch_size": batch}, "versions": {"every": INTERVAL_STEPS}}
        with tempfile.TemporaryDirectory() as folder, ExitStack() as closing:
            loop = built_loop(Path(folder) / "run", closing, settings=settings)
            gains, pictures = shares(loop, scorer_of(loop, pairs))
        gain, drawn = statistics.median(gains), statistics.median(pictures)
        # Where one measurement costs more than its share, the account of the training lets only some versions have one.
        every = max(1, math.ceil(gain / loop.config.scoring.overhead))
        examples = num_examples(loop.config.scoring.overhead, INTERVAL_STEPS * batch)
        rows.append(f"| {name} | {examples} | {gain:.2%} | {every} | {gain / every:.2%} | {drawn:.2%} |")
        print(rows[-1], flush=True)
    record(
        "What scores cost (bench/scores.py)",
        f"Shares of the time of {INTERVAL_STEPS} steps, circles. Asked: control gain at most 2 % of a training, "
        "pictures 5 %.\n\n"
        "| | examples | one measurement | versions to one measurement | of the training | contact sheet |\n"
        "| --- | --- | --- | --- | --- | --- |\n" + "\n".join(rows),
    )


def scorer_of(loop: Loop, pairs: int) -> Scorer:
    """As a training makes it."""
    stream = loop.batches.stream
    assert isinstance(stream, BatchStream)
    sampling = loop.config.sampling.model_copy(update={"pairs": pairs})
    config = loop.config.model_copy(update={"sampling": sampling})
    framer = stream.framer
    return Scorer(loop.family, config, framer, split(framer.source, config.data.held_out_pairs), stream.settings)


def shares(loop: Loop, scorer: Scorer) -> tuple[list[float], list[float]]:
    """Of each round: what a version's control gain and its pictures took of the steps of its interval."""
    gains, pictures = [], []
    for _ in range(ROUNDS):
        step_s = everstep_steps(loop, STEPS) / STEPS
        gains.append(timed(lambda: scorer.measure_gain(loop.state.controlnet, Found())) / (INTERVAL_STEPS * step_s))
        pictures.append(timed(lambda: scorer.draw(loop.state.controlnet, Found())) / (INTERVAL_STEPS * step_s))
    return gains[1:], pictures[1:]


def timed(act: Callable[[], None]) -> float:
    began = time.perf_counter()
    act()
    return time.perf_counter() - began


if __name__ == "__main__":
    main()
