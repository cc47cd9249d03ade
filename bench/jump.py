"""Does control gain name the jump, and only where there is one? And what do scores cost?

    python bench/jump.py [--seeds 0,1,2] [--recipe preset|plain] [--steps 600] [--every 25]

Trains on circles, with a version's measures every so many steps: control gain, from which the verdict is made, and the
circles' intersection over union (IoU) on 32 held-out pairs, which tells what is true. Then the same with conditions
that belong to other pairs: nothing can be learned from them, and nothing must be said to have been. The quickstart's
recipe comes to obey within a few dozen steps; a plain one takes ten times as long, and shows the jump. Keeps what it
has in build/bench/jump.json and goes on from there.
"""

import argparse
import json
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from everstep.evaluation.probe import Probe

from everstep.config import Settings
from everstep.contracts import Pair
from everstep.data import BatchStream, Source, circles, split
from everstep.evaluation.gain import num_examples
from everstep.evaluation.pictures.draw import draw, shown_pairs
from everstep.records.verdict import Control, Point, Verdict, verdict
from everstep.train.loop import Loop
from loop import built_loop, merged
from machine import record

KEPT = Path("build/bench/jump.json")
PAIRS, OBEYED_IOU, INTERVAL_STEPS = 32, 0.5, 300
PLAIN: Settings = {
    "data": {"prompt_dropout": 0.5},
    "optim": {"learning_rate": 1e-3, "timestep_shift": 1.0, "hint_start": "zero", "ema_decay": 0.0},
}
RECIPES: dict[str, Settings] = {"preset": {}, "plain": PLAIN}


@dataclass(frozen=True)
class Seen:
    """One version's measures."""

    step: int
    gain: float
    low: float
    high: float
    iou: float | None


class Shuffled:
    """Every picture with the outline of another one."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self.description, self.skipped, self.captioned = source.description, source.skipped, source.captioned
        self.looks = source.looks

    def __len__(self) -> int:
        return len(self._source)

    def name(self, pair: int) -> str:
        return self._source.name(pair)

    def load(self, pair: int) -> Pair:
        own, other = self._source.load(pair), self._source.load((pair + len(self) // 3) % len(self))
        return Pair(own.target, other.condition, own.caption)

    def fingerprint(self) -> str:
        return f"shuffled:{self._source.fingerprint()}"


def main() -> None:
    """Train, measure, judge, and write RESULTS.md."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--recipe", choices=RECIPES, default="preset")
    parser.add_argument("--kinds", default="true,shuffled")
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--every", type=int, default=25)
    asked = parser.parse_args()
    KEPT.parent.mkdir(parents=True, exist_ok=True)
    rows: list[tuple[str, ...]] = []
    kept: dict[str, list[dict[str, float]]] = json.loads(KEPT.read_text()) if KEPT.exists() else {}
    for seed in map(int, asked.seeds.split(",")):
        for kind in asked.kinds.split(","):
            name = f"{asked.recipe} {kind} {seed} every {asked.every} to {asked.steps}"
            if name not in kept:
                print(name, flush=True)
                kept[name] = [asdict(seen) for seen in trained(seed, asked, kind == "shuffled")]
                KEPT.write_text(json.dumps(kept))
            rows.append(row(kind, seed, [Seen(**seen) for seen in kept[name]], asked.every))  # type: ignore[arg-type]
    report(rows, asked.recipe, asked.every)


def trained(seed: int, asked: argparse.Namespace, is_shuffled: bool) -> list[Seen]:
    """A training measured every so many steps."""
    with tempfile.TemporaryDirectory() as folder, ExitStack() as closing:
        wrap: Callable[[Source], Source] = Shuffled if is_shuffled else lambda source: source
        settings = merged(RECIPES[asked.recipe], {"optim": {"seed": seed, "max_steps": 1800}})
        loop = built_loop(Path(folder) / "run", closing, settings=settings, wrap=wrap)
        measure = measures(loop, is_shuffled)
        seen = [measure(0)]
        while loop.state.step < asked.steps:
            loop.advance()
            if loop.state.step % asked.every == 0:
                seen.append(measure(loop.state.step))
                print(seen[-1], flush=True)
        return seen


def measures(loop: Loop, is_shuffled: bool) -> Callable[[int], Seen]:
    """Control gain as training measures it at 300 steps a version, and IoU."""
    assert isinstance(loop.batches, BatchStream)
    config, source, settings = loop.config, loop.batches.source, loop.batches.settings
    pairs = split(source, config.data.held_out_pairs)
    examples = num_examples(config.scoring.overhead, INTERVAL_STEPS * config.optim.batch_size)
    probe = Probe(loop.family, source, pairs.held_out, pairs.training, settings, examples, config.optim.batch_size)
    numbers = pairs.held_out[:PAIRS]
    shown = shown_pairs(source, numbers, config.data)

    def measure(step: int) -> Seen:
        gain, iou = probe.measure(loop.state.controlnet), None
        if not is_shuffled:
            drawn = draw(loop.family, loop.state.controlnet, shown, config.sampling)
            found = [circles.circle_iou(p, circles.circle(n)) for p, n in zip(drawn, numbers, strict=True)]
            iou = float(np.mean(found))
        return Seen(step, gain.value, gain.low, gain.high, iou)

    return measure


def row(kind: str, seed: int, seen: list[Seen], every: int) -> tuple[str, ...]:
    """What the verdict says at the end, against what IoU says."""
    points = [Point(number, one.step, one.gain, one.low, one.high) for number, one in enumerate(seen)]
    found, last = verdict(points, 16), seen[-1]
    if kind == "shuffled":
        said = [verdict(points[: count + 1], 16) for count in range(len(points))]
        wrong = sum(one.state is not Control.NOT_YET for one in said)
        highest = max(one.gain for one in seen)
        return (
            f"shuffled, seed {seed}",
            "never" if not wrong else f"{wrong} times",
            "-",
            "-",
            f"highest {highest:.4f}",
        )
    true = next((one.step for one in seen if (one.iou or 0) >= OBEYED_IOU), None)
    off = "-" if true is None or found.since_step is None else f"{(found.since_step - true) / every:+.0f}"
    return (f"true, seed {seed}", named(found), named_step(true), off, f"gain {last.gain:.2f}, IoU {last.iou:.2f}")


def named(found: Verdict) -> str:
    return "never" if found.since_step is None else named_step(found.since_step)


def named_step(step: int | None) -> str:
    return "never" if step is None else f"step {step}"


def report(rows: list[tuple[str, ...]], recipe: str, every: int) -> None:
    """As a table. Asked: within two versions of the truth; never for shuffled conditions."""
    head = ("conditions", "gain says obeyed", f"IoU passes {OBEYED_IOU}", "versions between", "at the end")
    lines = [f"| {' | '.join(cells)} |" for cells in (head, ("---",) * len(head), *rows)]
    record(
        f"Control gain against the truth, circles, {recipe} recipe (bench/jump.py)",
        f"A version every {every} steps. Asked: at most two versions between; never for shuffled conditions, at any "
        "version.\n\n" + "\n".join(lines),
    )


if __name__ == "__main__":
    main()
