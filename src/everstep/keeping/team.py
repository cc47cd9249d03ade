"""Several processes that train one state in step: what the first of them orders, all do.

The first one decides everything (when to step, copy, measure, end) and the others follow, so that no two of them can
decide otherwise. An order is one exchange over the host's network, which waits for no GPU; what an other has to say
before a step, that its data cannot be read, comes back in the same exchange.
"""

import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import timedelta
from enum import IntEnum
from typing import Any

import torch
from torch import distributed

from everstep.contracts import Report
from everstep.errors import EverstepError, ExitCode
from everstep.keeping.arena import Arena, Slot
from everstep.keeping.channel import Channel, Gone
from everstep.keeping.copier import Copier, Made
from everstep.keeping.pace import Cost
from everstep.keeping.stateful import Layout, Stateful

MODES = ("blocking", "background")
WORDS = 6  # of an exchange: the order, what goes with it, and trouble
TROUBLE = WORDS - 1
EVER = timedelta(days=365)  # the first may wait for a disk as long as it likes, and the others with it


class Order(IntEnum):
    """What all do next."""

    END = 0
    ATTACH = 1  # memory for copies comes from the keeper
    RESTORE = 2  # what a version holds
    STEP = 3
    COPY = 4  # into a slot: its number, the generation, the mode
    SHARE = 5  # work that is shared out, which is told next


class Trouble(IntEnum):
    """Why one cannot take the next step."""

    NONE = 0
    STOPPED = 1  # somebody asks to stop while it waits for its data
    UNREADABLE = 2  # its data


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


# --- copies that are made together ----------------------------------------------------------------------------


@dataclass(slots=True)
class Others:
    """The first one's side: the other processes of this machine, each of which copies its share."""

    team: Team
    channels: Sequence[Channel]

    @property
    def ranks(self) -> int:
        """Of this machine, with the first one."""
        return 1 + len(self.channels)

    def attach(self, arena: Arena | None) -> None:
        """They copy into this memory from now on."""
        self.team.order(Order.ATTACH)
        for channel in self.channels:
            with lost_channel():
                channel.send("arena", None if arena is None else arena.descriptor)

    def begin(self, slot: Slot, generation: int, mode: str) -> None:
        """They copy now. Raises: RankLost."""
        self.team.order(Order.COPY, slot.number, generation, MODES.index(mode))

    def made(self, generation: int) -> list[Made]:
        """What came of it; waits for all. Called in the second thread. Raises: RankLost."""
        return [self._made(channel, generation) for channel in self.channels]

    def _made(self, channel: Channel, generation: int) -> Made:
        with lost_channel():
            while True:
                message = channel.receive()
                if message["kind"] == "made" and message["generation"] == generation:
                    return _made_of(message["made"])


class lost_channel:  # noqa: N801
    """The same of a channel."""

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        if isinstance(error, Gone):
            raise RankLost("Another rank is gone.") from error


class Follower:
    """Another one's side: copies its share when it is told to, and tells what came of it."""

    def __init__(self, rank: int, ranks: int, state: Stateful, channel: Channel, report: Report) -> None:
        self._state, self._channel, self._report = state, channel, report
        self._layout = Layout(state)
        self._share = self._layout.share(rank, ranks)
        self._copier: Copier | None = None
        self.arena: Arena | None = None

    def attach(self) -> None:
        """Copy into the memory that the first one names. Raises: RankLost."""
        self.close()
        with lost_channel():
            message = self._channel.receive()
        if "descriptor" in message:
            self.arena = Arena.attach(message["descriptor"])
            self._copier = Copier(self.arena, self._state, self._layout, self._share, self._report)

    def copy(self, slot: int, generation: int, mode: int) -> None:
        """Copy this process's share of the state as it is now."""
        assert self._copier is not None
        assert self.arena is not None
        self._copier.wait()

        def tell(made: Made) -> None:
            with lost_channel():
                self._channel.send("made", generation=generation, made=asdict(made))

        self._copier.begin(self.arena.slots[slot], Cost(MODES[mode]), tell)

    def close(self) -> None:
        if self._copier is not None:
            self._copier.close()
            self._copier = self.arena = None


def _made_of(facts: dict[str, Any]) -> Made:
    """As JSON has it: keys are texts there, and pairs lists."""
    pieces = {int(number): digest for number, digest in facts.pop("pieces").items()}
    sick = facts.pop("sick")
    return Made(pieces=pieces, sick=None if sick is None else (sick[0], sick[1]), **facts)
