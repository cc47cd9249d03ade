"""One process's part in the copies of a live state: into a slot, looked at, and given to whoever seals it.

Knows nothing of when copies are made, of keepers, or of what a slot's notes say.
"""

import threading
import time
import traceback
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field

import torch

from everstep.contracts import Report
from everstep.keeping.arena import Arena, Slot
from everstep.keeping.copying import Barrier, Copied, Pins, Sources, follow
from everstep.keeping.health import Health, Looking, Piece, pieces_of
from everstep.keeping.pace import Cost
from everstep.keeping.stateful import Layout, Share, Stateful


@dataclass(slots=True)
class Made:
    """What came of a copy, or of one process's part in it. pieces: digests, by number among the slot's pieces."""

    pieces: dict[int, str] = field(default_factory=dict)
    sick: tuple[str, str] | None = None  # the first tensor that is no numbers, and its file
    torn: str | None = None  # why it is not one state
    failed: str | None = None  # what it could not be made for
    beside_s: float = 0.0  # processor time of the second thread


@dataclass(slots=True)
class _Copy:
    """One on its way."""

    slot: Slot
    cost: Cost
    then: Callable[[Made], None]
    revision: int | None
    counters: list[int]
    torn: str | None = None


class Copier:
    """Copies one share of one state into one arena, as long as the state keeps its shape."""

    def __init__(self, arena: Arena, state: Stateful, layout: Layout, share: Share, report: Report) -> None:
        """
        Args:
            layout: the version's tensor files, as the arena's plan has them.
            share: what of them is copied by this process.
        """
        self._arena, self._state, self._layout, self._share, self._report = arena, state, layout, share, report
        self._tensors = state.tensors()
        self._sources = Sources(layout, layout.in_order(self._tensors), share)
        self._health = [Health(len(image.header), image.places, state.exempt) for image in layout.images]
        self._pieces = pieces_of([image.size_bytes for image in layout.images])
        self._worker = ThreadPoolExecutor(1, "everstep-snapshot")
        self._making: Future[None] | None = None
        self._barrier, self._copy = Barrier(), None  # type: tuple[Barrier, _Copy | None]
        self.is_cuda = self._sources.is_cuda
        self._stream = torch.cuda.Stream() if self.is_cuda else None  # type: ignore[no-untyped-call]
        self._pins = Pins(layout, arena.slots, report) if self.is_cuda else None
        state.revision.before_change = self._let_change
        threading.Thread(target=arena.prefault, name="everstep-prefault", daemon=True).start()

    def modes(self, asked: str) -> tuple[str, ...]:
        """The ways to copy that can be taken here."""
        why = None if self.is_cuda or self._sources.is_cpu else "tensors are on a device that copies only so"
        why = why or next((found for one in self._state.optimizers if (found := _why_not_beside(one))), None)
        if why is not None and asked == "background":
            self._report(f"Snapshots are copied while training waits: {why}.")
        if why is not None:
            return ("blocking",)
        if asked != "auto":
            return (asked,)
        return ("background",) if self.is_cuda else ("blocking", "background")

    @property
    def is_busy(self) -> bool:
        """Whether a copy is being made, or sealed."""
        return self._making is not None and not self._making.done()

    def wait(self) -> None:
        """Until the last one is sealed, or came to nothing."""
        if self._making is not None:
            self._making.result()

    def fits(self) -> bool:
        """Whether the state still has the shape that this memory is laid out for; asked before every copy.

        Tensors that were only made or bound anew elsewhere are taken from where they are now.
        """
        tensors = self._state.tensors()
        if tensors is self._tensors:
            return True
        if not self._layout.fits(tensors):
            return False
        self._tensors = tensors
        ordered = self._layout.in_order(tensors)
        if not self._sources.are_at(ordered):
            self.wait()
            self._sources.forget()
            self._sources = Sources(self._layout, ordered, self._share)
        return True

    def take_over(self) -> None:
        """All of the state is copied here from now on: the others that held it are gone."""
        self.wait()
        self._sources.forget()
        self._share = self._layout.share(0, 1)
        self._sources = Sources(self._layout, self._layout.in_order(self._tensors), self._share)

    def close(self) -> None:
        """Wait, and let the state go."""
        self._worker.shutdown()
        self._state.revision.before_change = None
        self._sources.forget()
        if self._pins is not None:
            self._pins.release()
        self._arena.close()

    # --- making one ----------------------------------------------------------------------------------------

    def begin(self, slot: Slot, cost: Cost, then: Callable[[Made], None]) -> None:
        """Copy the state as it is now, in the cost's mode. None may be under way.

        Returns when the copy is made, or at once where it goes on beside; then the next change of the state waits.

        Args:
            then: called in the second thread with what came of it.
        """
        revision, counters = self._state.revision.seen(), self._sources.counters()
        copy = _Copy(slot, cost, then, revision, counters)
        if self._stream is not None:
            marks = self._sources.copy_on_stream(slot, self._stream)
            self._copy = copy
            self._barrier.on(marks[-1][0] if marks else None)
            self._making = self._worker.submit(self._complete, copy, lambda look: follow(marks, look))
            if cost.mode == "blocking":
                self._let_change()
                torch.cuda.synchronize()
        elif cost.mode == "background":
            copied = threading.Event()
            self._copy = copy
            self._barrier.on(copied)
            self._making = self._worker.submit(self._copy_beside, copy, copied)
        else:
            self._sources.copy(slot, self._teller(slot))
            self._look_for_changes(copy)
            self._making = self._worker.submit(self._complete, copy, lambda look: None)

    def _teller(self, slot: Slot) -> Copied:
        """Lets the disk be written behind the copy: behind the first part of it alone, the others know not of it."""
        return slot.tell_copied if self._share.is_first else lambda copied_bytes: None

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

    def _look_for_changes(self, copy: _Copy) -> None:
        """When the copy has been made and nobody has been let on yet."""
        if copy.revision is None:
            copy.torn = "it was being changed when the copy began"
        elif self._state.revision.seen() != copy.revision or self._sources.counters() != copy.counters:
            copy.torn = "it was changed meanwhile"

    def _look_once_more(self, copy: _Copy) -> None:
        """On a GPU the host runs ahead, so only while nobody has been let on can anything be told from the counters."""
        if self._copy is copy and self.is_cuda and self._sources.counters() != copy.counters:
            copy.torn = "something changed it that did not say so"

    # --- in the second thread -------------------------------------------------------------------------------

    def _copy_beside(self, copy: _Copy, copied: threading.Event) -> None:
        def made(look: Copied) -> None:
            try:
                self._sources.copy_beside(copy.slot, look)
                self._look_for_changes(copy)
            finally:
                copied.set()

        self._complete(copy, made)

    def _complete(self, copy: _Copy, make: Callable[[Copied], None]) -> None:
        """Digest, and look for what is no number. Whatever goes wrong costs the copy, and is said."""
        began, made = time.thread_time(), Made()
        try:
            looking = self._looking(copy.slot, self._share.pieces(self._pieces))
            tell = self._teller(copy.slot)

            def look(copied_bytes: int) -> None:
                tell(copied_bytes)
                looking.upto(copied_bytes)

            make(look)
            looking.upto(self._layout.size_bytes)
            self._look_once_more(copy)
            made = Made(looking.digests, self._named(looking), copy.torn)
        except Exception as error:
            self._report(traceback.format_exc())
            made.failed = repr(error)
        made.beside_s = time.thread_time() - began
        copy.then(made)

    def look_at_the_rest(self, slot: Slot, made: Made) -> None:
        """Digest the pieces that nobody could alone, in which the parts of several meet."""
        rest = self._looking(slot, [piece for piece in self._pieces if piece.number not in made.pieces])
        rest.upto(self._layout.size_bytes)
        made.pieces |= rest.digests
        made.sick = made.sick or self._named(rest)

    def by_file(self, digests: dict[int, str]) -> dict[str, list[str]]:
        """As a slot's notes have them."""
        found: dict[str, list[str]] = {image.path: [] for image in self._layout.images}
        for piece in self._pieces:
            found[self._layout.images[piece.file].path].append(digests[piece.number])
        return found

    def _looking(self, slot: Slot, pieces: Sequence[Piece]) -> Looking:
        return Looking([slot.image(image.path) for image in self._layout.images], self._health, pieces)

    def _named(self, looking: Looking) -> tuple[str, str] | None:
        return None if looking.sick is None else (looking.sick[0], self._layout.images[looking.sick[1]].path)


def _why_not_beside(optimizer: torch.optim.Optimizer) -> str | None:
    """Why a copy must not go on during the next forward and backward, or None where it may."""
    if any(group.get("capturable") for group in optimizer.param_groups):
        return "steps may be captured as graphs, in which nothing can wait"
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    if any(getattr(parameter, "_post_accumulate_grad_hooks", None) for parameter in parameters):
        return "the optimizer steps within the backward pass"
    return None
