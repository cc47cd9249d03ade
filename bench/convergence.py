"""How many images until the circle obeys the outline: the preset against the diffusers script's recipe.

    python bench/convergence.py                 everything, three seeds: hours on one core
    python bench/convergence.py --quick         one seed, and only the diffusers recipe at its best rate
    python bench/convergence.py --options       the preset with one option changed at a time

Same base, data, batch and measure for all: the mean circle IoU over 32 held-out pairs, drawn every 20 steps, 10 UniPC
steps at guidance 2. A run arrives with the first measurement of at least 0.7 whose next one is too. What was measured
is kept in build/bench/convergence.json, so that a stopped bench goes on. Seconds are the processor's, on one thread,
drawing left out: they are the wall clock of a core that nothing else uses.
"""

import argparse
import contextlib
import io
import itertools
import json
import statistics
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import xxhash
from rich.console import Console

from everstep.config.load import dump, resolve
from everstep.config.schema import Config, Sampling
from everstep.data import fit, split
from everstep.data.layouts import circles
from everstep.evaluation.pictures.draw import Shown, draw
from everstep.launch.checks import complete
from everstep.train import session
from everstep.train.loop import Loop
from everstep.train.progress import Reporter
from everstep.train.ready import Ready, open_data
from everstep.train.stop import StopSignals
from everstep.versions import Run
from machine import record

KEPT = Path(__file__).parent.parent / "build" / "bench" / "convergence.json"
WANTED_IOU, EVERY_STEPS, PAIRS = 0.7, 20, 32
DRAWING = Sampling(steps=10, guidance_scale=2.0)
BATCH_SIZE, BEST_RATE = 16, 3e-3
NEVER_SAVED: dict[str, Any] = {"sampling": {"pairs": 0}, "versions": {"every": 10**6}}

Settings = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Recipe:
    """Settings over a preset's or, without one, the defaults, and where a run that does not arrive is given up."""

    name: str
    preset: str | None
    settings: Settings
    bound_steps: int = 900

    def config(self, seed: int) -> Config:
        """Everything that is trained, and nothing saved or drawn on the way."""
        return resolve(self.preset, merged(self.settings, {"optim": {"seed": seed}, **NEVER_SAVED}))


@dataclass(frozen=True, slots=True)
class Arrival:
    """What one run came to: every measurement, and the first that counts."""

    curve: list[tuple[int, float]]
    seconds: list[float]  # of training until each measurement
    batch_size: int

    @property
    def index(self) -> int | None:
        """Of the first measurement that reaches the wanted IoU and is followed by another that does."""
        reached = [iou >= WANTED_IOU for _, iou in self.curve]
        return next((i for i, both in enumerate(itertools.pairwise(reached)) if all(both)), None)

    @property
    def images(self) -> int | None:
        return None if self.index is None else self.curve[self.index][0] * self.batch_size

    @property
    def bound_images(self) -> int:
        return self.curve[-1][0] * self.batch_size


# --- the recipes -------------------------------------------------------------------------------------------


def diffusers(rate: float, bound_steps: int = 900) -> Recipe:
    """The defaults of examples/controlnet/train_controlnet.py but for batch size and learning rate."""
    optim = {
        "batch_size": BATCH_SIZE,
        "max_steps": 10**6,
        "learning_rate": rate,
        "schedule": "constant",
        "warmup_steps": 0,
        "beta1": 0.9,
        "beta2": 0.999,
        "weight_decay": 1e-2,
        "epsilon": 1e-8,
        "max_grad_norm": 1.0,
        "timestep_shift": 1.0,
        "min_snr_gamma": None,
        "ema_decay": 0.0,
    }
    settings = {"optim": optim, "data": {"prompt_dropout": 0.0}}
    return Recipe(f"diffusers script, rate {rate:g}", None, settings, bound_steps)


def but(name: str, section: str = "optim", **settings: Any) -> Recipe:
    """The preset with something changed."""
    return Recipe(f"preset, but {name}", "circles", {section: settings}, bound_steps=200)


OURS = Recipe("Everstep, preset circles", "circles", {})
KEPT_OPTIONS = [
    but("timesteps not shifted", timestep_shift=1.0),
    but("hint encoder from zero", hint_start="zero"),
    but("no averaged weights", ema_decay=0.0),
]
OTHER_OPTIONS = [
    but("20 steps of warm-up", warmup_steps=20),
    but("rate 3e-3", learning_rate=3e-3),
    but("beta2 0.99", beta2=0.99),
    but("prompt dropout 0.5", section="data", prompt_dropout=0.5),
    but("min-SNR, gamma 5", min_snr_gamma=5.0),
]
RATES = [diffusers(rate) for rate in (1e-2, 3e-3)]
SMALL_RATES = [diffusers(1e-3, 400), diffusers(3e-4, 200), *[diffusers(rate, 100) for rate in (1e-4, 1e-5, 5e-6)]]


# --- one run -----------------------------------------------------------------------------------------------


def measured(recipe: Recipe, seed: int) -> Arrival:
    """Train until the recipe has arrived or its bound is reached; what an earlier bench measured is taken."""
    config = recipe.config(seed)
    key = f"{recipe.name}, seed {seed}, {trained_digest(config)}"
    kept = json.loads(KEPT.read_text()) if KEPT.exists() else {}
    if key not in kept:
        kept[key] = asdict(train(config, recipe, seed))
        KEPT.parent.mkdir(parents=True, exist_ok=True)
        KEPT.write_text(json.dumps(kept, indent=1))
    return Arrival(**kept[key])


def trained_digest(config: Config) -> str:
    """Of the settings that decide on what is trained: measurements made with others are not taken."""
    trained = config.model_dump(mode="json", include={"base", "data", "optim"})
    return xxhash.xxh3_64_hexdigest(json.dumps(trained).encode())


def train(config: Config, recipe: Recipe, seed: int) -> Arrival:
    """One training, measured as it goes."""
    arrival = Arrival([], [], config.optim.batch_size)
    seconds = 0.0
    with tempfile.TemporaryDirectory() as folder, ExitStack() as closing:
        loop = built_loop(config, Path(folder) / "run", closing)
        shown, numbers = held_out(config)
        while arrival.index is None and loop.state.step < recipe.bound_steps:
            began = time.process_time()
            for _ in range(EVERY_STEPS):
                loop.advance()
            seconds += time.process_time() - began
            iou = mean_iou(loop, shown, numbers)
            arrival.curve.append((loop.state.step, round(iou, 4)))
            arrival.seconds.append(round(seconds, 2))
            print(f"{recipe.name}, seed {seed}, step {loop.state.step:,}: IoU {iou:.3f}", flush=True)
    return arrival


def built_loop(config: Config, folder: Path, closing: ExitStack) -> Loop:
    """The training that `everstep train` would run, without its keeper and its progress line."""
    config, base = complete(config)
    run = Run.create(folder, dump(config))
    ready = Ready(run, config, base, base.digest(), open_data(config, print), None, None)
    signals = closing.enter_context(StopSignals(print))
    return session.build(ready, Reporter(Console(file=io.StringIO())), signals, closing)


def held_out(config: Config) -> tuple[list[Shown], Sequence[int]]:
    """What the pictures of a measurement are drawn from, none of it trained on."""
    config, _ = complete(config)
    source = open_data(config, print)
    numbers = split(source, config.data.held_out_pairs).held_out[:PAIRS]
    pairs = [source.load(number) for number in numbers]
    return [Shown(fit(pair, config.data.resolution or 0)[1], pair.caption) for pair in pairs], numbers


def mean_iou(loop: Loop, shown: list[Shown], numbers: Sequence[int]) -> float:
    """Over the held-out pairs, with the averaged weights where there are any."""
    with loop.state.ema.swapped_in() if loop.state.ema else contextlib.nullcontext():
        drawn = draw(loop.family, loop.state.controlnet, shown, DRAWING)
    return float(np.mean([circles.circle_iou(p, circles.circle(n)) for p, n in zip(drawn, numbers, strict=True)]))


def merged(one: Settings, other: Settings) -> dict[str, Any]:
    """Both, section by section."""
    return {section: {**one.get(section, {}), **other.get(section, {})} for section in {*one, *other}}


# --- the tables --------------------------------------------------------------------------------------------


def row(recipe: Recipe, seeds: Sequence[int], ours: float) -> str:
    """Images of each seed, their mean, its ratio to ours, and seconds; what did not arrive is told as such."""
    runs = [measured(recipe, seed) for seed in seeds]
    images = [f"{run.images:,}" if run.images else f"> {run.bound_images:,}" for run in runs]
    seconds = [run.seconds[run.index] for run in runs if run.index is not None]
    least = statistics.mean(run.images or run.bound_images for run in runs)
    more = "" if len(seconds) == len(runs) else "> "
    took = f"{statistics.mean(seconds):.0f}" if seconds and not more else "-"
    return f"| {recipe.name} | {', '.join(images)} | {more}{least:,.0f} | {more}{least / ours:.2f} | {took} |\n"


def table(recipes: Sequence[Recipe], seeds: Sequence[int]) -> str:
    """One row for each recipe; ratios are to ours on the same seeds."""
    ours = statistics.mean(run.images or run.bound_images for run in (measured(OURS, seed) for seed in seeds))
    names = ", ".join(str(seed) for seed in seeds)
    return (
        f"| recipe | images to IoU {WANTED_IOU}, seeds {names} | mean | over Everstep's | seconds |\n"
        "| --- | --- | --- | --- | --- |\n" + "".join(row(recipe, seeds, ours) for recipe in recipes)
    )


def main() -> None:
    """Measure and write RESULTS.md."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--quick", action="store_true", help="one seed, the best rate only")
    parser.add_argument("--options", action="store_true", help="one option changed at a time")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    if asked.options:
        print(table([OURS, *KEPT_OPTIONS], range(asked.seeds)) + "\n" + table([OURS, *OTHER_OPTIONS], [0]))
        return
    if asked.quick:
        print(table([OURS, diffusers(BEST_RATE)], [0]))
        return
    record(
        "Images to control (bench/convergence.py)",
        f"builtin:circles, batch {BATCH_SIZE}; {PAIRS} held-out pairs drawn every "
        f"{EVERY_STEPS} steps. Seconds are of one core, without drawing. > means that a run did not arrive and was "
        "given up there.\n\n"
        + table([OURS, *RATES], range(asked.seeds))
        + "\nSmaller rates, one seed:\n\n"
        + table([OURS, *SMALL_RATES], [0]),
    )


if __name__ == "__main__":
    main()
