"""The trainer's side of an arena: copies of the live state, sealed when they are whole and healthy.

A copy that shall become a version is claimed before it is made, so that the keeper writes it behind the copy. Knows
nothing of versions on disk.
"""

import threading
import time
import traceback
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from everstep.contracts import Draft, Report
from everstep.errors import NotFinite
from everstep.keeping.arena import Arena, Slot, SlotState
from everstep.keeping.copying import Barrier, Copied, Pins, Sources, follow, write_headers
from everstep.keeping.health import Health, Looking
from everstep.keeping.link import Link
from everstep.keeping.pace import Cost, Pace
from everstep.keeping.sealed import PIECE_BYTES, SNAPSHOT, slot_notes
from everstep.keeping.settings import Settings
from everstep.keeping.stateful import Layout, Stateful, coming_bytes
from everstep.versions import Version

PIECE_NOTE_BYTES, SPARE_BYTES = 24, 64 << 10  # of one piece's digest in JSON; of notes, for what nobody counts
NAME_NOTE_BYTES = 64  # of one tensor's digest in digests.json, with its name's quotes: what the disk must have room for


@dataclass(slots=True)
class Copy:
    """One copy on its way."""

    slot: Slot
    generation: int
    draft: Draft
    label: str | None
    is_claimed: bool
    cost: Cost
    revision: int | None
    counters: list[int]
    torn: str | None = None


@dataclass(frozen=True, slots=True)
class Void:
    """A claim of which nothing came."""

    generation: int
    why: str
    fault: NotFinite | None = None  # the state itself is sick


def notes_bytes(layout: Layout, small_bytes: int) -> int:
    """Room for a slot's notes, and for all small files of the version that comes of it."""
    pieces = sum(-(-image.size_bytes // PIECE_BYTES) + 1 for image in layout.images)
    names = sum(len(name) + NAME_NOTE_BYTES for image in layout.images for name in image.places)
    return 2 * small_bytes + pieces * PIECE_NOTE_BYTES + names + SPARE_BYTES


class Snapshots:
    """Copies of one state into one arena. When the state takes another shape, another is opened in its place."""

    def __init__(
        self, arena: Arena, state: Stateful, layout: Layout, link: Link, settings: Settings, report: Report
    ) -> None:
        """
        Args:
            layout: the version's tensor files, as the arena's plan has them.
            settings: how often, and in which way.
        """
        self._arena, self._state, self.layout, self._link, self._report = arena, state, layout, link, report
        self._tensors = state.tensors()
        self._sources = Sources(layout, layout.in_order(self._tensors))
        for slot in arena.slots:
            write_headers(layout, slot)
        self._health = [Health(len(image.header), image.places, state.exempt) for image in layout.images]
        self._generation = max(slot.generation for slot in arena.slots)
        self._worker = ThreadPoolExecutor(1, "everstep-snapshot")
        self._sealing: Future[None] | None = None
        self._barrier, self._copy = Barrier(), None  # type: tuple[Barrier, Copy | None]
        self._is_cuda = self._sources.is_cuda
        self._stream = torch.cuda.Stream() if self._is_cuda else None  # type: ignore[no-untyped-call]
        self._pins = Pins(layout, arena.slots, report) if self._is_cuda else None
        self._pace = Pace(settings, self._modes(settings.copying))
        self.voided = deque[Void]()  # claims of which nothing came, for whoever made them
        self.last_step = -1  # of the newest copy
        self.sealed_step: int | None = None  # of the newest whole state in memory
        state.revision.before_change = self._let_change
        threading.Thread(target=arena.prefault, name="everstep-prefault", daemon=True).start()

    def _modes(self, asked: str) -> tuple[str, ...]:
        """The ways to copy that can be taken here."""
        why = None if self._is_cuda or self._sources.is_cpu else "tensors are on a device that copies only so"
        why = why or next((found for one in self._state.optimizers if (found := _why_not_beside(one))), None)
        if why is not None and asked == "background":
            self._report(f"Snapshots are copied while training waits: {why}.")
        if why is not None:
            return ("blocking",)
        if asked != "auto":
            return (asked,)
        return ("background",) if self._is_cuda else ("blocking", "background")

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
        return self._sealing is not None and not self._sealing.done()

    @property
    def is_full(self) -> bool:
        """Whether another version in the making would leave no slot for what comes after it."""
        claimed = sum(slot.state is SlotState.CLAIMED for slot in self._arena.slots)
        return claimed >= len(self._arena.slots) - 1

    def fits(self) -> bool:
        """Whether the state still has the shape that this memory is laid out for; asked before every copy.

        Tensors that were only made or bound anew elsewhere are taken from where they are now.
        """
        tensors = self._state.tensors()
        if tensors is self._tensors:
            return True
        if not self.layout.fits(tensors):
            return False
        self._tensors = tensors
        ordered = self.layout.in_order(tensors)
        if not self._sources.are_at(ordered):
            self.wait()
            self._sources.forget()
            self._sources = Sources(self.layout, ordered)
        return True

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
        revision, counters = self._state.revision.seen(), self._sources.counters()
        cost = self._pace.begin()
        copy = Copy(slot, self._generation, draft, label, claimed, cost, revision, counters)
        if claimed:
            self._link.tell("claim", slot=slot.number, generation=copy.generation, step=draft.step)
        self._begin(copy)
        self.last_step = draft.step
        cost.stall_s += time.perf_counter() - began
        return copy.generation

    def _begin(self, copy: Copy) -> None:
        slot = copy.slot
        if self._stream is not None:
            marks = self._sources.copy_on_stream(slot, self._stream)
            self._copy = copy
            self._barrier.on(marks[-1][0] if marks else None)
            self._sealing = self._worker.submit(self._complete, copy, lambda look: follow(marks, slot, look))
            if copy.cost.mode == "blocking":
                self._let_change()
                torch.cuda.synchronize()
        elif copy.cost.mode == "background":
            copied = threading.Event()
            self._copy = copy
            self._barrier.on(copied)
            self._sealing = self._worker.submit(self._copy_beside, copy, copied)
        else:
            self._sources.copy(slot, slot.tell_copied)
            self._look_for_changes(copy)
            self._sealing = self._worker.submit(self._complete, copy, lambda look: look(self.layout.size_bytes))

    def beat(self, step: int) -> None:
        """Let the keeper know that the trainer is alive."""
        self._arena.beat(step)

    def wait(self) -> None:
        """Until the last one is sealed, or came to nothing."""
        if self._sealing is not None:
            self._sealing.result()

    def image_of(self, version: Version) -> Slot | None:
        """The slot that this very version was taken from, if it still lies in this memory."""
        taken = version.manifest.get(SNAPSHOT)
        if not isinstance(taken, dict) or taken.get("arena") != self._arena.plan.nonce:
            return None
        for slot in self._arena.slots:
            if slot.is_whole and slot.generation == taken.get("generation"):
                return slot
        return None

    @property
    def arena(self) -> Arena:
        return self._arena

    @property
    def facts(self) -> dict[str, Any]:
        """For a version that was saved past the arena: all that lies there is older."""
        return {SNAPSHOT: {"arena": self._arena.plan.nonce, "generation": self._generation}}

    def close(self) -> None:
        """Wait, and let the state go."""
        self._worker.shutdown()
        self._state.revision.before_change = None
        self._sources.forget()
        if self._pins is not None:
            self._pins.release()
        self._arena.close()

    def _free_slot(self) -> Slot:
        """The oldest slot that is not the keeper's; the newest whole state stays where there are others."""
        while True:
            free = [slot for slot in self._arena.slots if slot.state is not SlotState.CLAIMED]
            newest = self._arena.newest()
            others = [slot for slot in free if slot is not newest]
            if free:
                return min(others or free, key=lambda slot: (slot.is_whole, slot.generation))
            time.sleep(0.001)

    # --- whether it is one state ----------------------------------------------------------------------------

    def _let_change(self) -> None:
        """Before anything changes the state, in the thread that will."""
        copy, self._copy = self._copy, None
        if copy is None:
            return
        if self._sources.counters() != copy.counters:
            # Whoever changed it did not say so; on a GPU, this is where the change would be in the copy's way.
            copy.torn = "something changed it that did not say so"
        self._barrier()
        copy.cost.stall_s += self._barrier.stall_s

    def _look_for_changes(self, copy: Copy) -> None:
        """When the copy has been made and nobody has been let on yet."""
        if copy.revision is None:
            copy.torn = "it was being changed when the copy began"
        elif self._state.revision.seen() != copy.revision or self._sources.counters() != copy.counters:
            copy.torn = "it was changed meanwhile"

    def _look_once_more(self, copy: Copy) -> None:
        """On a GPU the host runs ahead, so only while nobody has been let on can anything be told from the counters."""
        if self._copy is copy and self._is_cuda and self._sources.counters() != copy.counters:
            copy.torn = "something changed it that did not say so"

    # --- in the second thread -------------------------------------------------------------------------------

    def _copy_beside(self, copy: Copy, copied: threading.Event) -> None:
        def made(look: Copied) -> None:
            try:
                self._sources.copy_beside(copy.slot, copy.slot.tell_copied, look)
                self._look_for_changes(copy)
            finally:
                copied.set()

        self._complete(copy, made)

    def _complete(self, copy: Copy, make: Callable[[Copied], None]) -> None:
        """Digest, look for what is no number, and seal. Whatever goes wrong costs the copy, and is said."""
        began = time.thread_time()
        try:
            looking = Looking([copy.slot.image(image.path) for image in self.layout.images], self._health)
            make(looking.upto)
            looking.upto(self.layout.size_bytes)
            self._look_once_more(copy)
            if copy.torn is not None:
                self._refuse(copy, f"the state is not whole: {copy.torn}")
                self._pace.only("blocking")
            elif looking.sick is not None:
                name, path = looking.sick[0], self.layout.images[looking.sick[1]].path
                fault = NotFinite(f"{name} in {path} is not finite after step {copy.draft.step:,}.")
                self._refuse(copy, str(fault), fault)
            else:
                self._seal(copy, looking)
        except Exception as error:
            self._report(traceback.format_exc())
            self._refuse(copy, f"it could not be sealed ({error!r})")
        finally:
            copy.cost.beside_s += time.thread_time() - began
            self._pace.ended()

    def _seal(self, copy: Copy, looking: Looking) -> None:
        pieces = {image.path: found for image, found in zip(self.layout.images, looking.pieces, strict=True)}
        copy.slot.seal(slot_notes(copy.draft, pieces, copy.label), copy.is_claimed)
        self.sealed_step = copy.draft.step
        if copy.is_claimed:
            self._link.tell("sealed", generation=copy.generation)

    def _refuse(self, copy: Copy, why: str, fault: NotFinite | None = None) -> None:
        copy.slot.set_state(SlotState.FREE)
        if copy.is_claimed:
            self._link.tell("void", generation=copy.generation, why=why)
        elif fault is None:
            self._report(f"The snapshot of step {copy.draft.step:,} was refused: {why}.")
        if copy.is_claimed or fault is not None:
            self.voided.append(Void(copy.generation, why, fault))


def _why_not_beside(optimizer: torch.optim.Optimizer) -> str | None:
    """Why a copy must not go on during the next forward and backward, or None where it may."""
    if any(group.get("capturable") for group in optimizer.param_groups):
        return "steps may be captured as graphs, in which nothing can wait"
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    if any(getattr(parameter, "_post_accumulate_grad_hooks", None) for parameter in parameters):
        return "the optimizer steps within the backward pass"
    return None


def open_snapshots(
    state: Stateful, small_bytes: int, link: Link, settings: Settings, report: Report
) -> Snapshots | None:
    """Ask the keeper for an arena that fits this state. None where no memory can be had. Raises: KeeperGone."""
    layout = Layout(state)
    files = [[image.path, image.size_bytes] for image in layout.images]
    facts = {"notes_bytes": notes_bytes(layout, small_bytes), "coming_bytes": coming_bytes(state)}
    answer = link.ask("plan", "arena", files=files, **facts)
    report(f"Snapshots: {answer['where']}.")
    if "descriptor" not in answer:
        return None
    arena = Arena.attach(answer["descriptor"], Path(answer["path"]) if answer["path"] else None)
    return Snapshots(arena, state, layout, link, settings, report)
