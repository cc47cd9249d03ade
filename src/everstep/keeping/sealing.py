"""One machine's copies of a live state: into a slot by all of its processes, joined, looked at, and sealed or refused.

Knows nothing of when copies are made, nor of what a slot's notes say. Source of "claimed" and "sealed": `arena.py`.
"""

import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

from everstep.contracts import Report
from everstep.errors import EverstepError, NotFinite
from everstep.keeping.arena import Arena, Slot, SlotState
from everstep.keeping.copier import Copier, Made
from everstep.keeping.copying import write_headers
from everstep.keeping.link import Link
from everstep.keeping.pace import Cost
from everstep.keeping.stateful import Layout, Stateful


class Neighbours(Protocol):
    """The other processes of this machine, each of which copies its share of the state."""

    @property
    def ranks(self) -> int:
        """Of this machine, with this one."""
        ...

    def attach(self, arena: Arena | None) -> None:
        """They copy into this memory from now on; None where there is none."""
        ...

    def begin(self, slot: Slot | None) -> None:
        """They copy into this slot what they were told to copy; None where it is left out here."""
        ...

    def made(self, generation: int) -> list[Made]:
        """What came of it; waits for all of them."""
        ...


@dataclass(frozen=True, slots=True)
class Copy:
    """One copy on its way. notes: of the slot, once the digests of its pieces are known, by file."""

    slot: Slot
    generation: int
    step: int
    notes: Callable[[Mapping[str, Sequence[str]]], Mapping[str, Any]]
    is_claimed: bool
    cost: Cost


@dataclass(frozen=True, slots=True)
class Void:
    """A copy of which nothing came."""

    generation: int
    why: str
    fault: NotFinite | None = None  # the state itself is sick
    is_torn: bool = False  # it changed while it was copied


class Sealing:
    """Copies of one state into one machine's memory, as long as the state keeps its shape."""

    def __init__(
        self,
        arena: Arena,
        state: Stateful,
        layout: Layout,
        link: Link,
        report: Report,
        neighbours: Neighbours | None = None,
    ) -> None:
        """
        Args:
            layout: the version's tensor files, as the arena's plan has them.
            link: to the keeper of this machine, which is told of claimed copies.
        """
        self.arena, self._link, self._report, self._neighbours = arena, link, report, neighbours
        for slot in arena.slots:
            write_headers(layout, slot)
        share = layout.share(0, 1 if neighbours is None else neighbours.ranks)
        self.copier = Copier(arena, state, layout, share, report)
        if neighbours is not None:
            neighbours.attach(arena)

    def free_slot(self) -> Slot | None:
        """The oldest slot that is not the keeper's; the newest whole state stays where there are others."""
        free = [slot for slot in self.arena.slots if slot.state is not SlotState.CLAIMED]
        newest = self.arena.newest()
        others = [slot for slot in free if slot is not newest]
        return min(others or free, key=lambda slot: (slot.is_whole, slot.generation), default=None)

    def begin(self, copy: Copy, then: Callable[[Copy, Void | None], None]) -> None:
        """Copy the state as it is now. None may be under way.

        Returns when the copy is made, or at once where it goes on beside; then the next change of the state waits.

        Args:
            then: called in a second thread once it is sealed, or with why it is not.
        """
        if copy.is_claimed:
            self._link.tell("claim", slot=copy.slot.number, generation=copy.generation, step=copy.step)
        if self._neighbours is not None:
            self._neighbours.begin(copy.slot)
        self.copier.begin(copy.slot, copy.cost, partial(self._complete, copy, then))

    def take_over(self) -> None:
        """The other processes are gone; this one holds all of the state."""
        self._neighbours = None
        self.copier.take_over()

    # --- in the second thread -------------------------------------------------------------------------------

    def _complete(self, copy: Copy, then: Callable[[Copy, Void | None], None], made: Made) -> None:
        """Seal what was copied, or refuse it. Whatever goes wrong costs the copy, and is said."""
        began, void = time.thread_time(), None
        try:
            self._join(copy, made)
            void = _wrong(copy, made)
            if void is None:
                copy.slot.seal(copy.notes(self.copier.by_file(made.pieces)), copy.is_claimed)
                if copy.is_claimed:
                    self._link.tell("sealed", generation=copy.generation)
        except EverstepError as error:  # the others are gone
            void = Void(copy.generation, str(error))
        except Exception as error:
            self._report(traceback.format_exc())
            void = Void(copy.generation, f"it could not be sealed ({error!r})")
        finally:
            if void is not None:
                self._refuse(copy, void)
            copy.cost.beside_s += made.beside_s + time.thread_time() - began
            then(copy, void)

    def _join(self, copy: Copy, made: Made) -> None:
        """Wait for the others' shares, and look at what lies between them. Raises: whatever ends the others."""
        if self._neighbours is None:
            return
        for other in self._neighbours.made(copy.generation):
            made.pieces |= other.pieces
            made.failed, made.torn, made.sick = (
                made.failed or other.failed,
                made.torn or other.torn,
                made.sick or other.sick,
            )
        if made.failed is None:
            self.copier.look_at_the_rest(copy.slot, made)

    def _refuse(self, copy: Copy, void: Void) -> None:
        copy.slot.set_state(SlotState.FREE)
        if copy.is_claimed:
            self._link.tell("void", generation=copy.generation, why=void.why)
        elif void.fault is None:
            self._report(f"The snapshot of step {copy.step:,} was refused: {void.why}.")


def _wrong(copy: Copy, made: Made) -> Void | None:
    if made.failed is not None:
        return Void(copy.generation, f"it could not be sealed ({made.failed})")
    if made.torn is not None:
        return Void(copy.generation, f"the state is not whole: {made.torn}", is_torn=True)
    if made.sick is not None:
        name, path = made.sick
        fault = NotFinite(f"{name} in {path} is not finite after step {copy.step:,}.")
        return Void(copy.generation, str(fault), fault)
    return None
