"""The fixed held-out examples on which control gain is measured, kept ready in memory.

Uses the networks that are there. Knows nothing of runs, files or optimizers.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from everstep.contracts import Batch, Counted, ExampleSettings, PairSource, Uint8Array
from everstep.data import fit, order
from everstep.evaluation.gain import BLANK, CONDITIONS, SEED, SHUFFLED, TRUE, Design, Floats, control_gain, design
from everstep.models.sd import StableDiffusion, Task
from everstep.records.verdict import Gain

Pace = Callable[[float, float], None]


@dataclass(frozen=True, slots=True)
class Probed:
    """Some of the examples, with their own conditions and those lent to them: [B,H,W,3] uint8."""

    task: Task
    own_BHWC: Uint8Array
    lent_BHWC: Uint8Array

    def conditions(self, kind: str) -> Uint8Array:
        """Small in memory until they are used."""
        return {TRUE: self.own_BHWC, SHUFFLED: self.lent_BHWC, BLANK: np.zeros_like(self.own_BHWC)}[kind]


class Probe:
    """Held-out pairs, each with its own noise and timestep, the same at every version of a run."""

    def __init__(
        self,
        family: StableDiffusion,
        source: PairSource,
        held_out: Sequence[int],
        others: Sequence[int],
        settings: ExampleSettings,
        examples: int,
        batch_size: int,
    ) -> None:
        """
        Args:
            others: pairs that lend their conditions where there is only one held-out pair.
            settings: of the run; its crop, mirroring and prompt dropout do not count here.
        """
        self._family = family
        self.design = design(len(held_out), examples, settings.num_train_timesteps)
        self._squares = _Squares(source, held_out, others, settings)
        self._parts = [range(at, min(at + batch_size, examples)) for at in range(0, examples, batch_size)]
        self._probed: list[Probed] = []
        self._preparing_s = 0.0  # of the batch that was prepared last
        self._is_warm = False

    @torch.no_grad()
    def measure(self, controlnet: Any, said: Counted = lambda done, total: None, pace: Pace | None = None) -> Gain:
        """Denoise every example under its own, another pair's and a blank condition. Leaves the network as it was.

        Args:
            pace: told after each batch, in seconds, how long all takes at this pace and how much of it is to come; may
                raise, which ends the measurement.
        """
        was_training = controlnet.training
        controlnet.eval()
        try:
            errors = self._all_errors(controlnet, said, pace)
        finally:
            controlnet.train(was_training)
        return control_gain(errors, self.design)

    def _all_errors(self, controlnet: Any, said: Counted, pace: Pace | None) -> dict[str, Floats]:
        """[N] under each condition, batch by batch: of each it is known soon how long all of them take."""
        found: dict[str, list[Tensor]] = {kind: [] for kind in CONDITIONS}
        took_s, batches = 0.0, len(self._parts) * len(CONDITIONS)
        self._warm_up(controlnet)
        for place, numbers in enumerate(self._parts):
            some = self._prepared(place)
            for kind in CONDITIONS:
                began = time.perf_counter()
                errors_B = self._family.errors(controlnet, some.task, self._family.conditions(some.conditions(kind)))
                found[kind].append(errors_B.double().cpu())
                took_s += time.perf_counter() - began
                done = sum(map(len, found.values()))
                if pace is not None:
                    preparing_s = self._preparing_s * (len(self._parts) - len(self._probed))
                    pace(took_s / done * batches + preparing_s, took_s / done * (batches - done) + preparing_s)
            said(numbers.stop, len(self.design.places))
        return {kind: torch.cat(errors).numpy() for kind, errors in found.items()}

    def _prepared(self, place: int) -> Probed:
        """A batch of examples, made once."""
        if place == len(self._probed):
            began = time.perf_counter()
            batch, lent_BHWC = self._squares.batch(self._parts[place], self.design)
            self._probed.append(Probed(self._family.task(batch), batch.conditions_BHWC, lent_BHWC))
            self._preparing_s = time.perf_counter() - began
        return self._probed[place]

    def _warm_up(self, controlnet: Any) -> None:
        """The first pass takes longer than any other, where libraries choose their kernels, or compile them."""
        if not self._is_warm:
            some = self._prepared(0)
            self._family.errors(controlnet, some.task, self._family.conditions(some.conditions(TRUE)))
            self._is_warm = True


class _Squares:
    """Held-out pairs, cropped and resized as for training, each read once."""

    def __init__(
        self, source: PairSource, held_out: Sequence[int], others: Sequence[int], settings: ExampleSettings
    ) -> None:
        self._source, self._held_out, self._settings = source, held_out, settings
        self._lenders = list(held_out) if len(held_out) > 1 else [*held_out, *others[:8]]
        self._read: dict[int, tuple[Uint8Array, Uint8Array, str]] = {}

    def batch(self, numbers: range, examples: Design) -> tuple[Batch, Uint8Array]:
        """These examples, and for each the condition of another pair, [B,H,W,3]."""
        pairs = [self._held_out[examples.places[k]] for k in numbers]
        squares = [self._square(pair) for pair in pairs]
        shape, has_posterior = self._settings.latent_shape, self._settings.posterior
        posterior = [order.noise(SEED, k, shape, "posterior") for k in numbers] if has_posterior else []
        batch = Batch(
            first_example=numbers.start,
            pairs=tuple(pairs),
            captions=tuple(caption for _, _, caption in squares),
            targets_BHWC=np.stack([target for target, _, _ in squares]),
            conditions_BHWC=np.stack([condition for _, condition, _ in squares]),
            noise_BCHW=np.stack([order.noise(SEED, k, shape) for k in numbers]),
            posterior_noise_BCHW=np.stack(posterior) if posterior else None,
            timesteps_B=examples.timesteps[numbers.start : numbers.stop],
        )
        return batch, np.stack([self._lent(int(examples.places[k]), int(examples.rounds[k])) for k in numbers])

    def _square(self, pair: int) -> tuple[Uint8Array, Uint8Array, str]:
        if pair not in self._read:
            loaded = self._source.load(pair)
            squares = fit(loaded, self._settings.resolution, self._settings.condition_resize)
            self._read[pair] = (*squares, loaded.caption)
        return self._read[pair]

    def _lent(self, place: int, round_: int) -> Uint8Array:
        """The condition of a neighbour, of one further away in each round; of the next where it is the same picture."""
        own, others = self._square(self._held_out[place])[1], len(self._lenders) - 1
        for distance in range(others):
            lender = self._lenders[(place + 1 + (round_ + distance) % others) % len(self._lenders)]
            condition = self._square(lender)[1]
            if not np.array_equal(own, condition):
                return condition
        return own  # all conditions are one picture: nothing can be told by them, and the gain is 0
