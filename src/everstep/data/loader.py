"""Batches in order from any example on, prepared ahead by threads that change nothing in them."""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass

import numpy as np

from everstep.contracts import Batch, ExampleSettings, Float32Array, PairSource, Uint8Array
from everstep.data import order
from everstep.data.patience import StopAsked
from everstep.data.transform import CENTRE, fit, frame

POLL_S = 0.5
LEAVE_S = 1.0  # what a thread gets to end; one that waits for a disk may never do


@dataclass(frozen=True, slots=True)
class Example:
    """One example, ready for a batch; see contracts.Batch for shapes."""

    pair: int
    caption: str
    target_HWC: Uint8Array
    condition_HWC: Uint8Array
    noise_CHW: Float32Array
    posterior_noise_CHW: Float32Array | None
    time: float
    frame: tuple[int, int, int, int, int, int]


def make_example(source: PairSource, training: Sequence[int], number: int, settings: ExampleSettings) -> Example:
    """Example `number` of a run: a pure function of its number and the settings."""
    seed = settings.seed
    pair = training[order.pair_of(seed, number, len(training))]
    loaded = source.load(pair)
    crop_at = order.crop_position(seed, number) if settings.crop == "random" else CENTRE
    is_flipped = order.is_flipped(seed, number, settings.flip_probability)
    target, condition = fit(loaded, settings.resolution, settings.condition_resize, crop_at, is_flipped)
    return Example(
        pair=pair,
        caption="" if order.is_dropped(seed, number, settings.prompt_dropout) else loaded.caption,
        target_HWC=target,
        condition_HWC=condition,
        noise_CHW=order.noise(seed, number, settings.latent_shape),
        posterior_noise_CHW=order.noise(seed, number, settings.latent_shape, "posterior")
        if settings.posterior
        else None,
        time=order.time(seed, number, settings.timestep_shift),
        frame=frame(loaded.target.size, settings.resolution, crop_at, is_flipped),
    )


class BatchStream(Iterator[Batch]):
    """Endless batches, running on across epochs. `workers` threads prepare examples ahead; 0 does without."""

    def __init__(
        self,
        source: PairSource,
        training: Sequence[int],
        first_example: int,
        batch_size: int,
        settings: ExampleSettings,
        workers: int = 2,
        batches_ahead: int = 4,
        is_stopped: Callable[[], bool] = lambda: False,
    ) -> None:
        """
        Args:
            is_stopped: whether somebody asks to stop; asked now and then while a batch is waited for.
        """
        self.source, self._training, self.settings = source, training, settings
        self._batch_size, self._next_example = batch_size, first_example
        self._pool = ThreadPoolExecutor(workers, "everstep-data") if workers else None
        self._ahead: deque[Future[Batch]] = deque()
        self._batches_ahead, self._is_stopped = batches_ahead, is_stopped

    def __next__(self) -> Batch:
        """Raises: what the source raises where a pair cannot be read any more; StopAsked."""
        if self._pool is None:
            return self._make(self._claim())
        while len(self._ahead) < self._batches_ahead:
            self._ahead.append(self._pool.submit(self._make, self._claim()))
        self._wait_for(self._ahead[0])
        return self._ahead.popleft().result()

    def close(self) -> None:
        """End the threads; what they were preparing is dropped. A thread that a disk holds up holds up nobody."""
        if self._pool is not None:
            self._pool.shutdown(wait=False, cancel_futures=True)
            wait([future for future in self._ahead if future.running()], LEAVE_S)

    def _wait_for(self, batch: Future[Batch]) -> None:
        """A disk may hang and never fail; then a stop is heard here. Raises: StopAsked."""
        while not batch.done():
            wait([batch], POLL_S)
            if not batch.done() and self._is_stopped():
                raise StopAsked

    def _claim(self) -> int:
        first = self._next_example
        self._next_example += self._batch_size
        return first

    def _make(self, first: int) -> Batch:
        numbers = range(first, first + self._batch_size)
        examples = [make_example(self.source, self._training, number, self.settings) for number in numbers]
        posterior = [e.posterior_noise_CHW for e in examples if e.posterior_noise_CHW is not None]
        return Batch(
            first_example=first,
            pairs=tuple(example.pair for example in examples),
            captions=tuple(example.caption for example in examples),
            targets_BHWC=np.stack([example.target_HWC for example in examples]),
            conditions_BHWC=np.stack([example.condition_HWC for example in examples]),
            noise_BCHW=np.stack([example.noise_CHW for example in examples]),
            posterior_noise_BCHW=np.stack(posterior) if posterior else None,
            times_B=np.array([example.time for example in examples]),
            frames_B6=np.array([example.frame for example in examples]),
        )
