"""How ranks share what is trained on: which examples are whose, and that all of them have theirs before a step.

Knows nothing of processes, nor of what is done with a batch.
"""

from collections import deque
from collections.abc import Iterable, Iterator

from everstep.contracts import Batch
from everstep.data import Order
from everstep.data.sequence import Turn


class SharedOrder:
    """An order of which a rank gets every so manieth example of each batch; numbers and epochs stay the whole's."""

    def __init__(self, order: Order, rank: int, ranks: int) -> None:
        self._order, self._rank, self._ranks = order, rank, ranks

    @property
    def epoch_examples(self) -> int:
        return self._order.epoch_examples

    def first(self, images_seen: int) -> int:
        return self._order.first(images_seen)

    def batch(self, first: int) -> list[Turn]:
        return self._order.batch(first)[self._rank :: self._ranks]

    def trained(self) -> Iterable[tuple[int, tuple[int, int] | None]]:
        return self._order.trained()

    def sentence(self) -> str | None:
        return self._order.sentence()


class Prepared(Iterator[Batch]):
    """Batches, those of a step made ready before it: data that cannot be read must stop all ranks between two steps."""

    def __init__(self, batches: Iterator[Batch], passes: int) -> None:
        """
        Args:
            passes: batches of a step.
        """
        self._batches, self._passes, self._ready = batches, passes, deque[Batch]()

    def prepare(self) -> None:
        """All of a step are there when this returns. Raises: what making a batch raises; then it can be asked again."""
        while len(self._ready) < self._passes:
            self._ready.append(next(self._batches))

    def __next__(self) -> Batch:
        return self._ready.popleft() if self._ready else next(self._batches)
