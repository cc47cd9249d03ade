"""Batches in order from any example on, prepared ahead by threads that change nothing in them."""

import math
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from everstep.contracts import Batch, ExampleSettings
from everstep.data.examples import Example, make_example
from everstep.data.framing import Framer
from everstep.data.patience import StopAsked
from everstep.data.sequence import Order, SquareOrder, Turn

T = TypeVar("T")
Scalar = TypeVar("Scalar", bound=np.generic)
POLL_S = 0.5
TURNS_AHEAD, MORE_AHEAD = 2, 2  # examples of each thread, and batches besides
LEAVE_S = 1.0  # what a thread gets to end; one that waits for a disk may never do


class BatchStream(Iterator[Batch]):
    """Endless batches, running on across epochs. `workers` threads prepare examples ahead; 0 does without.

    Each example is a task of its own, so a slow one holds up the batch that it is in, and no other example. As many are
    on their way as keep every thread busy while a batch is used: more would only take memory.
    """

    def __init__(
        self,
        framer: Framer,
        training: Sequence[int],
        first_example: int,
        batch_size: int,
        settings: ExampleSettings,
        workers: int = 2,
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
        self._ahead: deque[list[Future[Example]]] = deque()
        self._batches_ahead = MORE_AHEAD + math.ceil(TURNS_AHEAD * workers / batch_size)
        self._is_stopped = is_stopped

    def __next__(self) -> Batch:
        """Raises: what the source raises where a pair cannot be read any more; StopAsked."""
        if self._pool is None:
            return batch_of([make_example(self.framer, turn, self.settings) for turn in self._claim()])
        while len(self._ahead) < self._batches_ahead:
            self._ahead.append([self._submit(turn) for turn in self._claim()])
        for example in self._ahead[0]:
            self._wait_for(example)
        return batch_of([example.result() for example in self._ahead.popleft()])

    def close(self) -> None:
        """End the threads; what they were preparing is dropped. A thread that a disk holds up holds up nobody."""
        if self._pool is not None:
            self._pool.shutdown(wait=False, cancel_futures=True)
            wait([example for batch in self._ahead for example in batch if example.running()], LEAVE_S)

    def _submit(self, turn: Turn) -> Future[Example]:
        assert self._pool is not None
        return self._pool.submit(make_example, self.framer, turn, self.settings)

    def _wait_for(self, example: Future[Example]) -> None:
        """A disk may hang and never fail; then a stop is heard here. Raises: StopAsked."""
        while not example.done():
            wait([example], POLL_S)
            if not example.done() and self._is_stopped():
                raise StopAsked

    def _claim(self) -> list[Turn]:
        first = self._next_example
        self._next_example += self._batch_size
        return self._order.batch(first)


def batch_of(examples: Sequence[Example]) -> Batch:
    """Examples of one size, in their order."""
    return Batch(
        first_example=examples[0].number,
        pairs=tuple(example.pair for example in examples),
        captions=tuple(example.caption for example in examples),
        targets_BHWC=stacked([example.target_HWC for example in examples]),
        conditions_BHWC=np.stack([example.condition_HWC for example in examples]),
        noise_BCHW=np.stack([example.noise_CHW for example in examples]),
        posterior_noise_BCHW=stacked([example.posterior_noise_CHW for example in examples]),
        times_B=np.array([example.time for example in examples]),
        frames_B6=np.array([example.frame for example in examples]),
        moments=all_or_none([example.moments for example in examples]),
        text=all_or_none([example.text for example in examples]),
    )


def stacked(arrays: Sequence[npt.NDArray[Scalar] | None]) -> npt.NDArray[Scalar] | None:
    """One array, where every example has its own."""
    found = all_or_none(arrays)
    return None if found is None else np.stack(found)


def all_or_none(values: Sequence[T | None]) -> tuple[T, ...] | None:
    """Encoded before is everything of a batch, or nothing."""
    found = tuple(value for value in values if value is not None)
    return found if len(found) == len(values) else None
