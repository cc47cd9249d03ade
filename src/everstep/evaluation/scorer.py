"""What one version is worth: its pictures, control gain and adherence, with the networks already in memory.

One class for a running training and for `everstep score`. Whatever fails here is a finding, never an exception.
"""

import contextlib
from dataclasses import dataclass, field
from typing import Any

import torch

from everstep.config.schema import Config
from everstep.contracts import During, ExampleSettings, PairSource, Uint8Array
from everstep.data import Split
from everstep.evaluation.allowance import Allowance, Exceeded
from everstep.evaluation.examples import Examples, Measured
from everstep.evaluation.gain import num_examples
from everstep.evaluation.pictures.adherence import Adherence, kind_for, open_adherence
from everstep.evaluation.pictures.draw import Shown, paint, rounded, shown_pairs
from everstep.evaluation.pictures.faults import picture_fault
from everstep.evaluation.pictures.quality import open_quality
from everstep.models.sd import StableDiffusion
from everstep.records.verdict import Gain
from everstep.telling import untold

TOGETHER = 2  # batches that are measured at once: without gradients they take less memory than one with them
DEFAULT_INTERVAL_STEPS = 300  # between versions, where only a time is set


@dataclass(slots=True)
class Found:
    """What was measured. failed: what could not be, by name, with the reason in words."""

    measured: Measured | None = None
    pictures: list[Uint8Array] | None = None
    others: dict[str, float] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)
    is_put_off: bool = False  # control gain would have held training for longer than its share

    @property
    def gain(self) -> Gain | None:
        """Control gain and benefit."""
        return None if self.measured is None else self.measured.gain


class Scorer:
    """Measures ControlNets on the same held-out pairs, noise and seeds each time."""

    def __init__(
        self,
        family: StableDiffusion,
        config: Config,
        source: PairSource,
        pairs: Split,
        settings: ExampleSettings,
        num_pictures: int | None = None,
        during: During = untold,
        allowance: Allowance | None = None,
    ) -> None:
        """
        Args:
            num_pictures: held-out pairs to draw; left out, as many as the run's contact sheets show.
            allowance: of the time that control gain may take; left out, it is measured whatever it takes.

        Raises: UserError if what scoring asks for is not there.
        """
        self.family, self.config, self._during, self.allowance = family, config, during, allowance
        self.numbers = pairs.held_out[: config.sampling.pairs if num_pictures is None else num_pictures]
        self.shown: list[Shown] = shown_pairs(source, self.numbers, config.data)
        self._adherence = _adherence(config, family.arithmetic.device)
        self._qualities = open_quality(config.scoring.clip, config.scoring.fid, family.arithmetic.device)
        self._examples = _examples(family, config, source, pairs, settings)

    def __call__(self, controlnet: Any) -> Found:
        """Measure a network as it is; it is left as it was."""
        with contextlib.nullcontext() if self.allowance is None else self.allowance.apart():
            return self._measured(controlnet)

    def _measured(self, controlnet: Any) -> Found:
        found = Found()
        for name, measure in (
            ("gain", self.measure_gain),
            ("pictures", self.draw),
            ("adherence", self._adhere),
            ("quality", self._judge),
        ):
            try:
                measure(controlnet, found)
            except Exception as error:  # what is measured must never cost what is trained
                found.failed[name] = " ".join(str(error).split()) or type(error).__name__
                if torch.cuda.is_available():
                    torch.cuda.empty_cache()
        return found

    def measure_gain(self, controlnet: Any, found: Found) -> None:
        """Control gain alone, if the allowance covers it. Raises: whatever goes wrong."""
        if self._examples is None:
            return
        with self._during("Measuring control gain", "examples") as said:
            if self.allowance is None:
                found.measured = self._examples.measure(controlnet, said)
            elif self.allowance.is_enough:
                with contextlib.suppress(Exceeded), self.allowance.spending():
                    found.measured = self._examples.measure(controlnet, said, self.allowance.expect)
        found.is_put_off = found.measured is None

    def draw(self, controlnet: Any, found: Found) -> None:
        """The pictures alone. Raises: whatever goes wrong."""
        if not self.shown:
            return
        with self._during("Drawing the contact sheet", "denoising steps") as said:
            painted = paint(self.family, controlnet, self.shown, self.config.sampling, said)
        found.pictures = [rounded(picture) for picture in painted]
        faults = [picture_fault(picture, self.family.arithmetic.precision) for picture in painted]
        wrong = [f"picture {place + 1} is {fault}" for place, fault in enumerate(faults) if fault]
        if wrong:
            found.failed["pictures"] = f"{len(wrong)} of {len(painted)} cannot be right; {wrong[0]}"

    def _adhere(self, controlnet: Any, found: Found) -> None:
        if self._adherence is None or not found.pictures:
            return
        conditions = [item.condition_HWC for item in self.shown]
        targets = [item.target_HWC for item in self.shown]
        with self._during(f"Measuring {self._adherence.name}"):
            values = self._adherence(found.pictures, conditions, self.numbers, targets)
        found.others[self._adherence.name] = sum(values) / len(values)

    def _judge(self, controlnet: Any, found: Found) -> None:
        captions = [item.caption for item in self.shown]
        targets = [item.target_HWC for item in self.shown if item.target_HWC is not None]
        for quality in self._qualities if found.pictures else ():
            with self._during(f"Measuring {quality.name}"):
                found.others[quality.name] = quality(found.pictures or [], captions, targets)


def _adherence(config: Config, device: torch.device) -> Adherence | None:
    kind = kind_for(config.scoring.adherence, config.data.path)
    return None if kind is None else open_adherence(kind, config.scoring.extractor, device)


def _examples(
    family: StableDiffusion, config: Config, source: PairSource, pairs: Split, settings: ExampleSettings
) -> Examples | None:
    """None where no gain is asked for, or where there is no pair to measure it on."""
    if not config.scoring.overhead or not pairs.held_out:
        return None
    images = (config.versions.every.steps or DEFAULT_INTERVAL_STEPS) * config.optim.images_per_step
    examples = num_examples(config.scoring.overhead, images)
    return Examples(
        family, source, pairs.held_out, pairs.training, settings, examples, TOGETHER * config.optim.batch_size
    )


def example_settings(config: Config, family: StableDiffusion) -> ExampleSettings:
    """What a run's examples depend on besides their numbers."""
    data, base = config.data, family.base
    resolution = data.resolution or base.native_resolution()
    return ExampleSettings(
        seed=config.optim.seed,
        resolution=resolution,
        latent_shape=base.latent_shape(resolution),
        num_train_timesteps=family.num_train_timesteps,
        timestep_shift=config.optim.timestep_shift,
        prompt_dropout=data.prompt_dropout,
        posterior=family.has_posterior,
        crop=data.crop,
        flip_probability=data.flip_probability,
        condition_resize=data.condition_resize,
    )
