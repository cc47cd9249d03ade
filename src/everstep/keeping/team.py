"""Several processes that train one state in step: what the first of them orders, all do.

The first one decides everything (when to step, copy, measure, end) and the others follow, so that no two of them can
decide otherwise. An order is one exchange over the host's network, which waits for no GPU; what an other has to say
before a step, that its data cannot be read, comes back in the same exchange.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from enum import IntEnum
from typing import Any

import torch
from torch import distributed

from everstep.errors import EverstepError, ExitCode
from everstep.keeping.channel import Gone

WORDS = 6  # of an exchange: the order, what goes with it, and trouble
TROUBLE = WORDS - 1
EVER = timedelta(days=365)  # the first may wait for a disk as long as it likes, and the others with it


class Order(IntEnum):
    """What all do next."""

    END = 0
    ATTACH = 1  # memory for copies comes from the keeper
    RESTORE = 2  # what a version holds
    STEP = 3
    COPY = 4  # the state: its generation, the mode, whether other machines will be asked for parts of it
    SHARE = 5  # work that is shared out, which is told next


class Trouble(IntEnum):
    """Why one cannot take the next step."""

    NONE = 0
    STOPPED = 1  # somebody asks to stop while it waits for its data
    UNREADABLE = 2  # its data
    ASKED = 3  # its machine is asked to stop, and so all are


class RankLost(EverstepError):
    """Another process of the training is gone, and no step can be taken without it."""

    exit_code = ExitCode.BUG


@dataclass(frozen=True, slots=True)
class Heard:
    """One exchange, as all heard it."""

    order: Order
    facts: tuple[int, ...]
    trouble: Trouble


class Team:
    """One process's place among those that train together."""

    def __init__(self, rank: int, size: int) -> None:
        self.rank, self.size = rank, size
        self._group: Any = distributed.new_group(backend="gloo", timeout=EVER)

    @property
    def is_first(self) -> bool:
        return self.rank == 0

    @property
    def machines(self) -> int:
        """That train together, as PyTorch's launcher tells its ranks."""
        return int(os.environ["GROUP_WORLD_SIZE"])

    def order(self, order: Order, *facts: int) -> Heard:
        """The first one's: all do this next. Raises: RankLost."""
        return self._exchange([int(order), *facts, *[-1] * (TROUBLE - 1 - len(facts)), Trouble.NONE])

    def hear(self, trouble: Trouble = Trouble.NONE) -> Heard:
        """The others': wait for what is next. Raises: RankLost."""
        return self._exchange([*[-1] * TROUBLE, trouble])

    def _exchange(self, said: Sequence[int]) -> Heard:
        words = torch.tensor(said, dtype=torch.int64)
        with lost():
            distributed.all_reduce(words, distributed.ReduceOp.MAX, group=self._group)
        order, *facts, trouble = words.tolist()
        return Heard(Order(order), tuple(facts), Trouble(trouble))

    def gathered(self, mine: Any) -> list[Any] | None:
        """What each has, in the order of ranks, at the first one; None at the others. Raises: RankLost."""
        found: list[Any] | None = [None] * self.size if self.is_first else None
        with lost():
            distributed.gather_object(mine, found, 0, group=self._group)
        return found

    def told(self, mine: Any) -> Any:
        """What the first one has, at all of them. Raises: RankLost."""
        box = [mine]
        with lost():
            distributed.broadcast_object_list(box, 0, group=self._group)
        return box[0]


class lost:  # noqa: N801  # reads as a sentence: with lost()
    """Inside, an exchange that fails is one with a process that is gone. Raises: RankLost."""

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        # NCCL and the store have errors of their own; gloo's are known by its name alone. What else is raised inside,
        # memory that is out say, is this process's own.
        if isinstance(error, distributed.DistError) or (isinstance(error, RuntimeError) and "gloo" in str(error)):
            raise RankLost("Another rank does not answer any more.") from error


class lost_channel:  # noqa: N801
    """The same of a channel."""

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        if isinstance(error, Gone):
            raise RankLost("Another rank is gone.") from error
