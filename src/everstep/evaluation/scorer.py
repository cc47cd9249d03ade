"""What one version is worth: its pictures, control gain and adherence, with the networks already in memory.

One class for a running training and for `everstep score`. Whatever fails here is a finding, never an exception.
"""

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from everstep.config.schema import Config
from everstep.contracts import During, ExampleSettings, Float32Array, Uint8Array
from everstep.data import Framer, Split
from everstep.errors import UserError
from everstep.evaluation.allowance import Allowance, Exceeded
from everstep.evaluation.examples import Denoised, Examples
from everstep.evaluation.gain import num_examples
from everstep.evaluation.helping import Helper
from everstep.evaluation.pictures.adherence import adherence_of
from everstep.evaluation.pictures.draw import Shown, free, rounded
from everstep.evaluation.pictures.faults import picture_fault
from everstep.evaluation.pictures.measures import Drawn, Interval, Measure
from everstep.evaluation.pictures.painter import Painter
from everstep.evaluation.pictures.quality import open_quality
from everstep.evaluation.rounds import Rounds
from everstep.models.family import Family
from everstep.records.verdict import Gain
from everstep.telling import untold

TOGETHER = 2  # batches that are measured at once: without gradients they take less memory than one with them
DEFAULT_INTERVAL_STEPS = 300  # between versions, where only a time is set


@dataclass(slots=True)
class Found:
    """What was measured. failed: what could not be, by name, with the reason in words."""

    denoised: Denoised | None = None
    pictures: list[Uint8Array] | None = None  # of the contact sheet
    drawn: Drawn | None = None  # all, until they are scored
    num_scored: int | None = None  # pictures that the other scores rest on
    others: dict[str, float] = field(default_factory=dict)
    intervals: dict[str, Interval] = field(default_factory=dict)  # of some of the others, 95 %
    failed: dict[str, str] = field(default_factory=dict)
    is_put_off: bool = False  # control gain would have held training for longer than its share

    @property
    def gain(self) -> Gain | None:
        """Control gain and benefit."""
        return None if self.denoised is None else self.denoised.gain


class Scorer:
    """Measures ControlNets on the same held-out pairs, noise and seeds each time."""

    def __init__(
        self,
        family: Family,
        config: Config,
        framer: Framer,
        pairs: Split,
        settings: ExampleSettings,
        num_pictures: int | None = None,
        during: During = untold,
        allowance: Allowance | None = None,
        pictures_allowance: Allowance | None = None,
        rounds: Rounds | None = None,
    ) -> None:
        """
        Args:
            rounds: of other processes that hold the network too, and do a part of the work, as `helper` does its own.
            num_pictures: held-out pairs to draw; left out, as many as the run's contact sheets show.
            allowance: of the time that control gain may take; left out, it is measured whatever it takes.
            pictures_allowance: of the time that pictures may take: where they are scored, further ones are drawn as
                long as it lasts.

        Raises: UserError if what scoring asks for is not there.
        """
        self._held_out, self._asked = len(pairs.held_out), num_pictures
        self.family, self.config, self._during, self.allowance = family, config, during, allowance
        self._adherence = adherence_of(config, family.arithmetic.device)
        self._qualities = open_quality(config.scoring.clip, config.scoring.fid, family.arithmetic.device)
        most = config.sampling.pairs if num_pictures is None else num_pictures
        if pictures_allowance is not None and most and self._measures:
            most = len(pairs.held_out)
        self._painter = Painter(family, config, framer, pairs.held_out[:most], pictures_allowance, during, rounds)
        self._accounts = [account for account in (allowance, pictures_allowance) if account is not None]
        self._examples = examples_of(family, config, framer, pairs, settings, rounds)
        self.helper = Helper(family, config, framer, lambda: self._examples)

    @property
    def numbers(self) -> Sequence[int]:
        """Of the pairs on the contact sheet."""
        return self._painter.numbers

    @property
    def shown(self) -> Sequence[Shown]:
        """What the contact sheet is drawn from."""
        return self._painter.shown

    @property
    def drawn_together(self) -> int:
        """Pictures of the newest contact sheet that were drawn at once."""
        return self._painter.sheet_together

    @property
    def _measures(self) -> list[Measure]:
        return [*([] if self._adherence is None else [self._adherence]), *self._qualities]

    def refuse_too_few(self) -> None:
        """Raises: UserError if a measure needs more pictures than are held out, or than are asked for where more are.
        A training that goes on does not ask: there such a measure fails in words, and is no reason to end.
        """
        held_out, asked = self._held_out, self._asked
        if asked is not None and asked >= held_out:
            return
        most = held_out if asked is None else asked
        for measure in self._measures if most else ():
            if measure.fewest_of_any <= most:
                continue
            if asked is None:
                of_what = f"only {held_out} are held out"
                way_out = (
                    "data.held_out_pairs says how many are held out, a small share of the data; --set scoring.fid=null "
                    "leaves the score out."
                )
            else:
                of_what = f"{asked} are asked for"
                way_out = f"--pairs {min(measure.fewest, held_out)} draws more; without it other scores are measured."
            raise UserError(
                f"{measure.name} needs {measure.fewest:,} drawn pictures, and what could be measured instead "
                f"{measure.fewest_of_any}, but {of_what}. Nothing was measured. {way_out}"
            )

    def __call__(self, controlnet: Any) -> Found:
        """Measure a network as it is; it is left as it was."""
        with contextlib.ExitStack() as apart:
            for account in self._accounts:
                apart.enter_context(account.apart())
            return self._measured(controlnet)

    def _measured(self, controlnet: Any) -> Found:
        found = Found()
        for name, measure in (
            ("gain", self.measure_gain),
            ("pictures", self.draw),
            ("further", self._draw_further),
            ("adherence", self._adhere),
            ("quality", self._judge),
        ):
            try:
                measure(controlnet, found)
            except Exception as error:  # what is measured must never cost what is trained
                found.failed[name] = " ".join(str(error).split()) or type(error).__name__
                free()
        found.drawn = None
        return found

    def measure_gain(self, controlnet: Any, found: Found) -> None:
        """Control gain alone, if the allowance covers it. Raises: whatever goes wrong."""
        if self._examples is None:
            return
        with self._during("Measuring control gain", "examples") as said:
            if self.allowance is None:
                found.denoised = self._examples.measure(controlnet, said)
            elif self.allowance.is_enough:
                with contextlib.suppress(Exceeded), self.allowance.spending():
                    found.denoised = self._examples.measure(controlnet, said, self.allowance.expect)
        found.is_put_off = found.denoised is None

    def draw(self, controlnet: Any, found: Found) -> None:
        """The pictures of the contact sheet alone. Raises: whatever goes wrong."""
        if not self.shown:
            return
        painted = self._painter.paint_sheet(controlnet)
        found.pictures = self._noted(painted, found)
        found.drawn = _drawn(found.pictures, self.numbers, self.shown)

    def _draw_further(self, controlnet: Any, found: Found) -> None:
        """As many more as the scores may take. Raises: whatever goes wrong."""
        if not self._measures or (self.shown and found.pictures is None):
            return  # nothing asks for them, or the contact sheet has just failed
        fewest = max(measure.fewest_of_any for measure in self._measures)
        shown, painted = self._painter.paint_further(controlnet, fewest)
        if shown:
            pictures = [*(found.pictures or []), *self._noted(painted, found)]
            numbers = [*self.numbers, *self._painter.further[: len(shown)]]
            found.drawn = _drawn(pictures, numbers, [*self.shown, *shown])

    def _noted(self, painted: Sequence[Float32Array], found: Found) -> list[Uint8Array]:
        """Rounded, and what is wrong with them said."""
        faults = [picture_fault(picture, self.family.arithmetic.precision) for picture in painted]
        wrong = [f"picture {place + 1} is {fault}" for place, fault in enumerate(faults) if fault]
        if wrong and "pictures" not in found.failed:
            found.failed["pictures"] = f"{len(wrong)} of {len(painted)} cannot be right; {wrong[0]}"
        return [rounded(picture) for picture in painted]

    def _adhere(self, controlnet: Any, found: Found) -> None:
        self._take([] if self._adherence is None else [self._adherence], found)

    def _judge(self, controlnet: Any, found: Found) -> None:
        self._take(self._qualities, found)

    def _take(self, measures: Sequence[Measure], found: Found) -> None:
        if found.drawn is None:
            return
        for measure in measures:
            fitting = measure.fitting(len(found.drawn.pictures))
            with self._during(f"Measuring {fitting.name}"):
                measured = fitting.take(found.drawn)
            found.num_scored = len(found.drawn.pictures)
            found.others[fitting.name] = measured.value
            if measured.interval is not None:
                found.intervals[fitting.name] = measured.interval


def _drawn(pictures: Sequence[Uint8Array], numbers: Sequence[int], shown: Sequence[Shown]) -> Drawn:
    return Drawn(
        pictures=pictures,
        conditions=[item.condition_HWC for item in shown],
        captions=[item.caption for item in shown],
        pairs=numbers,
        targets=[item.target_HWC for item in shown],
    )


def examples_of(
    family: Family,
    config: Config,
    framer: Framer,
    pairs: Split,
    settings: ExampleSettings,
    rounds: Rounds | None = None,
) -> Examples | None:
    """None where no gain is asked for, or where there is no pair to measure it on."""
    if not config.scoring.overhead or not pairs.held_out:
        return None
    images = (config.versions.every.steps or DEFAULT_INTERVAL_STEPS) * config.optim.images_per_step
    examples = num_examples(config.scoring.overhead, images)
    return Examples(
        family, framer, pairs.held_out, pairs.training, settings, examples, TOGETHER * config.optim.batch_size, rounds
    )


def example_settings(config: Config, family: Family) -> ExampleSettings:
    """What a run's examples depend on besides their numbers."""
    data, base = config.data, family.base
    resolution = data.resolution or base.native_resolution()
    return ExampleSettings(
        seed=config.optim.seed,
        latent_shape=base.latent_shape(resolution),
        timestep_shift=config.optim.timestep_shift,
        prompt_dropout=data.prompt_dropout,
        posterior=family.has_posterior,
        crop=data.crop,
        flip_probability=data.flip_probability,
    )
