"""Another process's side of copies that several make: it copies when it is told to.

The first one of each machine has the other ones' channels and, where it is not the first machine, a keeper of its own,
whose memory holds the same copies.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Protocol

from everstep.contracts import Report
from everstep.keeping.arena import Arena
from everstep.keeping.channel import Channel, Message
from everstep.keeping.copier import Copier, Made
from everstep.keeping.link import KeeperGone, Link
from everstep.keeping.others import MODES, Neighbours
from everstep.keeping.pace import Cost
from everstep.keeping.sealing import Copy, Sealing, Void
from everstep.keeping.stateful import Layout, Stateful, coming_bytes
from everstep.keeping.team import RankLost, Team, lost_channel


class Copying(Protocol):
    """What a process does that is not the first, when the first one orders it."""

    @property
    def arena(self) -> Arena | None: ...

    def attach(self, team: Team) -> None:
        """Copies go into memory that the first one names. Raises: RankLost."""
        ...

    def copy(self, team: Team, generation: int, mode: int, is_claimed: int) -> None:
        """This process's share of the state as it is now. Raises: RankLost."""
        ...

    def close(self) -> None: ...


class Follower:
    """One that is not its machine's first: copies its share when it is told to, and tells what came of it."""

    def __init__(self, rank: int, ranks: int, state: Stateful, channel: Channel, report: Report) -> None:
        """
        Args:
            rank, ranks: of this machine.
            channel: to the first one of this machine.
        """
        self._state, self._channel, self._report = state, channel, report
        self._layout = Layout(state)
        self._share = self._layout.share(rank, ranks)
        self._copier: Copier | None = None
        self.arena: Arena | None = None

    def attach(self, team: Team) -> None:
        """Copy into the memory that the first one of this machine names. Raises: RankLost."""
        self.close()
        if team.machines > 1:
            team.told(None)
        with lost_channel():
            message = self._channel.receive()
        if "descriptor" in message:
            self.arena = Arena.attach(message["descriptor"])
            self._copier = Copier(self.arena, self._state, self._layout, self._share, self._report)
        if team.machines > 1:
            team.gathered(None)

    def copy(self, team: Team, generation: int, mode: int, is_claimed: int) -> None:
        """Copy this process's share of the state as it is now. Raises: RankLost."""
        if team.machines > 1:
            team.told(None)
        if self._copier is None or self.arena is None:  # this machine has no memory
            return
        self._copier.wait()
        with lost_channel():
            slot = self._channel.receive()["number"]
        if slot is None:
            return

        def tell(made: Made) -> None:
            with lost_channel():
                self._channel.send("made", generation=generation, made=asdict(made))

        self._copier.begin(self.arena.slots[slot], Cost(MODES[mode]), tell)

    def close(self) -> None:
        if self._copier is not None:
            self._copier.close()
            self._copier = self.arena = None


class Leader:
    """The first one of a machine that is not the first: its keeper's memory holds the same copies, by the same numbers.

    It never lets the others wait: where it has no slot, or its memory is gone, the copy is left out here.
    """

    def __init__(self, state: Stateful, link: Link, neighbours: Neighbours, report: Report) -> None:
        """
        Args:
            link: to the keeper of this machine.
        """
        self._state, self._link, self._report = state, link, report
        self._neighbours, self._layout = neighbours, Layout(state)
        self._sealing: Sealing | None = None

    @property
    def arena(self) -> Arena | None:
        return None if self._sealing is None else self._sealing.arena

    def attach(self, team: Team) -> None:
        """Ask the keeper of this machine for memory like the first one's. Raises: RankLost."""
        self.close()
        plan = team.told(None)
        answer = {} if plan is None else self._asked(plan)
        if "descriptor" in answer:
            arena = Arena.attach(answer["descriptor"], Path(answer["path"]) if answer["path"] else None)
            self._sealing = Sealing(arena, self._state, self._layout, self._link, self._report, self._neighbours)
        else:
            self._neighbours.attach(None)
        team.gathered(answer["node"] if "descriptor" in answer else None)

    def _asked(self, plan: Mapping[str, Any]) -> Message:
        try:
            return self._link.ask("plan", "arena", plan=plan, coming_bytes=coming_bytes(self._state))
        except KeeperGone:
            raise RankLost("The keeper of this machine is gone.") from None

    def copy(self, team: Team, generation: int, mode: int, is_claimed: int) -> None:
        """Copy this machine's state as it is now, and seal it here. Raises: RankLost."""
        told = team.told(None)
        if self._sealing is None:
            return
        self._sealing.copier.wait()
        slot = self._sealing.free_slot()
        if slot is None:
            self._neighbours.begin(None)
            return
        slot.begin(generation)

        def notes(pieces: Mapping[str, Sequence[str]]) -> Mapping[str, Any]:
            return {**told, "pieces": pieces}

        copy = Copy(slot, generation, int(told["step"]), notes, bool(is_claimed), Cost(MODES[mode]))
        self._sealing.begin(copy, _left)

    def close(self) -> None:
        if self._sealing is not None:
            self._sealing.copier.close()
            self._sealing = None


def _left(copy: Copy, void: Void | None) -> None:
    """What comes of a copy here is the keeper's to know; the first machine's is what counts."""
