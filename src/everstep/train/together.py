"""How ranks share what is done: which examples of a batch are whose, and which pieces of an evaluation.

Knows nothing of how processes are started, nor of what is done with a batch.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from everstep.contracts import Batch, Counted
from everstep.data import Order as ExampleOrder
from everstep.data.sequence import Turn
from everstep.keeping.team import Order, RankLost, Team
from everstep.train.wanted import go_on_while


class SharedOrder:
    """An order of which a rank gets every so manieth example of each batch; numbers and epochs stay the whole's."""

    def __init__(self, order: ExampleOrder, rank: int, ranks: int) -> None:
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
        self.stream, self._passes, self._ready = batches, passes, deque[Batch]()

    def prepare(self) -> None:
        """All of a step are there when this returns. Raises: what making a batch raises; then it can be asked again."""
        while len(self._ready) < self._passes:
            self._ready.append(next(self.stream))

    def __next__(self) -> Batch:
        return self._ready.popleft() if self._ready else next(self.stream)


class TeamRounds:
    """Work of an evaluation, shared out over all ranks. The first one calls it, the others take part in each round."""

    def __init__(self, team: Team, network: Any, is_whole: bool, is_wanted: Callable[[], bool]) -> None:
        """
        Args:
            is_whole: whether each rank holds the whole network; where it does not, all do each piece together.
            is_wanted: whether a piece is done to its end.
        """
        self._team, self._network, self._is_whole = team, network, is_whole
        self.at_once = team.size if is_whole else 1
        self.do: Callable[[Any, str, Any, Counted], Any] | None = None  # what a piece is done with
        # Who does a piece together with others ends it with them: they would wait for him.
        self._said = go_on_while(is_wanted) if is_whole else _nothing

    def __call__(self, kind: str, pieces: Sequence[Any]) -> list[Any]:
        """What came of each piece, in their order. Raises: RuntimeError with what went wrong; RankLost."""
        found: list[Any] = []
        for first in range(0, len(pieces), self.at_once):
            some = pieces[first : first + self.at_once]
            self._team.order(Order.SHARE)
            self._team.told((kind, some))
            done = self._team.gathered(self._done(kind, some)) or []
            failed = next((one for one in done if isinstance(one, Failed)), None)
            if failed is not None:
                raise RuntimeError(failed.why)
            found += done[: len(some)]
        return found

    def take_part(self) -> None:
        """One round, as one of the others. Raises: RankLost."""
        self._team.gathered(self._done(*self._team.told(None)))

    def _done(self, kind: str, some: Sequence[Any]) -> Any:
        """This rank's piece; None where it has none."""
        assert self.do is not None
        mine = self._team.rank if self._is_whole else 0
        if mine >= len(some):
            return None
        try:
            return self.do(self._network, kind, some[mine], self._said)
        except RankLost:
            raise
        except MemoryError:
            return Failed("out of memory")
        except Exception as error:
            return Failed(str(error) or type(error).__name__)


def _nothing(done: int, total: int) -> None:
    """Nobody is told."""


@dataclass(frozen=True, slots=True)
class Failed:
    """What became of a piece that could not be done."""

    why: str
