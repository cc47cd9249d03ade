"""The trainer's side of an arena: copies of the live state, sealed when they are whole and healthy.

A copy that shall become a version is claimed before it is made, so that the keeper writes it behind the copy. Knows
nothing of versions on disk.
"""

import time
from collections import deque
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from everstep.contracts import Draft, Report
from everstep.keeping.arena import Arena, ArenaPlan, Slot, SlotState
from everstep.keeping.link import Link
from everstep.keeping.pace import Pace
from everstep.keeping.sealed import PIECE_BYTES, SNAPSHOT, slot_notes
from everstep.keeping.sealing import Copy, Neighbours, Sealing, Void
from everstep.keeping.settings import Settings
from everstep.keeping.stateful import Layout, Stateful, coming_bytes
from everstep.versions import Version

PIECE_NOTE_BYTES, SPARE_BYTES = 24, 64 << 10  # of one piece's digest in JSON; of notes, for what nobody counts
NAME_NOTE_BYTES = 64  # of one tensor's digest in digests.json, with its name's quotes: what the disk must have room for


class Together(Protocol):
    """The other processes that hold the state, or parts of it."""

    @property
    def neighbours(self) -> Neighbours:
        """Those of this machine."""
        ...

    def attach(self, plan: ArenaPlan | None) -> None:
        """They copy into memory that is laid out so from now on; None where there is none."""
        ...

    def attached(self) -> list[int]:
        """Which other machines hold the same memory, once they have it."""
        ...

    def copy(self, generation: int, mode: str, is_claimed: bool, notes: Mapping[str, Any]) -> None:
        """They copy now; other machines note the same of it."""
        ...


def notes_bytes(layout: Layout, small_bytes: int) -> int:
    """Room for a slot's notes, and for all small files of the version that comes of it."""
    pieces = sum(-(-image.size_bytes // PIECE_BYTES) + 1 for image in layout.images)
    names = sum(len(name) + NAME_NOTE_BYTES for image in layout.images for name in image.places)
    return 2 * small_bytes + pieces * PIECE_NOTE_BYTES + names + SPARE_BYTES


class Snapshots:
    """Copies of one state into one arena. When the state takes another shape, another is opened in its place."""

    def __init__(
        self,
        arena: Arena,
        state: Stateful,
        layout: Layout,
        link: Link,
        settings: Settings,
        report: Report,
        others: Together | None = None,
    ) -> None:
        """
        Args:
            layout: the version's tensor files, as the arena's plan has them.
            settings: how often, and in which way.
            others: that hold the same state, and copy their shares of it.
        """
        self._arena, self.layout, self._others = arena, layout, others
        if others is not None:
            others.attach(arena.plan)
        self._sealing = Sealing(arena, state, layout, link, report, None if others is None else others.neighbours)
        self._copier = self._sealing.copier
        if others is not None and (holders := others.attached()):
            link.tell("holders", nodes=holders)
        self._generation = max(slot.generation for slot in arena.slots)
        self._pace = Pace(settings, self._copier.modes(settings.copying))
        self.voided = deque[Void]()  # claims of which nothing came, for whoever made them
        self.last_step = -1  # of the newest copy
        self.sealed_step: int | None = None  # of the newest whole state in memory

    # --- when ----------------------------------------------------------------------------------------------

    def is_due(self, step: int) -> bool:
        """Whether to take one after this step; asked once after every step."""
        return self._pace.is_due(step - self.last_step) and not self.is_busy

    @property
    def generation(self) -> int:
        """How many copies were begun in this memory."""
        return self._generation

    @property
    def mode(self) -> str:
        """The way in which the next copy is made."""
        return self._pace.mode

    @property
    def is_busy(self) -> bool:
        """Whether one is being taken now."""
        return self._copier.is_busy

    @property
    def is_full(self) -> bool:
        """Whether another version in the making would leave no slot for what comes after it."""
        claimed = sum(slot.state is SlotState.CLAIMED for slot in self._arena.slots)
        return claimed >= len(self._arena.slots) - 1

    def fits(self) -> bool:
        """Whether the state still has the shape that this memory is laid out for; asked before every copy."""
        return self._copier.fits()

    # --- taking one ----------------------------------------------------------------------------------------

    def take(self, draft: Draft, claimed: bool, label: str | None = None, began: float | None = None) -> int:
        """Begin to copy the state as it is now. Returns the generation, by which keeper and trainer know it.

        Returns when the copy is made, or at once where it goes on beside; then the next change of the state waits.

        Args:
            claimed: the keeper is to make a version of it.
            began: when the training began to wait for it, by time.perf_counter.
        """
        began = time.perf_counter() if began is None else began
        self.wait()
        slot = self._free_slot()
        self._generation += 1
        slot.begin(self._generation)
        cost = self._pace.begin()

        def notes(pieces: Mapping[str, Sequence[str]]) -> Mapping[str, Any]:
            return slot_notes(draft, pieces, label)

        if self._others is not None:
            self._others.copy(self._generation, cost.mode, claimed, slot_notes(draft, {}, label))
        self._sealing.begin(Copy(slot, self._generation, draft.step, notes, claimed, cost), self._ended)
        self.last_step = draft.step
        cost.stall_s += time.perf_counter() - began
        return self._generation

    def take_over(self) -> None:
        """The others that held the state are gone; this process holds all of it."""
        self._others = None
        self._sealing.take_over()

    def beat(self, step: int) -> None:
        """Let the keeper know that the trainer is alive."""
        self._arena.beat(step)

    def wait(self) -> None:
        """Until the last one is sealed, or came to nothing."""
        self._copier.wait()

    @property
    def arena(self) -> Arena:
        return self._arena

    @property
    def facts(self) -> dict[str, Any]:
        """For a version that was saved past the arena: all that lies there is older."""
        return {SNAPSHOT: {"arena": self._arena.plan.nonce, "generation": self._generation}}

    def close(self) -> None:
        """Wait, and let the state go."""
        self._copier.close()

    def _free_slot(self) -> Slot:
        while (slot := self._sealing.free_slot()) is None:
            time.sleep(0.001)
        return slot

    def _ended(self, copy: Copy, void: Void | None) -> None:
        """In a second thread: it is sealed, or came to nothing."""
        if void is None:
            self.sealed_step = copy.step
        else:
            if void.is_torn:
                self._pace.only("blocking")
            if copy.is_claimed or void.fault is not None:
                self.voided.append(void)
        self._pace.ended()


def image_in(arena: Arena, version: Version) -> Slot | None:
    """The slot of an arena that this very version was taken from, if it still lies there."""
    taken = version.manifest.get(SNAPSHOT)
    if not isinstance(taken, dict) or taken.get("arena") != arena.plan.nonce:
        return None
    whole = (slot for slot in arena.slots if slot.is_whole and slot.generation == taken.get("generation"))
    return next(whole, None)


def open_snapshots(
    state: Stateful,
    small_bytes: int,
    link: Link,
    settings: Settings,
    report: Report,
    others: Together | None = None,
) -> Snapshots | None:
    """Ask the keeper for an arena that fits this state. None where no memory can be had. Raises: KeeperGone."""
    layout = Layout(state)
    files = [[image.path, image.size_bytes] for image in layout.images]
    facts = {"notes_bytes": notes_bytes(layout, small_bytes), "coming_bytes": coming_bytes(state)}
    answer = link.ask("plan", "arena", files=files, **facts)
    report(f"Snapshots: {answer['where']}.")
    if "descriptor" not in answer:
        if others is not None:
            others.attach(None)
            others.neighbours.attach(None)
            others.attached()
        return None
    arena = Arena.attach(answer["descriptor"], Path(answer["path"]) if answer["path"] else None)
    return Snapshots(arena, state, layout, link, settings, report, others)
