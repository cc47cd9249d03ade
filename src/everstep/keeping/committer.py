"""Claimed slots on their way to the disk: one after the other, in a thread of low priority, again where it failed.

A claim is known by its generation from its beginning to its version; the writing begins while the copy is being made.
"""

import time
import traceback
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field

from everstep.contracts import ParentRef, Reason, Report
from everstep.errors import DamageFound, EverstepError, NotCommitted
from everstep.keeping.arena import Arena, Slot, SlotState
from everstep.keeping.ending import name_version
from everstep.keeping.extents import Asking, NotWritten
from everstep.keeping.sealed import Filling, commit_slot
from everstep.priority import lower_thread
from everstep.versions import Run, Version

RETRY_S = 15.0
Retire = Callable[[Run], str]


@dataclass(slots=True)
class Job:
    """One claim."""

    filling: Filling
    began: float
    reason: Reason | None = None  # instead of the one that was noted
    future: Future[Version] | None = None
    next_try: float = 0.0


@dataclass(frozen=True, slots=True)
class Outcome:
    """How one try of a claim ended: a version, or what refused it."""

    generation: int
    seconds: float  # since it was claimed
    version: Version | None = None
    error: EverstepError | None = None

    @property
    def is_tried_again(self) -> bool:
        return self.error is not None and not isinstance(self.error, DamageFound)


@dataclass(slots=True)
class Committer:
    """Commits the claimed slots of one arena in the order in which they were claimed."""

    run: Run
    arena: Arena
    wake: Callable[[], None]  # called from other threads when there is news
    retire: Retire  # lets older versions go, and says which
    report: Report
    parent: ParentRef | None = None  # the last version made here; before it, the one that was noted
    refused_since: float | None = None  # when the disk began to refuse every version
    asking: Asking = field(init=False)  # other machines, for their extents
    _jobs: list[Job] = field(default_factory=list)
    _retiring: list[Future[str]] = field(default_factory=list)
    _worker: ThreadPoolExecutor = field(init=False)
    _cleaner: ThreadPoolExecutor = field(init=False)

    def __post_init__(self) -> None:
        self.asking = Asking(self.run.layout, self.report)
        self._worker = ThreadPoolExecutor(1, "everstep-commit", initializer=lower_thread)
        # Letting older versions go reads the new one whole: beside, so that the next claim need not wait for it.
        self._cleaner = ThreadPoolExecutor(1, "everstep-retire", initializer=lower_thread)

    @property
    def is_idle(self) -> bool:
        return not self._jobs

    # --- what the trainer says ------------------------------------------------------------------------------

    def claim(self, slot: int, generation: int, step: int) -> None:
        """The trainer begins to copy a state that shall become a version."""
        self._jobs.append(Job(Filling(self.arena.slots[slot], generation, step), time.monotonic()))
        self._start()

    def rescue(self, slot: Slot) -> None:
        """Nobody claimed it, and nobody else will: its trainer hangs, and may use the slot anew at any moment."""
        try:
            self._jobs.append(Job(Filling.of_sealed(slot), time.monotonic(), Reason.RESCUE))
        except DamageFound as damage:
            self.report(f"A state in memory was refused: it {damage}.")
        self._start()

    def sealed(self, generation: int) -> None:
        for job in self._of(generation):
            job.filling.sealed()

    def void(self, generation: int, why: str) -> None:
        """The copy came to nothing."""
        for job in self._of(generation):
            job.filling.void(why)

    def abandon(self) -> None:
        """The trainer is gone: what it has not sealed, it never will."""
        for job in self._jobs:
            if job.filling.slot.is_whole and job.filling.slot.generation == job.filling.generation:
                job.filling.sealed()
            else:
                job.filling.void("was not whole when the trainer ended")

    def _of(self, generation: int) -> list[Job]:
        return [job for job in self._jobs if job.filling.generation == generation]

    # --- how it went ----------------------------------------------------------------------------------------

    def outcomes(self) -> Iterator[Outcome]:
        """What has ended since the last call; starts what is next. A slot is given back once it is a version."""
        while self._jobs and self._jobs[0].future is not None and self._jobs[0].future.done():
            yield self._ended(self._jobs[0])
        self._start()

    def retired(self) -> Iterator[str]:
        """Which older versions went since the last call, in words."""
        while self._retiring and self._retiring[0].done():
            words = self._retiring.pop(0).result()
            if words:
                yield words

    def finish(self) -> Iterator[Outcome]:
        """Wait for the try that is going on, and leave the rest."""
        self.abandon()
        if self._jobs and self._jobs[0].future is not None:
            self._jobs[0].future.exception()
            yield self._ended(self._jobs[0])
        self._jobs.clear()
        self._worker.shutdown()
        self._cleaner.shutdown()

    def _ended(self, job: Job) -> Outcome:
        future, job.future = job.future, None
        assert future is not None
        generation, seconds, error = job.filling.generation, time.monotonic() - job.began, future.exception()
        if error is None:
            version = future.result()
            self.parent = self.run.ref(version)
            self.refused_since = None
            self._give_back(job)
            self._retiring.append(self._cleaner.submit(self._retire))
            return Outcome(generation, seconds, version)
        if isinstance(error, DamageFound):
            self._give_back(job, SlotState.FREE)
            return Outcome(generation, seconds, error=error)
        if not isinstance(error, EverstepError):
            # Whatever it was, the state is still in memory: it is tried again, like anything that a disk refuses.
            self.report("".join(traceback.format_exception(error)))
            error = NotCommitted(f"Step {job.filling.step:,} could not be committed ({error!r}); this is a bug.")
        self.refused_since = self.refused_since or time.monotonic()
        job.next_try = time.monotonic() + RETRY_S
        return Outcome(generation, seconds, error=error)

    def _make(self, filling: Filling, reason: Reason | None) -> Version:
        """In the thread."""
        version = self._commit(filling, reason)
        label = filling.slot.notes().get("label")
        if label is not None:
            name_version(self.run, version, label, self.report)
        return version

    def _commit(self, filling: Filling, reason: Reason | None) -> Version:
        """With the other machines that hold the same memory, where there are any; alone where that fails."""
        shared = self.asking.ask(self.arena.plan.files, filling.generation)
        if shared is not None:
            try:
                return commit_slot(self.run, self.arena, filling, self.parent, reason, shared)
            except NotWritten as failed:
                self.asking.alone(failed)
        return commit_slot(self.run, self.arena, filling, self.parent, reason)

    def _retire(self) -> str:
        """In the other thread. What fails in it costs no training."""
        try:
            return self.retire(self.run)
        except Exception as error:
            return f"Older versions stay: {error}"
        finally:
            self.wake()

    def _give_back(self, job: Job, state: SlotState = SlotState.SEALED) -> None:
        slot: Slot = job.filling.slot
        if slot.state is SlotState.CLAIMED and slot.generation == job.filling.generation:
            slot.set_state(state)
        self._jobs.remove(job)

    def _start(self) -> None:
        if self._jobs and self._jobs[0].future is None and time.monotonic() >= self._jobs[0].next_try:
            job = self._jobs[0]
            job.future = self._worker.submit(self._make, job.filling, job.reason)
            job.future.add_done_callback(lambda _: self.wake())
