"""The first process's side of copies that several make: who copies what, and which machines hold the same memory."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from everstep.keeping.arena import Arena, ArenaPlan, Slot
from everstep.keeping.channel import Channel
from everstep.keeping.copier import Made
from everstep.keeping.extents import shared_out
from everstep.keeping.team import Order, Team, lost_channel

MODES = ("blocking", "background")


@dataclass(slots=True)
class Neighbours:
    """The other processes of a machine, at its first one: each copies its share of the state."""

    channels: Sequence[Channel]

    @property
    def ranks(self) -> int:
        """Of this machine, with the first one."""
        return 1 + len(self.channels)

    def attach(self, arena: Arena | None) -> None:
        """They copy into this memory from now on. Raises: RankLost."""
        for channel in self.channels:
            with lost_channel():
                channel.send("arena", None if arena is None else arena.descriptor)

    def begin(self, slot: Slot | None) -> None:
        """They copy into this slot what they were ordered to copy; None where it is left out here. Raises: RankLost."""
        for channel in self.channels:
            with lost_channel():
                channel.send("slot", number=None if slot is None else slot.number)

    def made(self, generation: int) -> list[Made]:
        """What came of it; waits for all. Called in the second thread. Raises: RankLost."""
        return [self._made(channel, generation) for channel in self.channels]

    def _made(self, channel: Channel, generation: int) -> Made:
        with lost_channel():
            while True:
                message = channel.receive()
                if message["kind"] == "made" and message["generation"] == generation:
                    return _made_of(message["made"])


@dataclass(slots=True)
class Others:
    """The first one's side of all that train with it."""

    team: Team
    neighbours: Neighbours
    _plan: ArenaPlan | None = None
    _are_asked: bool = False  # other machines, for parts of versions

    def attach(self, plan: ArenaPlan | None) -> None:
        """Copies go into memory that is laid out so from now on, or into none. Raises: RankLost."""
        self._plan = plan
        self.team.order(Order.ATTACH)
        if self.team.machines > 1:
            self.team.told(None if plan is None else asdict(plan))

    def attached(self) -> list[int]:
        """Which other machines hold the same memory, by their number in the launch. Raises: RankLost."""
        if self.team.machines == 1:
            return []
        holders = [node for node in self.team.gathered(None) or () if node is not None]
        self._are_asked = self._plan is not None and len(shared_out(self._plan.files, 1 + len(holders))) > 1
        return holders

    def copy(self, generation: int, mode: str, is_claimed: bool, notes: Mapping[str, Any]) -> None:
        """All copy now. Raises: RankLost.

        Args:
            notes: of the slot, but for its pieces: other machines note the same.
        """
        self.team.order(Order.COPY, generation, MODES.index(mode), int(is_claimed and self._are_asked))
        if self.team.machines > 1:
            self.team.told(dict(notes))


def _made_of(facts: dict[str, Any]) -> Made:
    """As JSON has it: keys are texts there, and pairs lists."""
    pieces = {int(number): digest for number, digest in facts.pop("pieces").items()}
    sick = facts.pop("sick")
    return Made(pieces=pieces, sick=None if sick is None else (sick[0], sick[1]), **facts)
