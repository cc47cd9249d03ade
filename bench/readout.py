"""Does a read-out of the UNet's features order a run's versions as adherence of drawn pictures does?

    everstep train circles --run quick0 --set keep.everything=true --set versions.every=15 --set optim.max_steps=300
    python bench/readout.py runs/quick0 RUN RUN [--every 1] [--pictures 32] [--kept build/bench/readout]

A read-out is a small convolution network, trained once per base and kind of condition on true pictures, that reads the
condition from what the frozen UNet's up blocks hold in one forward pass. Two ways to train it are tried, on the base
alone: on little noise, where the layout is there to be read, and at every timestep, as InnerControl does
(arXiv 2507.02321). A version's score is then the correlation of what is read with the true condition, at much noise,
where the base alone knows little of the layout. Way, block and noise are chosen on the first run, and confirmed on the
others. Beside it stands what the same forward pass tells without any read-out: the error under the true condition
against that of the base. Keeps what it has measured and goes on from there.
"""

import argparse
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from torchmetrics.functional.regression import spearman_corrcoef

from everstep.config.policy import framing
from everstep.config.schema import Config
from everstep.contracts import Batch, Int64Array
from everstep.data import Framer, Source, order, source_of, split_as
from everstep.evaluation.loading import config_of, open_base, weights_drawn_with
from everstep.evaluation.pictures.adherence import KINDS, kind_for, open_adherence
from everstep.evaluation.pictures.draw import draw, shown_pairs
from everstep.evaluation.pictures.measures import Drawn
from everstep.evaluation.scorer import example_settings
from everstep.models.family import Family
from everstep.models.objective import errors, task_of
from everstep.models.unet import UnetFamily
from everstep.versions import Run, Version
from everstep.versions.torch import load_weights
from machine import record

SEED = 0x5EAD
STEPS, BATCH, WIDTH, RATE = 250, 24, 48, 2e-3
LOG_SNRS = (-2.0, -3.0, -4.5, -6.0)
WAYS = {"little noise": (1.0, 5.0), "every timestep": (-np.inf, np.inf)}  # of log-SNR, base alone
DRAWN = {"steps": 10, "guidance_scale": 1.0}
BAR, ERROR, LEAST_RISE = 0.9, "error", 0.1
Rows = list[dict[str, Any]]


class ReadOut(nn.Module):
    """Features of one block [B,C,h,w] -> logits of the condition's grey [B,H,W]."""

    def __init__(self, channels: int, latent_px: int, factor: int) -> None:
        super().__init__()
        self._latent_px, self._factor = latent_px, factor
        self.layers = nn.Sequential(
            nn.GroupNorm(1, channels),
            nn.Conv2d(channels, WIDTH, 3, padding=1),
            nn.SiLU(),
            nn.Conv2d(WIDTH, WIDTH, 3, padding=1),
            nn.SiLU(),
            nn.Conv2d(WIDTH, factor**2, 3, padding=1),
        )

    def forward(self, features_BCHW: Tensor) -> Tensor:
        larger_BCHW = functional.interpolate(features_BCHW.float(), size=self._latent_px, mode="nearest")
        read_B1HW: Tensor = functional.pixel_shuffle(self.layers(larger_BCHW), self._factor)
        return read_B1HW[:, 0]


@dataclass
class Opened:
    """A run's base, pairs and versions, and what the UNet's up blocks gave at its last forward pass."""

    run: Run
    config: Config
    family: Family
    source: Source
    held_out: Sequence[int]
    training: Sequence[int]
    versions: list[Version]
    features: dict[int, Tensor]

    def batch(self, pairs: Sequence[int], timesteps_B: Int64Array, first: int) -> Batch:
        """These pairs, each with its own noise, numbered from `first` on."""
        settings = example_settings(self.config, self.family)
        squares = list(map(Framer(self.source, framing(self.config.data)), pairs))
        shape, numbers = settings.latent_shape, range(first, first + len(pairs))
        posterior = [order.noise(SEED, k, shape, "posterior") for k in numbers] if settings.posterior else []
        return Batch(
            first_example=first,
            pairs=tuple(pairs),
            captions=tuple(square.caption for square in squares),
            targets_BHWC=np.stack([square.target_HWC for square in squares]),
            conditions_BHWC=np.stack([square.condition_HWC for square in squares]),
            noise_BCHW=np.stack([order.noise(SEED, k, shape) for k in numbers]),
            posterior_noise_BCHW=np.stack(posterior) if posterior else None,
            times_B=(timesteps_B + 0.5) / len(self.family.schedule.log_snr()),
            frames_B6=np.array([square.frame for square in squares]),
        )

    def grey(self, batch: Batch) -> Tensor:
        """The conditions, [B,H,W] float32 0..1."""
        return self.family.conditions(batch.conditions_BHWC).mean(dim=1)


def main() -> None:
    """Measure, choose on the first run, and write RESULTS.md."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, nargs="+")
    parser.add_argument("--kept", type=Path, default=Path("build/bench/readout"))
    parser.add_argument("--pictures", type=int, default=32)
    parser.add_argument("--every", type=int, default=1, help="of the versions, only each so many-th")
    asked = parser.parse_args()
    asked.kept.mkdir(parents=True, exist_ok=True)
    readouts: dict[str, dict[str, ReadOut]] = {}
    found = {
        path.name: measured(open_run(path, asked.every), readouts, asked.kept, asked.pictures) for path in asked.runs
    }
    report(found, {path.name: kind_of(path) for path in asked.runs}, asked.pictures)


def measured(opened: Opened, known: dict[str, dict[str, ReadOut]], kept: Path, pictures: int) -> Rows:
    """One row a version: adherence of each picture, and the scores of one forward pass by their names."""
    file = kept / f"{opened.run.name}.json"
    rows: Rows = json.loads(file.read_text()) if file.exists() else []
    if len(rows) < len(opened.versions):
        of_what = f"{opened.config.base.path} {opened.config.data.path}"
        readouts = known[of_what] = known.get(of_what) or trained_readouts(opened)
        controlnet = opened.family.load_controlnet(str(opened.versions[0].path / "controlnet")).eval()
        for version in opened.versions[len(rows) :]:
            load_weights(controlnet, version, weights_drawn_with(version))
            scores = one_pass(opened, controlnet, readouts, pictures)
            rows.append({"step": version.step, "drawn": adherence(opened, controlnet, pictures), **scores})
            file.write_text(json.dumps(rows))
            print(file.stem, version.step, f"{np.mean(rows[-1]['drawn']):.3f}", flush=True)
    return rows


def open_run(path: Path, every: int) -> Opened:
    run = Run.open(path)
    versions = sorted(run.versions(), key=lambda version: version.number)[::every]
    config = config_of(versions[-1])
    source = source_of(config.data)
    pairs = split_as(source, config.data.held_out_pairs, versions[-1].manifest["data"])
    family = open_base(config)
    assert isinstance(family, UnetFamily)
    opened = Opened(run, config, family, source, pairs.held_out, pairs.training, versions, {})
    for place, block in enumerate(family.unet.up_blocks):
        block.register_forward_hook(lambda _, given, out, place=place: opened.features.update({place: out}))
    return opened


# --- the read-out ------------------------------------------------------------------------------------------


def trained_readouts(opened: Opened) -> dict[str, ReadOut]:
    """A read-out of each block, trained each way on true pictures and the base alone."""
    readouts: dict[str, ReadOut] = {}
    for way, (low, high) in WAYS.items():
        log_snrs = opened.family.schedule.log_snr()
        timesteps = np.flatnonzero((log_snrs >= low) & (log_snrs <= high))
        of_blocks = trained(opened, timesteps)
        readouts |= {f"{way}, block {place}": readout for place, readout in of_blocks.items()}
    return readouts


def trained(opened: Opened, timesteps: Int64Array) -> dict[int, ReadOut]:
    """One read-out a block, all from the same forward passes."""
    chance = np.random.Generator(np.random.Philox(key=[SEED, 0]))
    torch.manual_seed(SEED)
    readouts: dict[int, ReadOut] = {}
    for step in range(STEPS):
        pairs = [int(pair) for pair in chance.choice(opened.training, BATCH)]
        batch = opened.batch(pairs, chance.choice(timesteps, BATCH), BATCH * step)
        task, grey_BHW = task_of(opened.family, batch), opened.grey(batch)
        with torch.no_grad():
            opened.family.predict(None, task, None)
        if not readouts:
            latent_px, side_px = task.noisy_BCHW.shape[-1], grey_BHW.shape[-1]
            readouts = {k: ReadOut(f.shape[1], latent_px, side_px // latent_px) for k, f in opened.features.items()}
            weights = [weight for readout in readouts.values() for weight in readout.parameters()]
            optimizer = torch.optim.AdamW(weights, RATE)
            schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, STEPS, pct_start=0.1)
        losses = [
            functional.binary_cross_entropy_with_logits(readouts[place](opened.features[place]), grey_BHW)
            for place in readouts
        ]
        optimizer.zero_grad()
        torch.stack(losses).sum().backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        schedule.step()
        if step % 50 == 49:
            print(f"read-out step {step + 1}:", *(f"{loss.item():.3f}" for loss in losses), flush=True)
    return readouts


# --- a version's scores ------------------------------------------------------------------------------------


@torch.no_grad()
def one_pass(opened: Opened, controlnet: Any, readouts: dict[str, ReadOut], pictures: int) -> dict[str, float]:
    """Mean correlation of what each read-out reads with the true condition, and the error, at each noise."""
    pairs, scores = list(opened.held_out[:pictures]), {}
    for log_snr in LOG_SNRS:
        timestep = int(np.abs(opened.family.schedule.log_snr() - log_snr).argmin())
        batch = opened.batch(pairs, np.full(len(pairs), timestep), 10**7)
        errors_B = errors(
            opened.family, controlnet, task_of(opened.family, batch), opened.family.conditions(batch.conditions_BHWC)
        )
        grey_BHW = opened.grey(batch)
        scores[f"{ERROR} at {log_snr}"] = float(errors_B.double().mean())
        for name, readout in readouts.items():
            read_BHW = readout(opened.features[int(name[-1])]).sigmoid()
            scores[f"{name} at {log_snr}"] = float(correlation(read_BHW, grey_BHW).mean())
    return scores


def correlation(read_BHW: Tensor, grey_BHW: Tensor) -> Tensor:
    """Pearson's, over the pixels of each picture, [B]."""
    read_BN, grey_BN = (map_BHW.flatten(1) - map_BHW.mean(dim=(1, 2))[:, None] for map_BHW in (read_BHW, grey_BHW))
    return functional.cosine_similarity(read_BN, grey_BN)


def adherence(opened: Opened, controlnet: Any, pictures: int) -> list[float]:
    """Of each drawn held-out picture, 0..1."""
    config, numbers = opened.config, list(opened.held_out[:pictures])
    kind = kind_for(config.scoring.adherence, config.data.path)
    assert kind is not None, "this run's adherence cannot be taken"
    measure = open_adherence(kind, config.scoring.extractor, opened.family.arithmetic.device)
    shown = shown_pairs(Framer(opened.source, framing(config.data)), numbers)
    drawn = draw(opened.family, controlnet, shown, config.sampling.model_copy(update=DRAWN))
    conditions, targets = [one.condition_HWC for one in shown], [one.target_HWC for one in shown]
    return list(measure.take(Drawn(drawn, conditions, [one.caption for one in shown], numbers, targets)).each)


# --- how they order versions -------------------------------------------------------------------------------


def report(found: dict[str, Rows], kinds: dict[str, str], pictures: int) -> None:
    """Way, block and noise as they are best on the first run; then what they give on all."""
    first = next(iter(found))
    names = [name for name in found[first][0] if name not in ("step", "drawn")]
    read = max((name for name in names if not is_error(name)), key=lambda name: float(agreement(found[first], name)))
    error = max(filter(is_error, names), key=lambda name: float(agreement(found[first], name)))
    head = (
        f"Rank correlation (Spearman) over a run's versions with the adherence of {pictures} drawn held-out pictures "
        f"({DRAWN['steps']} steps, no guidance); in brackets without the beginning, in which adherence is less than a "
        f"quarter of the way from the untrained network's to the best, - where it never rises by {LEAST_RISE}. Chosen "
        f"on {first}: {read}; and, without any read-out, {error}, of the same pass. Steps: their number, taken as a "
        f"score. Last column: adherence of half of the pictures with that of the others. Asked of the read-out: {BAR}."
    )
    record(
        "A read-out of the condition against drawn pictures (bench/readout.py)",
        "\n\n".join(
            (
                head,
                table(
                    ("", "versions", "adherence", "read-out reads", "read-out", "error", "steps", "adherence"),
                    chosen(found, kinds, read, error),
                ),
                f"All that was tried, on {', '.join(found)}:",
                table(("", *(f"log-SNR {noise}" for noise in LOG_SNRS)), everything(found, names)),
            )
        ),
    )


def chosen(found: dict[str, Rows], kinds: dict[str, str], read: str, error: str) -> list[tuple[str, ...]]:
    """A line for each run, and one for all runs whose adherence is of one kind."""
    late = {name: after_beginning(rows) for name, rows in found.items()}
    lines = [(f"{name}, {kinds[name]}", rows, late[name]) for name, rows in found.items()]
    for kind in dict.fromkeys(kinds.values()):
        of_kind = [name for name in found if kinds[name] == kind]
        if len(of_kind) > 1:
            pooled = [[row for name in of_kind for row in some[name]] for some in (found, late)]
            lines.append((f"all of {kind}", pooled[0], pooled[1]))
    return [
        (
            name,
            f"{len(rows)} ({len(some)})",
            span(means(rows)),
            span([row[read] for row in rows]),
            *(f"{agreement(rows, score)} ({agreement(some, score)})" for score in (read, error, "step")),
            f"{halves(rows)} ({halves(some)})",
        )
        for name, rows, some in lines
    ]


def everything(found: dict[str, Rows], names: Sequence[str]) -> list[tuple[str, ...]]:
    """Each way and block at each noise, a figure for each run."""
    whats = dict.fromkeys(name.partition(" at ")[0] for name in names)
    at = [
        [", ".join(agreement(rows, f"{what} at {noise}") for rows in found.values()) for noise in LOG_SNRS]
        for what in whats
    ]
    return [(what, *cells) for what, cells in zip(whats, at, strict=True)]


def table(head: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (head, ("---",) * len(head), *lines))


def means(rows: Rows) -> list[float]:
    return [float(np.mean(row["drawn"])) for row in rows]


def is_error(name: str) -> bool:
    return name.startswith(ERROR)


def span(values: Sequence[float]) -> str:
    return f"{min(values):.2f} to {max(values):.2f}"


def agreement(rows: Rows, score: str) -> str:
    """Spearman's rank correlation over versions of a score with adherence; of an error, with its negative."""
    sign = -1 if is_error(score) else 1
    return spearman([sign * row[score] for row in rows], means(rows))


def halves(rows: Rows) -> str:
    """Of the adherence of every other picture with that of the rest."""
    return spearman(*([float(np.mean(row["drawn"][half::2])) for row in rows] for half in (0, 1)))


def spearman(some: Sequence[float], others: Sequence[float]) -> str:
    ranked = (torch.tensor(values, dtype=torch.float64) for values in (some, others))
    return f"{spearman_corrcoef(*ranked):.2f}" if len(some) > 2 else "-"


def after_beginning(rows: Rows) -> Rows:
    """From the first version on whose adherence is a quarter of the way from the untrained one's to the best."""
    drawn = means(rows)
    rise = max(drawn) - drawn[0]
    return rows[next(k for k, mean in enumerate(drawn) if mean >= drawn[0] + rise / 4) :] if rise > LEAST_RISE else []


def kind_of(path: Path) -> str:
    config = config_of(Run.open(path).versions()[-1])
    return KINDS[kind_for(config.scoring.adherence, config.data.path) or "circles"].score


if __name__ == "__main__":
    main()
