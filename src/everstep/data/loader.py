"""Batches in order from any example on, prepared ahead by threads that change nothing in them."""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait

import numpy as np

from everstep.contracts import Batch, ExampleSettings
from everstep.data.examples import make_example
from everstep.data.framing import Framer
from everstep.data.patience import StopAsked
from everstep.data.sequence import Order, SquareOrder

POLL_S = 0.5
LEAVE_S = 1.0  # what a thread gets to end; one that waits for a disk may never do


class BatchStream(Iterator[Batch]):
    """Endless batches, running on across epochs. `workers` threads prepare examples ahead; 0 does without."""

    def __init__(
        self,
        framer: Framer,
        training: Sequence[int],
        first_example: int,
        batch_size: int,
        settings: ExampleSettings,
        workers: int = 2,
        batches_ahead: int = 4,
        is_stopped: Callable[[], bool] = lambda: False,
        order: Order | None = None,
    ) -> None:
        """
        Args:
            first_example: images that were seen before, if the order does not begin batches elsewhere.
            order: of those that are trained on; None for squares.
            is_stopped: whether somebody asks to stop; asked now and then while a batch is waited for.
        """
        self.framer, self.settings = framer, settings
        self._order = order or SquareOrder(training, settings.seed, batch_size)
        self._batch_size, self._next_example = batch_size, self._order.first(first_example)
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
        examples = [make_example(self.framer, turn, self.settings) for turn in self._order.batch(first)]
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
