"""Claimed slots on their way to the disk: one after the other, in a thread of low priority, again where it failed."""

import os
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

from everstep.contracts import ParentRef
from everstep.errors import DamageFound, EverstepError
from everstep.keeping.arena import Arena, Slot, SlotState
from everstep.keeping.sealed import commit_slot
from everstep.versions import Run, Version

RETRY_S = 15.0
NICENESS = 10
Retire = Callable[[Run], str]


@dataclass(frozen=True, slots=True)
class Made:
    """A version, and which older ones went for it."""

    version: Version
    retired: str


@dataclass(slots=True)
class Job:
    """One claimed slot."""

    slot: int
    future: Future[Made] | None = None
    began: float = 0.0
    next_try: float = 0.0


@dataclass(frozen=True, slots=True)
class Outcome:
    """How one try ended: a version, or what refused it."""

    slot: int
    seconds: float
    version: Version | None = None
    retired: str = ""  # which older versions went for it, in words
    error: EverstepError | None = None


class Committer:
    """Commits the slots of one arena in the order in which they were claimed."""

    def __init__(self, run: Run, arena: Arena, wake: Callable[[], None], retire: Retire) -> None:
        self._run, self._arena, self._wake, self._retire = run, arena, wake, retire
        self._parent: ParentRef | None = None  # the last version made here; before it, the one that was noted
        self._worker = ThreadPoolExecutor(1, "everstep-commit", initializer=_lower_priority)
        self._jobs: list[Job] = []
        self.refused_since: float | None = None  # when the disk began to refuse every version

    @property
    def is_idle(self) -> bool:
        return not self._jobs

    def add(self, slot: int) -> None:
        self._jobs.append(Job(slot))
        self._start()

    def outcomes(self) -> Iterator[Outcome]:
        """What has ended since the last call; starts what is next. A slot is given back once it is a version."""
        while self._jobs and self._jobs[0].future is not None and self._jobs[0].future.done():
            yield self._ended(self._jobs[0])
        self._start()

    def finish(self) -> Iterator[Outcome]:
        """Wait for the try that is going on, and leave the rest."""
        if self._jobs and self._jobs[0].future is not None:
            self._jobs[0].future.exception()
            yield self._ended(self._jobs[0])
        self._jobs.clear()
        self._worker.shutdown()

    def _ended(self, job: Job) -> Outcome:
        future, job.future = job.future, None
        assert future is not None
        seconds = time.monotonic() - job.began
        error = future.exception()
        if error is None:
            version = future.result().version
            self._parent = ParentRef(self._run.name, version.number, version.manifest_digest)
            self.refused_since = None
            self._give_back(job)
            return Outcome(job.slot, seconds, version, future.result().retired)
        if not isinstance(error, EverstepError):
            raise error
        if isinstance(error, DamageFound):
            self._give_back(job)
        else:
            self.refused_since = self.refused_since or job.began
            job.next_try = time.monotonic() + RETRY_S
        return Outcome(job.slot, seconds, error=error)

    def _make(self, slot: Slot) -> Made:
        """In the thread: commit, and only then let older versions go."""
        version = commit_slot(self._run, self._arena, slot, self._parent)
        return Made(version, self._retire(self._run))

    def _give_back(self, job: Job) -> None:
        self._arena.slots[job.slot].set_state(SlotState.SEALED)
        self._jobs.remove(job)

    def _start(self) -> None:
        if self._jobs and self._jobs[0].future is None and time.monotonic() >= self._jobs[0].next_try:
            job = self._jobs[0]
            job.began = time.monotonic()
            job.future = self._worker.submit(self._make, self._arena.slots[job.slot])
            job.future.add_done_callback(lambda _: self._wake())


def _lower_priority() -> None:
    """The processor first serves whoever trains; the kernel derives the priority of writes from it."""
    os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), NICENESS)
