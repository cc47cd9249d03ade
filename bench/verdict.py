"""What is said of a training, at every version: falsely, too late, or as it is?

    python bench/verdict.py [--rows pose tile] [--seeds 0,1,2] [--folder build/bench/verdict]

Each row is trained with the program itself, as a user would, the quickstart's preset with other pairs; every version is
measured on 64 examples. The verdict is taken over the versions up to each one, as it was said then. What is true is
known from how the pairs were made (bench/verdict_data.py), and, where there is a jump, from drawn pictures by
intersection over union (IoU): of the drawn circle and its outline, which passes 0.5; of the silhouettes of drawn emoji
and target, which passes half its way. What it has is kept in FOLDER, and it goes on from there.
"""

import argparse
import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from everstep.config.schema import Sampling
from everstep.contracts import Uint8Array
from everstep.data import circles
from everstep.evaluation.loading import config_of, weights_drawn_with
from everstep.evaluation.paired import paired_test
from everstep.evaluation.pictures.draw import draw
from everstep.evaluation.rescoring import open_scorer
from everstep.evaluation.scorer import Scorer
from everstep.records.scores import points
from everstep.records.verdict import Control, line_of, verdict
from everstep.versions import Run
from everstep.versions.torch import load_weights
from machine import record
from verdict_data import write_pairs

BUILTIN = "builtin:circles"
CALLED = (Control.OBEYED, Control.HEARS, Control.FALLING)
DRAWN, DRAWING = 16, Sampling(steps=8, guidance_scale=1.0)
OBEYED_IOU, LEAST_RISE, CONTRAST = 0.5, 0.1, 40
# patience, as it ends no training here, has every version measured.
ALWAYS = (
    "optim.seed={seed}",
    "keep.everything=true",
    "sampling.pairs=0",
    "scoring.patience=100000",
    "keeper.snapshots=off",
    "compute.threads=1",
)
SLOWER = ("optim.learning_rate=3e-3",)  # the preset's is for a batch of 16
RUINED = ("optim.ema_decay=0", "optim.schedule=constant")  # at this rate, weights that are not averaged jump about


@dataclass(frozen=True, slots=True)
class Row:
    """One training. wanted: jump (called within a version of what pictures show), obeyed, never, ruined (heard, but
    never the best one), or told (nothing is asked).
    """

    name: str
    pairs: str  # builtin:circles, or kind and relation, as verdict_data makes them
    wanted: str
    steps: int
    every: int
    batch: int = 4
    settings: tuple[str, ...] = ()
    count: int = 1400

    @property
    def word(self) -> str:
        return self.name.replace(", ", "-").replace(" ", "-")


ROWS = (
    Row("circles, batch 4", BUILTIN, "jump", 300, 25, settings=SLOWER),
    Row("circles, batch 16", BUILTIN, "jump", 150, 25, batch=16),
    Row("emoji, batch 4", "emoji own", "jump", 300, 25, settings=SLOWER),
    Row("emoji, batch 16", "emoji own", "jump", 150, 25, batch=16),
    Row("pose", "pose own", "obeyed", 280, 40),
    Row("tile", "tile own", "obeyed", 100, 20),
    Row("circles, two thirds their own", "circles partly", "obeyed", 400, 50, settings=SLOWER),
    Row("circles, ruined", BUILTIN, "ruined", 150, 25, settings=RUINED),
    Row("tile, ruined", "tile own", "ruined", 150, 25, settings=RUINED),
    *(
        Row(f"{kind}, unrelated", f"{kind} unrelated", "never", 126, 3, batch=8)
        for kind in ("circles", "emoji", "pose", "tile")
    ),
)


@dataclass(frozen=True, slots=True)
class Said:
    """What was measured of one version, and what was said when it was the newest."""

    step: int
    gain: float
    p: float
    near: float | None
    benefit: float
    benefit_low: float
    benefit_high: float
    seen_benefit: float
    state: str
    sentence: str
    since_step: int | None
    best_benefit: float


@dataclass(frozen=True, slots=True)
class Came:
    """What one training came to. true_step: of the first version that pictures show to obey. best: RUN@best."""

    said: list[Said]
    true_step: int | None
    best: int

    @property
    def called(self) -> list[Said]:
        return [one for one in self.said if one.state in CALLED]


Trained = Sequence[tuple[Row, int, Came]]  # with the seed


def main() -> None:
    """Train what is not kept yet, judge, and write RESULTS.md."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", nargs="*", default=[""], help="those whose names begin so; left out, all")
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--folder", type=Path, default=Path("build/bench/verdict"))
    asked = parser.parse_args()
    torch.set_num_threads(1)
    folder = asked.folder.resolve()
    for seed in map(int, asked.seeds.split(",")):
        for row in ROWS:
            if any(row.name.startswith(start) for start in asked.rows):
                found = kept(folder, row, seed)
                print(f"{row.name}, seed {seed}: {found.said[-1].sentence}; pictures: {found.true_step}", flush=True)
    trained = ((row, int(path.parent.name.rpartition("-")[2])) for row in ROWS for path in truths(folder, row))
    report([(row, seed, kept(folder, row, seed)) for row, seed in trained])


def truths(folder: Path, row: Row) -> list[Path]:
    """Of the trainings of a row that are over."""
    return sorted((folder / "runs").glob(f"{row.word}-[0-9]*/truth.json"))


def kept(folder: Path, row: Row, seed: int) -> Came:
    """One training, made now unless it was before. Its records stay, and are judged anew each time."""
    path = folder / "runs" / f"{row.word}-{seed}"
    truth = path / "truth.json"
    if not truth.exists():
        shutil.rmtree(path, ignore_errors=True)  # one that was cut off begins anew
        train(folder, path, row, seed)
        run = Run.open(path)
        facts = {"true_step": true_step(run) if row.wanted == "jump" else None, "best": run.find("best").number}
        truth.write_text(json.dumps(facts))
        for version in run.versions() if row.wanted != "jump" else ():  # what pictures show can be looked at again
            shutil.rmtree(version.path)
    return Came(as_said(Run.open(path), row.batch), **json.loads(truth.read_text()))


def train(folder: Path, path: Path, row: Row, seed: int) -> None:
    """As a user would."""
    folder.mkdir(parents=True, exist_ok=True)
    kind, _, relation = row.pairs.partition(" ")
    pairs = folder / "pairs" / f"{kind}-{relation}-{row.count}"
    data = kind if not relation else str(write_pairs(kind, relation, pairs, row.count))
    settings = [f"optim.batch_size={row.batch}", f"optim.max_steps={row.steps}", f"versions.every={row.every}"]
    settings += [setting.format(seed=seed) for setting in ALWAYS]
    words = ["train", "circles", "--run", str(path), "--base", BUILTIN, "--data", data]
    words += [word for setting in (*settings, *row.settings) for word in ("--set", setting)]
    with (folder / "log").open("w") as log:
        subprocess.run([sys.executable, "-m", "everstep", *words], check=True, stdout=log, stderr=log)


def as_said(run: Run, batch: int) -> list[Said]:
    """Version by version, as if it were the newest."""
    line, paired = line_of(points(run)), paired_test(run)
    said = []
    for count, point in enumerate(line, start=1):
        told, gain = verdict(line[:count], batch, paired), point.gain
        best = next(other for other in line if other.version == told.best)
        said.append(
            Said(
                point.step,
                gain.value,
                gain.p if gain.p is not None else 1.0,
                gain.near,
                gain.benefit or 0.0,
                gain.benefit_low or 0.0,
                gain.benefit_high or 0.0,
                gain.seen_benefit or 0.0,
                told.state,
                told.sentence,
                told.since_step,
                best.gain.benefit or 0.0,
            )
        )
    return said


# --- what is true ------------------------------------------------------------------------------------------


def true_step(run: Run) -> int | None:
    """Of the first of two versions running whose drawn pictures obey."""
    versions = run.versions()
    config = config_of(versions[-1])
    sampling = config.sampling.model_copy(update={"pairs": DRAWN})
    scorer = open_scorer(config.model_copy(update={"sampling": sampling}), versions[-1])
    controlnet = scorer.family.load_controlnet(str(versions[-1].path / "controlnet"))
    is_circles = scorer.config.data.path == BUILTIN
    shown = []
    for version in versions:
        load_weights(controlnet, version, weights_drawn_with(version))
        drawn = draw(scorer.family, controlnet, scorer.shown, DRAWING)
        shown.append(circles_iou(drawn, scorer) if is_circles else silhouettes_iou(drawn, scorer))
    print(f"{run.name}: IoU {', '.join(f'{value:.2f}' for value in shown)}", flush=True)
    if not is_circles and shown[-1] - shown[0] < LEAST_RISE:
        return None
    level = OBEYED_IOU if is_circles else (shown[0] + shown[-1]) / 2
    twice = (place for place in range(1, len(shown) - 1) if min(shown[place : place + 2]) >= level)
    return next((versions[place].step for place in twice), None)


def circles_iou(drawn: Sequence[Uint8Array], scorer: Scorer) -> float:
    """Whether the drawn circles are where the outlines are."""
    pairs = zip(drawn, scorer.numbers, strict=True)
    return float(np.mean([circles.circle_iou(picture, circles.circle(number)) for picture, number in pairs]))


def silhouettes_iou(drawn: Sequence[Uint8Array], scorer: Scorer) -> float:
    """Whether what is drawn before its ground is where it is in the targets."""
    targets = [one.target_HWC for one in scorer.shown if one.target_HWC is not None]
    found = []
    for picture, target in zip(drawn, targets, strict=True):
        ours, theirs = silhouette(picture), silhouette(target)
        found.append((ours & theirs).sum() / max(1, (ours | theirs).sum()))
    return float(np.mean(found))


def silhouette(picture_HWC: Uint8Array) -> npt.NDArray[np.bool_]:
    """Pixels that are not of the colour of the border, [H,W]."""
    border = np.concatenate([picture_HWC[0], picture_HWC[-1], picture_HWC[:, 0], picture_HWC[:, -1]])
    return np.asarray((np.abs(picture_HWC - np.median(border, axis=0)) > CONTRAST).any(axis=-1))


# --- what came of it ---------------------------------------------------------------------------------------


def report(came: Trained) -> None:
    """One line for each training, and what was asked over all."""
    head = (
        "pairs",
        "seed",
        "versions",
        "wrong",
        "obeyed since",
        "pictures",
        "gain",
        "benefit",
        "best",
        "said at the end",
    )
    lines = [f"| {' | '.join(cells)} |" for cells in (head, ("---",) * len(head))]
    lines += [f"| {' | '.join(cells_of(row, seed, one))} |" for row, seed, one in came]
    record("What is said of a training (bench/verdict.py)", f"{totals(came)}\n\n" + "\n".join(lines))


def cells_of(row: Row, seed: int, came: Came) -> tuple[str, ...]:
    last = came.said[-1]
    since = "never" if last.since_step is None else f"{last.since_step:,}"
    if came.called:
        since += f" (said at {came.called[0].step:,})"
    near = "" if last.near is None else f" ({last.near:.3f} near lines)"
    benefit = f"{last.benefit:z.3f} ({last.benefit_low:z.3f} to {last.benefit_high:z.3f})"
    true = "-" if row.wanted != "jump" else "never" if came.true_step is None else f"{came.true_step:,}"
    best = f"version_{came.best}, {came.said[came.best].benefit:z.3f}"
    versions = f"{len(came.said) - 1} every {row.every}"
    return (
        row.name,
        str(seed),
        versions,
        wrong(row, came),
        since,
        true,
        f"{last.gain:.3f}{near}",
        benefit,
        best,
        last.sentence,
    )


def wrong(row: Row, came: Came) -> str:
    """What was said that is not so, or not said that is; empty where nothing is wrong."""
    found = []
    if row.wanted == "never" and came.called:
        found.append(f"called {len(came.called)} times")
    if row.wanted in ("jump", "obeyed") and came.said[-1].state not in CALLED:
        found.append("missed")
    if row.wanted == "jump" and abs(versions_between(row, came)) > 1:
        found.append(f"{versions_between(row, came):+d} versions")
    if row.wanted == "ruined" and any(one.best_benefit < 0 for one in came.said):
        found.append("a ruined one is best")
    return ", ".join(found) or "-"


def versions_between(row: Row, came: Came) -> int:
    """From what pictures show to what is said of it."""
    since = came.said[-1].since_step
    return 0 if since is None or came.true_step is None else (since - came.true_step) // row.every


def totals(came: Trained) -> str:
    def over(wanted: Sequence[str], count: Callable[[Row, Came], int]) -> int:
        return sum(count(row, one) for row, _, one in came if row.wanted in wanted)

    unrelated = over(["never"], lambda row, one: len(one.said) - 1)
    false = over(["never"], lambda row, one: len(one.called))
    missed = over(("jump", "obeyed"), lambda row, one: one.said[-1].state not in CALLED)
    trainings = over(("jump", "obeyed"), lambda row, one: 1)
    jumps = over(["jump"], lambda row, one: 1)
    near = over(["jump"], lambda row, one: abs(versions_between(row, one)) <= 1 and one.true_step is not None)
    ruined = over(["ruined"], lambda row, one: sum(said.best_benefit < 0 for said in one.said))
    return (
        f"Of {unrelated} versions with unrelated conditions, {false} were called obeyed (asked: 0 of 500). "
        f"Of {trainings} trainings whose conditions help, {missed} were missed at the end. "
        f"The jump was named within one version of what pictures show in {near} of {jumps}. "
        f"A version worse than the base was the best one {ruined} times (asked: never)."
    )


if __name__ == "__main__":
    main()
