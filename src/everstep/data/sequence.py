"""Which pair each example of a run is of, and in which shape: batch by batch, from the number of its first example.

Where all are squares an example follows from its number alone, whatever batch it is in. In buckets a batch is of one
shape, so it is batches that an epoch is planned in.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Protocol

import numpy as np

from everstep.contracts import Int64Array
from everstep.data import order
from everstep.data.buckets import Size, filled, in_words, nearest

PLANS_KEPT = 3  # of epochs; batches are prepared ahead, so that two are in use at once
MOST_NAMED = 4


@dataclass(frozen=True, slots=True)
class Turn:
    """One example's: its number, its pair, and the width and height it is trained at; None for the square."""

    number: int
    pair: int
    size: Size | None = None


class Order(Protocol):
    """All batches of a run; a pure function of seed, pairs and batch size."""

    @property
    def epoch_examples(self) -> int:
        """Examples until every pair had its turn."""
        ...

    def first(self, images_seen: int) -> int:
        """Number of the example that a run goes on with which has seen so many."""
        ...

    def batch(self, first: int) -> list[Turn]:
        """The batch that begins with this example."""
        ...

    def trained(self) -> Iterable[tuple[int, Size | None]]:
        """Every pair that is trained on, with the size that it is trained at."""
        ...

    def sentence(self) -> str | None:
        """What there is to say of shapes when a training begins."""
        ...


class SquareOrder:
    """Each pair once in an epoch, and all of one size."""

    def __init__(self, training: Sequence[int], seed: int, batch_size: int) -> None:
        self._training, self._seed, self._batch_size = training, seed, batch_size

    @property
    def epoch_examples(self) -> int:
        return len(self._training)

    def first(self, images_seen: int) -> int:
        return images_seen

    def batch(self, first: int) -> list[Turn]:
        numbers, count = range(first, first + self._batch_size), len(self._training)
        return [Turn(number, self._training[order.pair_of(self._seed, number, count)]) for number in numbers]

    def trained(self) -> Iterable[tuple[int, None]]:
        return ((pair, None) for pair in self._training)

    def sentence(self) -> None:
        return None


class BucketOrder:
    """Batches of one shape each, in an order that is mixed anew in each epoch. Any threads may ask at once.

    A bucket is all pairs of a shape. What is left of it when batches are full is made a batch with pairs that had
    their turn in this epoch already, so that each has one at least, and an epoch is as long as any other.
    """

    def __init__(
        self, training: Sequence[int], sizes: Int64Array, shapes: Sequence[Size], seed: int, batch_size: int
    ) -> None:
        """
        Args:
            sizes: of the targets of all pairs, by pair number: width and height, [N,2].
            shapes: ordered by ratio.
        """
        self._training = np.asarray(training, dtype=np.int64)
        self._shapes, self._seed, self._batch_size = shapes, seed, batch_size
        self._shape_of = nearest(sizes[self._training], shapes)
        self.counts = np.bincount(self._shape_of, minlength=len(shapes))  # pairs of each shape
        self._enlarged = int((sizes[self._training] < np.array(shapes)[self._shape_of]).any(axis=1).sum())
        self._plan = lru_cache(maxsize=PLANS_KEPT)(self._planned)

    @property
    def epoch_examples(self) -> int:
        return int(-(-self.counts // self._batch_size).sum()) * self._batch_size

    def first(self, images_seen: int) -> int:
        """The next at which a batch begins: the same but where batches had another size before."""
        return -(-images_seen // self._batch_size) * self._batch_size

    def batch(self, first: int) -> list[Turn]:
        epoch, place = divmod(first, self.epoch_examples)
        members = self._plan(epoch)[place // self._batch_size]
        size = self._shapes[self._shape_of[members[0]]]
        return [Turn(first + at, int(self._training[member]), size) for at, member in enumerate(members)]

    def _planned(self, epoch: int) -> Int64Array:
        """Shapes: [batches, batch size], places among those that are trained on."""
        mixed = order.permutation(self._seed, epoch, len(self._training))
        by_shape = mixed[np.argsort(self._shape_of[mixed], kind="stable")]
        buckets = np.split(by_shape, np.cumsum(self.counts)[:-1])
        full = [np.resize(bucket, -(-len(bucket) // self._batch_size) * self._batch_size) for bucket in buckets]
        batches = np.concatenate(full).reshape(-1, self._batch_size)
        return batches[order.permutation(self._seed, epoch, len(batches), "batches")]

    def trained(self) -> Iterable[tuple[int, Size]]:
        return zip(self._training.tolist(), (self._shapes[shape] for shape in self._shape_of), strict=True)

    def sentence(self) -> str:
        """How many shapes there are, and what of it is worth a second look."""
        used = filled(self._shapes, self._shape_of)
        said = in_words(used)
        few = [(shape, count) for shape, count in used if count < self._batch_size]
        if few:
            named = ", ".join(f"{w}x{h} ({count})" for (w, h), count in few[:MOST_NAMED])
            more = f" and {len(few) - MOST_NAMED} more" if len(few) > MOST_NAMED else ""
            have, repeat = ("1 shape has", "repeats") if len(few) == 1 else (f"{len(few)} shapes have", "repeat")
            said += f" {have} fewer than a batch of {self._batch_size} and {repeat} them to fill it: {named}{more}."
        if self._enlarged:
            said += f" {self._enlarged:,} of them are smaller than their shape and are enlarged."
        return said
