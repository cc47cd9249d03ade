"""The fixed examples on which control gain and benefit are measured, kept ready in memory.

Uses the networks that are there. Knows nothing of runs, files or optimizers.
"""

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import xxhash
from torch import Tensor

from everstep.contracts import Batch, Counted, ExampleSettings, Uint8Array
from everstep.data import Framed, Framer, order
from everstep.data.loader import all_or_none
from everstep.evaluation.gain import BASE, CONDITIONS, SEED, SEEN_BASE, SHUFFLED, Design, Floats, design, gain_of
from everstep.evaluation.lines import MOST_COVERED, Cells, near_either
from everstep.evaluation.rounds import ERRORS, Rounds
from everstep.models import objective
from everstep.models.family import Family, Task
from everstep.records.verdict import SEEN, TRUE, Gain

Pace = Callable[[float, float], None]


@dataclass(frozen=True, slots=True)
class Denoised:
    """What one measurement found, and the errors that it rests on, [N] under each condition."""

    gain: Gain
    errors: Mapping[str, Floats]
    places: list[int]  # which pair each example is of


@dataclass(frozen=True, slots=True)
class Ready:
    """Some of the examples: held-out pairs with their own conditions and those lent to them, and training pairs.

    Shapes: conditions [B,H,W,3] uint8, small in memory until they are used; near_Bhw bool, where the lines of both
    conditions are; errors of the base alone [B,h,w].
    """

    held_out: Task
    seen: Task
    own_BHWC: Uint8Array
    lent_BHWC: Uint8Array
    seen_BHWC: Uint8Array
    near_Bhw: Cells
    base_Bhw: Tensor
    seen_base_Bhw: Tensor


@dataclass(frozen=True, slots=True)
class Part:
    """Errors of one batch under each condition, [B] each, and how much of its pictures lies near lines, [B]."""

    whole: Mapping[str, Floats]
    near: Mapping[str, Floats]
    covered_B: Floats


class Examples:
    """Held-out pairs and as many training pairs, each with its own noise and timestep, the same at every version."""

    def __init__(
        self,
        family: Family,
        framer: Framer,
        held_out: Sequence[int],
        training: Sequence[int],
        settings: ExampleSettings,
        examples: int,
        batch_size: int,
        rounds: Rounds | None = None,
    ) -> None:
        """
        Args:
            rounds: of other processes that hold the network too, and measure batches beside this one.
            training: pairs that are trained on, of which some evenly spread ones are looked at; they lend their
                conditions where there is only one held-out pair.
            settings: of the run; its crop, mirroring and prompt dropout do not count here.
        """
        self._family = family
        self.design = design(len(held_out), examples, family.schedule.log_snr())
        seen = seen_of(held_out, training)
        lenders = list(held_out) if len(held_out) > 1 else [*held_out, *training[:8]]
        self._held_out = _Squares(framer, held_out, lenders, settings)
        self._seen = _Squares(framer, seen, seen, settings)
        self._made_of = xxhash.xxh3_128(json.dumps(self._told(settings), default=str).encode())
        self._parts = [range(at, min(at + batch_size, examples)) for at in range(0, examples, batch_size)]
        self._rounds = rounds
        self._ready: dict[int, Ready] = {}
        self._noted = 0  # batches of which is noted what they are
        self._preparing_s = 0.0  # of the batch that was prepared last
        self._is_warm = False

    def _told(self, settings: ExampleSettings) -> dict[str, Any]:
        """What decides how is denoised; what is, comes as it is prepared: pictures by content, whatever their names."""
        return {
            "design": self.design.told(),
            "settings": [self._held_out.resolution, settings.latent_shape, settings.posterior],
            "precision": self._family.arithmetic.precision,
        }

    def measure(self, controlnet: Any, said: Counted = lambda done, total: None, pace: Pace | None = None) -> Denoised:
        """Denoise every example under its own and another pair's condition. Leaves the network as it was.

        Args:
            pace: told after each batch, in seconds, how long all takes at this pace and how much of it is to come; may
                raise, which ends the measurement.

        Raises: ValueError if what the network predicts is no number.
        """
        parts = (
            self._alone(controlnet, said, pace) if self._rounds is None else self._together(self._rounds, said, pace)
        )
        whole = _joined([part.whole for part in parts])
        near = _joined([part.near for part in parts])
        covered = np.concatenate([part.covered_B for part in parts]).mean()
        digest = f"xxh3-128:{self._made_of.hexdigest()}"
        gain = gain_of(whole, near if covered < MOST_COVERED else None, self.design, digest)
        return Denoised(gain, whole, self.design.places.tolist())

    def _alone(self, controlnet: Any, said: Counted, pace: Pace | None) -> "list[Part]":
        """Batch by batch, so that it is known soon how long all of them take."""
        passes, found = len(self._parts) * len(CONDITIONS), list[Part]()
        took_s, done = 0.0, 0

        def tell(seconds: float) -> None:
            nonlocal took_s, done
            took_s, done = took_s + seconds, done + 1
            if pace is not None:
                preparing_s = self._preparing_s * (len(self._parts) - len(self._ready))
                pace(took_s / done * passes + preparing_s, took_s / done * (passes - done) + preparing_s)

        for place, numbers in enumerate(self._parts):
            found.append(self.part(controlnet, place, tell))
            said(numbers.stop, len(self.design.places))
        return found

    def _together(self, rounds: Rounds, said: Counted, pace: Pace | None) -> "list[Part]":
        """As many batches at once as there are processes; each is measured as it would be alone."""
        count, found, took_s = len(self._parts), list[Part](), 0.0
        while len(found) < count:
            began = time.perf_counter()
            places = range(len(found), min(count, len(found) + rounds.at_once))
            for place in range(self._noted, places.stop):  # what others measure is looked at here once, for the digest
                self._batch(place)
            found += rounds(ERRORS, list(places))
            took_s += time.perf_counter() - began
            if pace is not None:
                needed_s = took_s / len(found) * count
                pace(needed_s, needed_s - took_s)
            said(self._parts[places[-1]].stop, len(self.design.places))
        return found

    @torch.no_grad()
    def part(self, controlnet: Any, place: int, tell: Callable[[float], None] = lambda seconds: None) -> "Part":
        """One batch under each condition, of whole pictures and near lines.

        Args:
            tell: told after each pass how long it took; may raise.
        """
        was_training = controlnet.training
        controlnet.eval()
        try:
            # Then its errors are the base's, whatever the condition; version_0 of nearly all trainings is such a one.
            adds_nothing = self._family.adds_nothing(controlnet)
            if not adds_nothing:
                self._warm_up(controlnet, place)
            some = self._prepared(place)
            whole: dict[str, Floats] = {}
            near: dict[str, Floats] = {}
            for kind, task, conditions_BHWC, base_Bhw in _passes(some):
                began = time.perf_counter()
                errors_Bhw = base_Bhw if adds_nothing else self._errors(controlnet, task, conditions_BHWC)
                whole[kind] = errors_Bhw.mean(dim=(1, 2)).numpy()
                if kind in (TRUE, SHUFFLED):
                    near[kind] = _mean_over(errors_Bhw, some.near_Bhw).numpy()
                tell(time.perf_counter() - began)
        finally:
            controlnet.train(was_training)
        whole[BASE] = some.base_Bhw.mean(dim=(1, 2)).numpy()
        whole[SEEN_BASE] = some.seen_base_Bhw.mean(dim=(1, 2)).numpy()
        return Part(whole, near, some.near_Bhw.mean(axis=(1, 2)))

    def _errors(self, controlnet: Any, task: Task, conditions_BHWC: Uint8Array | None) -> Tensor:
        """Place by place, [B,h,w] float64 on the host; of the base alone without a network."""
        conditions = None if conditions_BHWC is None else self._family.conditions(conditions_BHWC)
        return objective.error_maps(self._family, controlnet, task, conditions).cpu().double()

    def _prepared(self, place: int) -> Ready:
        """A batch of examples, made once, and what the base alone makes of it."""
        if place not in self._ready:
            began = time.perf_counter()
            batch, seen, lent_BHWC = self._batch(place)
            height, width = batch.noise_BCHW.shape[2:]
            pairs = zip(batch.conditions_BHWC, lent_BHWC, strict=True)
            tasks = objective.task_of(self._family, batch), objective.task_of(self._family, seen)
            self._ready[place] = Ready(
                *tasks,
                batch.conditions_BHWC,
                lent_BHWC,
                seen.conditions_BHWC,
                np.stack([near_either(own, lent, height, width) for own, lent in pairs]),
                *(self._errors(None, task, None) for task in tasks),
            )
            self._preparing_s = time.perf_counter() - began
        return self._ready[place]

    def _batch(self, place: int) -> tuple[Batch, Batch, Uint8Array]:
        """Held-out pairs, training pairs, and conditions lent to the first; what they are is noted in their order."""
        batch, lent_BHWC = self._held_out.batch(self._parts[place], self.design)
        seen, _ = self._seen.batch(self._parts[place], self.design)
        if place == self._noted:
            self._noted += 1
            for part in (batch.targets_BHWC, batch.conditions_BHWC, lent_BHWC, seen.targets_BHWC, seen.conditions_BHWC):
                self._made_of.update(np.ascontiguousarray(part).data)
            self._made_of.update(json.dumps([batch.captions, seen.captions]).encode())
        return batch, seen, lent_BHWC

    def _warm_up(self, controlnet: Any, place: int) -> None:
        """The first pass takes longer than any other, where libraries choose their kernels, or compile them."""
        if not self._is_warm:
            some = self._prepared(place)
            self._errors(controlnet, some.held_out, some.own_BHWC)
            self._is_warm = True


def seen_of(held_out: Sequence[int], training: Sequence[int]) -> Sequence[int]:
    """The training pairs that are looked at beside those held out: as many, evenly spread."""
    step = max(1, len(training) // max(1, len(held_out)))
    return (training[::step] or held_out)[: len(held_out)]


def _passes(some: Ready) -> tuple[tuple[str, Task, Uint8Array, Tensor], ...]:
    """What is denoised, under which conditions, and what the base alone makes of it."""
    return (
        (TRUE, some.held_out, some.own_BHWC, some.base_Bhw),
        (SHUFFLED, some.held_out, some.lent_BHWC, some.base_Bhw),
        (SEEN, some.seen, some.seen_BHWC, some.seen_base_Bhw),
    )


def _mean_over(errors_Bhw: Tensor, cells_Bhw: Cells) -> Tensor:
    """Mean of each example over its cells, [B]."""
    mask_Bhw = torch.from_numpy(cells_Bhw)
    return (errors_Bhw * mask_Bhw).sum(dim=(1, 2)) / mask_Bhw.sum(dim=(1, 2))


def _joined(parts: Sequence[Mapping[str, Floats]]) -> dict[str, Floats]:
    return {kind: np.concatenate([part[kind] for part in parts]) for kind in parts[0]}


class _Squares:
    """Pairs, cropped and resized as for training, each read once."""

    def __init__(self, framer: Framer, pairs: Sequence[int], lenders: Sequence[int], settings: ExampleSettings) -> None:
        self._framer, self._pairs, self._lenders, self._settings = framer, pairs, lenders, settings
        self.resolution = framer.framing.resolution
        self._read: dict[int, Framed] = {}

    def batch(self, numbers: range, examples: Design) -> tuple[Batch, Uint8Array]:
        """These examples, and for each the condition of another pair, [B,H,W,3]."""
        pairs = [self._pairs[examples.places[k] % len(self._pairs)] for k in numbers]
        squares = [self._square(pair) for pair in pairs]
        shape, has_posterior = self._settings.latent_shape, self._settings.posterior
        posterior = [order.noise(SEED, k, shape, "posterior") for k in numbers] if has_posterior else []
        batch = Batch(
            first_example=numbers.start,
            pairs=tuple(pairs),
            captions=tuple(square.caption for square in squares),
            targets_BHWC=np.stack([square.target_HWC for square in squares]),
            conditions_BHWC=np.stack([square.condition_HWC for square in squares]),
            noise_BCHW=np.stack([order.noise(SEED, k, shape) for k in numbers]),
            posterior_noise_BCHW=np.stack(posterior) if posterior else None,
            times_B=examples.times[numbers.start : numbers.stop],
            frames_B6=np.array([square.frame for square in squares]),
            moments=all_or_none([self._framer.prepared(pair).moments for pair in pairs]),
            text=all_or_none([self._framer.text(square.caption) for square in squares]),
        )
        return batch, np.stack(
            [self._lent(int(examples.places[k]) % len(self._pairs), int(examples.rounds[k])) for k in numbers]
        )

    def _square(self, pair: int) -> Framed:
        if pair not in self._read:
            self._read[pair] = self._framer(pair)
        return self._read[pair]

    def _lent(self, place: int, round_: int) -> Uint8Array:
        """The condition of a neighbour, of one further away in each round; of the next where it is the same picture."""
        own, others = self._square(self._pairs[place]).condition_HWC, len(self._lenders) - 1
        for distance in range(others):
            lender = self._lenders[(place + 1 + (round_ + distance) % others) % len(self._lenders)]
            condition = self._square(lender).condition_HWC
            if not np.array_equal(own, condition):
                return condition
        return own  # all conditions are one picture: nothing can be told by them, and the gain is 0
