"""From the live state to versions: when they are due, what goes into them, and snapshots between.

With a keeper, versions are copies in memory that it writes while training goes on; without one, or where there is no
memory, they are written here while training waits. Each claim has one identity, its generation, through all that is
said of it.
"""

import contextlib
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

from everstep.contracts import Draft, ParentRef, Reason
from everstep.errors import NotCommitted
from everstep.keeping.channel import Message
from everstep.keeping.claims import Claim, Making, Observer, in_words, told
from everstep.keeping.clock import Clock
from everstep.keeping.due import Due
from everstep.keeping.ending import let_go, name_version, settle
from everstep.keeping.link import Link
from everstep.keeping.snapshots import SPARE_BYTES, Snapshots, Together, notes_bytes, open_snapshots
from everstep.keeping.stateful import Stateful, check_finite, is_shared_out, tensor_files
from everstep.units import duration
from everstep.versions import Version, fsops

UNWAITED = (Reason.INTERVAL,)  # the reasons for which training does not wait until the version is on the disk


@dataclass(slots=True)
class Saver:
    """Makes the versions of one training."""

    making: Making
    state: Stateful
    last: Version | None  # that the training went on from; then the newest that is known to be committed
    parent: ParentRef | None
    link: Link | None = None
    snapshots: Snapshots | None = None
    observers: Sequence[Observer] = ()
    others: Together | None = None  # that hold the state too, and copy their shares of it
    committed_at: float = field(default_factory=time.monotonic)  # when the last one was known to be committed
    clock: Clock = field(init=False)
    due: Due = field(init=False)
    _pending: dict[int, Claim] = field(default_factory=dict)
    _unheard: list[Message] = field(default_factory=list)
    _refusal: str | None = None  # what the disk said, until it takes a version again
    _is_waiting: bool = False

    def __post_init__(self) -> None:
        self.due = Due(None if self.last is None else self.last.step)
        self.clock = Clock.of(self.making, self.last)

    # --- when ----------------------------------------------------------------------------------------------

    def is_due(self, step: int) -> bool:
        """Whether a version is to be made after this step; a disk that is far behind puts it off. Asked once a step."""
        self.clock.stepped(bool(self._pending))
        is_behind = self.snapshots is not None and self.snapshots.is_full
        return not is_behind and self.due.is_due(step, self.making, self.clock.every_s)

    # --- making versions -----------------------------------------------------------------------------------

    def save(self, reason: Reason, label: str | None = None, may_wait: bool | None = None) -> None:
        """Make the state the next version. Returns when it is committed, or, for one that is made at an interval under
        a keeper, when its copy is.

        Args:
            may_wait: for a disk that refuses it; left out, whether anybody is there to make room.

        Raises: NotCommitted if the disk refuses it, which is tried again under a keeper; NotFinite if the state is no
        numbers; KeeperGone. Older versions are whole.
        """
        with self.clock.waiting(reason in UNWAITED, is_cost=reason in UNWAITED):
            self._save(reason, label, may_wait)

    def _save(self, reason: Reason, label: str | None, may_wait: bool | None) -> None:
        began = time.perf_counter()
        self.making.check()
        claim = Claim(self.state.step, self._reason(reason), label)
        draft = self._draft(claim.reason)
        if not self._has_memory(draft):
            self._commit_here(claim)
            self._copied(claim)
            self._tell_observers(claim)
            return
        assert self.snapshots is not None
        may_wait = self.making.may_wait if may_wait is None else may_wait
        if reason is Reason.ASKED and not may_wait:
            self._refuse_if_behind()
        claim.generation = self.snapshots.take(draft, claimed=True, label=label, began=began)
        self._pending[claim.generation] = claim
        self.due.made(claim.step)
        if claim.reason in UNWAITED:
            self._copied(claim)
            return
        self._await(claim, may_wait)
        if claim.generation < 0:
            self._commit_here(claim)  # nothing came of the copy, so the state itself is written
        self._copied(claim)
        self._tell_observers(claim)

    def snapshot(self) -> None:
        """Copy the state into memory that outlives this process, where that is due. Raises: NotFinite, KeeperGone."""
        if self.snapshots is None or not self.snapshots.is_due(self.state.step):
            return
        began = time.perf_counter()
        self.making.check()
        draft = self._draft(self._reason(Reason.RESCUE))
        if self._has_memory(draft):
            assert self.snapshots is not None
            self.snapshots.take(draft, claimed=False, began=began)

    def finish(self) -> None:
        """Everything that is on its way is committed. Raises: NotCommitted, NotFinite, KeeperGone."""
        for claim in list(self._pending.values()):
            self._await(claim, self.making.may_wait)
            if claim.generation < 0 and claim.step == self.state.step:
                self._commit_here(claim)
            if claim.generation > 0 or claim.step == self.state.step:
                self._tell_observers(claim)

    def go_alone(self) -> None:
        """The keeper is gone: what it held, and the state as it is now, is settled here.

        Raises: NotCommitted if the disk refuses it; what is in memory stays there, and is named.
        """
        snapshots, self.snapshots = self.snapshots, None
        self._pending.clear()
        if snapshots is None:
            self._commit_here(Claim(self.state.step, self._reason(Reason.RESCUE)))
            return
        run, report = self.making.run, self.making.report
        snapshots.wait()
        if snapshots.sealed_step != self.state.step:
            # Into memory first: it takes what the disk may refuse.
            snapshots.take(self._draft(self._reason(Reason.RESCUE)), claimed=False)
            snapshots.wait()
        settled = settle(run, snapshots.arena, report)
        if settled.version is not None:
            self._is_committed(settled.version, None)
        is_kept = let_go(snapshots.arena, settled, run, report)
        if settled.refused is not None:
            if not is_kept:
                report("No place could be found for what is in memory: it is lost with this process.")
            raise NotCommitted(str(settled.refused))

    def take_over(self) -> None:
        """Other ranks are gone, and what they copied last with them: the state, which is that of the last whole step,
        goes into memory, for the keeper to commit once this process has ended.
        """
        if self.snapshots is None:
            return
        self.making.check()  # as before any copy: what was measured of these steps is written with them
        self.snapshots.take_over()
        if self.snapshots.sealed_step != self.state.step:
            self.snapshots.take(self._draft(self._reason(Reason.RESCUE)), claimed=False)
            self.snapshots.wait()

    def close(self) -> None:
        """Let the state and the memory go."""
        if self.snapshots is not None:
            self.snapshots.close()

    def _has_memory(self, draft: Draft) -> bool:
        """Whether copies go into an arena; asks for another where the state has taken another shape, or grown."""
        if self.snapshots is not None and not (self.snapshots.fits() and self._has_notes_for(draft)):
            outgrown, self.snapshots = self.snapshots, None  # a keeper that is gone must not find it half closed
            outgrown.close()
            self.open_memory()
        return self.snapshots is not None

    def open_memory(self) -> None:
        """Ask the keeper for an arena that fits the state as it is now. Raises: KeeperGone."""
        assert self.link is not None
        settings, report = self.making.settings, self.making.report
        self.snapshots = open_snapshots(self.state, self.small_bytes(), self.link, settings, report, self.others)

    def _has_notes_for(self, draft: Draft) -> bool:
        """Whether its small files find room: a loader that notes what it has seen has more of them every time."""
        assert self.snapshots is not None
        small_bytes = sum(map(len, draft.small_files.values())) + len(repr(draft.facts))
        needed, room = notes_bytes(self.snapshots.layout, small_bytes), self.snapshots.arena.plan.notes_bytes
        return needed - SPARE_BYTES // 2 <= room

    def small_bytes(self) -> int:
        """Of all that a draft holds besides tensors, about."""
        content = (*self.making.small_files.values(), *self.state.small_files().values())
        return sum(map(len, content)) + len(repr(self.making.facts))

    def _reason(self, reason: Reason) -> Reason:
        """The version of the last step says that it is the last, whatever else was due."""
        is_last = self.state.step == self.making.max_steps
        return Reason.FINAL if is_last and reason is not Reason.EARLY else reason

    def _draft(self, reason: Reason, has_tensors: bool = False) -> Draft:
        return Draft(
            step=self.state.step,
            images_seen=self.state.images_seen,
            reason=reason,
            parent=self.parent,
            tensor_files=tensor_files(self.state) if has_tensors else (),
            small_files={**self.making.small_files, **self.state.small_files()},
            facts=self.making.facts,
        )

    def _commit_here(self, claim: Claim) -> None:
        """While training waits. Raises: NotCommitted, NotFinite."""
        began = time.monotonic()
        if is_shared_out(self.state.tensors()):
            raise NotCommitted("No rank holds the state whole, and no memory took it. Older versions are whole.")
        check_finite(self.state)
        draft = self._draft(claim.reason, has_tensors=True)
        if self.snapshots is not None:  # all that lies there is older
            draft = replace(draft, facts={**draft.facts, **self.snapshots.facts})
        version = self.making.run.commit(draft)
        if claim.label is not None:
            name_version(self.making.run, version, claim.label, self.making.report)
        self.due.made(claim.step)
        self._is_committed(version, time.monotonic() - began)
        self._say_retired(self.making.retire(self.making.run))

    # --- what the keeper says ------------------------------------------------------------------------------

    def hear(self) -> list[Message]:
        """Note what the keeper has done since. Returns what it asks of the training: to stop, to save.

        Raises: KeeperGone, NotCommitted, NotFinite.
        """
        if self.link is not None:
            if self.snapshots is not None:
                self.snapshots.beat(self.state.step)
                self._take_voids()
            for claim in self._news(0.0):
                with self.clock.waiting():
                    self._tell_observers(claim)
        heard, self._unheard = self._unheard, []
        return heard

    def _await(self, claim: Claim, may_wait: bool) -> None:
        """Until it is committed, or dropped. Raises: NotCommitted if the disk refuses it and nobody waits."""
        if self.snapshots is not None:
            self.snapshots.wait()  # whatever the disk says: from here on the state is in memory
        self._forget_refusal()
        self._is_waiting = may_wait
        try:
            while claim.generation in self._pending:
                self._take_voids()
                if self._refusal is not None and not may_wait:
                    raise NotCommitted(f"{self._refusal} The state is in memory, and it is tried again.")
                for committed in self._news(0.2):
                    if committed is not claim:
                        self._tell_observers(committed)
                if self.snapshots is not None:
                    self.snapshots.beat(self.state.step)
        finally:
            self._is_waiting = False

    def _refuse_if_behind(self) -> None:
        """Raises: NotCommitted where to take one more copy would mean to wait for the disk."""
        assert self.snapshots is not None
        self._forget_refusal()
        if self.snapshots.is_full:
            raise NotCommitted(f"{self._refusal or 'The disk is behind.'} Versions from before wait in memory for it.")

    def _forget_refusal(self) -> None:
        """What the disk said before does not hold any more once it has room; if it refuses again, it says so again."""
        with contextlib.suppress(OSError):
            if self.last is not None and fsops.free_bytes(self.making.run.path) > self.last.size_bytes:
                self._refusal = None

    def _news(self, timeout_s: float) -> Iterator[Claim]:
        """Yields claims that were committed."""
        assert self.link is not None
        for message in self.link.news(timeout_s):
            kind = message["kind"]
            if kind == "committed":
                # All that is needed is in the message: the version itself may be gone already, for newer ones.
                self._refusal = None
                version = told(self.making.run, message)
                self._is_committed(version, message["seconds"])
                claim = self._pending.pop(message["generation"], None)
                if claim is not None:
                    yield claim
            elif kind == "refused":
                self._is_refused(message)
            elif kind == "retired":
                self._say_retired(message["words"])
            elif kind == "give_up":
                raise NotCommitted(f"The disk has refused every version for {duration(message['after_s'])}.")
            else:
                self._unheard.append(message)

    def _is_refused(self, message: Message) -> None:
        generation, why = message["generation"], message["why"]
        if not message["is_tried_again"]:
            self._drop(generation, f"it {why}")
            return
        self._refusal = why
        doing = "waiting" if self._is_waiting else "training goes on"
        self.making.report(f"{why} It is tried again every {message['retry_s']:g} s; {doing}.")

    def _take_voids(self) -> None:
        """Claims that came to nothing before they were sealed. Raises: NotFinite if the state itself is sick."""
        while self.snapshots is not None and self.snapshots.voided:
            void = self.snapshots.voided.popleft()
            if void.fault is not None:
                raise void.fault
            self._drop(void.generation, void.why)

    def _drop(self, generation: int, why: str) -> None:
        """This claim, and no other, is over; whoever waits for it finds that out."""
        claim = self._pending.pop(generation, None)
        if claim is not None:
            claim.generation = -generation
            is_again = claim.reason in UNWAITED and self.due.spoilt(claim)
            then = " Another one takes its place." if is_again else ""
            self.making.report(f"The version of step {claim.step:,} was refused: {why}.{then}")

    def _is_committed(self, version: Version, seconds: float | None) -> None:
        run = self.making.run
        self.last, self.parent, self.committed_at = version, run.ref(version), time.monotonic()
        self.clock.committed(version.size_bytes, seconds)
        self.due.committed()
        self.making.report(in_words(version, seconds))

    def _say_retired(self, words: str) -> None:
        if words:
            self.making.report(f"  {words}")

    def _copied(self, claim: Claim) -> None:
        for observer in self.observers:
            observer.copied(claim)

    def _tell_observers(self, claim: Claim) -> None:
        if self.last is None:
            return
        for observer in self.observers:
            observer.committed(claim, self.last)
