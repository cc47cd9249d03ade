"""A loop between entering and leaving: what it holds, what happens after each of its steps, how it ends."""

import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import replace
from socket import socket
from types import TracebackType

from everstep.contracts import COMPLETE, Reason
from everstep.errors import DamageFound, EverstepError, ExitCode, NotCommitted, UserError
from everstep.keeping.asked import Asked
from everstep.keeping.channel import Channel, Message
from everstep.keeping.due import next_step
from everstep.keeping.host import connect, start_beside
from everstep.keeping.interrupts import Interrupts
from everstep.keeping.link import KeeperGone, Link
from everstep.keeping.parts import Parts
from everstep.keeping.saver import Saver
from everstep.keeping.snapshots import open_snapshots
from everstep.keeping.terms import Terms, command
from everstep.versions import LiveStatus, Run, Version, write_live
from everstep.versions.lock import Held

TELL_PERIOD_S = 0.5


class Kept:
    """A loop that is kept, between entering and leaving.

    Whoever cannot enter it, since somebody else runs the loop, calls `connect`, `attach`, `begin`, after each step
    `stepped`, at the end `finish` and `close`.
    """

    def __init__(self, terms: Terms, parts: Parts | None = None) -> None:
        """
        Args:
            parts: what is kept; left out, `attach` is told.
        """
        self._parts, self._terms, self._report = parts or Parts({}, {}, {}), terms, terms.report
        self._interrupts, self._held = Interrupts(terms.report), ExitStack()
        self._link: Link | None = None
        self._lock: Held | None = None
        self._keeper: subprocess.Popen[bytes] | None = None
        self._saver: Saver | None = None
        self._until: int | None = None
        self._wanted: list[str | None] = []  # labels of versions that were asked for within a step
        self._told_at = self._began_at = 0.0
        self._seen_before = 0  # images
        self._run: Run | None = None
        self._version: Version | None = None  # that it goes on from
        self.ended: Reason | None = None  # why no more steps come: final, early, asked, signal, rescue

    @property
    def step(self) -> int:
        """Steps that have been done."""
        return self._parts.step

    @property
    def is_open(self) -> bool:
        """Whether it is kept: attached, and not closed."""
        return self._saver is not None

    def changing(self) -> AbstractContextManager[None]:
        """Change what is kept inside, other than by an optimizer's step: averages, tensors of one's own."""
        return self._parts.revision.changing()

    # --- entering -------------------------------------------------------------------------------------------

    def __enter__(self) -> "Kept":
        self.connect()
        self.attach()
        return self

    def connect(self) -> Version | None:
        """Start the keeper, hold the run, settle what lies in memory of it; tells the version to go on from.

        Raises: UserError if another process writes the run.
        """
        with self._or_closed():
            answer = self._greet(connect)
            if answer["kind"] == "elsewhere" and self._link is not None:  # what launched it keeps another run
                self._link.close()
                answer = self._greet(start_beside)
            if answer["kind"] == "no":
                kind = NotCommitted if answer["exit_code"] == ExitCode.DISK_FULL else UserError
                raise kind(answer["why"])
            run = self._run = Run.open(self._terms.folder)
            self._lock = self._held.enter_context(run.lock_from(answer["descriptor"], command()))
            self._version = None if answer["number"] is None else run.version(answer["number"])
        return self._version

    def _greet(self, start: Callable[[], tuple[socket, "subprocess.Popen[bytes] | None"]]) -> Message:
        """Ask a keeper for this run; it says what is gone on from, or why it cannot."""
        end, self._keeper = start()
        self._link = Link(Channel(end))
        return self._link.ask_any("hello", ("origin", "no", "elsewhere"), **self._terms.hello())

    def attach(self, parts: Parts | None = None, terms: Terms | None = None, is_restored: bool = False) -> None:
        """Put back what the version holds, and begin to keep the parts; a run without any gets version_0.

        Args:
            terms: what was not known of them when it was connected.
            is_restored: somebody else has put it back; then only steps and generators are.

        Raises: UserError if the version is of other parts.
        """
        self._terms, run, version, link = terms or self._terms, self._run, self._version, self._link
        if run is None or link is None:
            raise UserError("A run is connected before anything is attached to it.")
        terms = self._terms
        with self._or_closed():
            self._parts = parts or self._parts
            if version is not None and is_restored:
                self._parts.count_from(version)
            elif version is not None:
                self._restore(version)
            parent = None if version is None else run.ref(version)
            saver = Saver(terms.making(run), self._parts, version, parent, link, observers=terms.observers)
            self._saver = saver
            self._asked = Asked(run.layout, self._save_as_asked, lambda: self._in_use().due.last_step == self.step)
            self._seen_before = self._parts.images_seen
            saver.snapshots = open_snapshots(self._parts, saver.small_bytes(), link, terms.settings, self._report)
            self._tell("running")
            self._interrupts.listen()
            if version is None:
                saver.save(Reason.START)

    @contextmanager
    def _or_closed(self) -> Iterator[None]:
        """What goes wrong within closes all of it."""
        try:
            yield
        except BaseException as error:
            self._close(self._code(error))
            if isinstance(error, KeeperGone):
                raise UserError("The keeper could not be started; what it printed says why.") from None
            raise

    def _restore(self, version: Version) -> None:
        try:
            self._parts.restore(version)
        except DamageFound:
            if self._link is not None:
                self._link.tell("damaged", number=version.number)
            raise
        self._report(f"Resumed from {version.name} (step {version.step:,}), every digest verified: {version.path}")

    # --- steps ----------------------------------------------------------------------------------------------

    def steps(self, until: int) -> Iterator[int]:
        """The numbers of the steps that are left, from the first that has not been done; ends early where asked to.

        Raises: NotFinite, NotCommitted; the newest whole state is kept. KeyboardInterrupt after the step in which it
        was asked for, which is kept.
        """
        self.begin(until)
        try:
            while self.step < until and self.ended is None:
                yield self.step
                self.stepped()
            self.finish()
        finally:
            self._interrupts.is_stepping = False
        if self.take_interrupt():
            raise KeyboardInterrupt

    def begin(self, until: int | None = None) -> None:
        """Steps follow, which somebody else counts: `stepped` after each, `finish` after the last.

        Args:
            until: how many steps there are to be at the end, where that is known.
        """
        saver = self._in_use()
        self._until, self._began_at, self._seen_before = until, time.monotonic(), self._parts.images_seen
        saver.making = replace(saver.making, max_steps=until)
        if self.ended in COMPLETE:  # of steps before these
            self.ended = None
        self._interrupts.is_stepping = True

    def stepped(self, images: int | None = None) -> Reason | None:
        """One more step is done, and nothing is changed until this returns. Tells why no more shall follow.

        Args:
            images: seen in it; left out, as many as in each.

        Raises: NotFinite, NotCommitted.
        """
        saver = self._in_use()
        self._parts.step += 1
        self._parts.images_seen += self._terms.images_per_step if images is None else images
        try:
            self._after_step(saver)
        except KeeperGone:
            self._go_alone(saver)
        return self.ended

    def finish(self, reason: Reason = Reason.FINAL) -> None:
        """No more steps follow: the last state is made a version. Raises: NotFinite, NotCommitted.

        Args:
            reason: why, unless it is known already.
        """
        saver = self._in_use()
        if self._until is not None and self.step >= self._until and self.ended is not Reason.RESCUE:
            self.ended = Reason.FINAL
        self.ended = self.ended or reason
        try:
            if self.ended is not Reason.RESCUE:
                self._save_last(saver)
        except KeeperGone:
            self._go_alone(saver)
        finally:
            self._interrupts.is_stepping = False

    def take_interrupt(self) -> bool:
        """Whether Ctrl-C was pressed within a step; whoever asks raises it."""
        was_asked = self._interrupts.asked == "SIGINT"
        if was_asked:
            self._interrupts.asked = None
        return was_asked

    def _in_use(self) -> Saver:
        if self._saver is None:
            raise UserError("Steps are made inside of it: with everstep.keep(...) as kept: ...")
        return self._saver

    def _after_step(self, saver: Saver) -> None:
        self._asked.by_keeper(saver.hear())
        if self._wanted:
            wanted, self._wanted = self._wanted, []
            for label in wanted:
                self._save_as_asked(label)
        elif saver.is_due(self.step):
            self._try_to_save(Reason.INTERVAL)
        else:
            saver.snapshot()
        self._asked.by_signals(self._interrupts)
        self.ended = self._asked.to_stop() or self.ended
        self._tell("running")

    def save(self, label: str | None = None) -> None:
        """Make a version: now, or, asked for within a step, when that is done.

        Raises: NotCommitted if the disk refuses it now; it is tried again.
        """
        saver = self._in_use()
        if self._interrupts.is_stepping:
            self._wanted.append(label)
        else:
            saver.save(Reason.ASKED, label)

    def stop(self) -> None:
        """No more steps after this one; the training is complete with it."""
        self.ended = Reason.EARLY

    def _save_as_asked(self, label: str | None) -> str | None:
        return self._try_to_save(Reason.ASKED, label, may_wait=False)

    def _try_to_save(self, reason: Reason, label: str | None = None, may_wait: bool | None = None) -> str | None:
        """Returns why not, which is said."""
        try:
            self._in_use().save(reason, label, may_wait)
        except NotCommitted as error:
            self._report(str(error))
            return str(error)
        return None

    def _save_last(self, saver: Saver) -> None:
        assert self.ended is not None
        if saver.due.last_step != self.step:
            saver.save(self.ended)
        saver.finish()
        self._tell("complete" if self.ended in COMPLETE else "stopped")

    def _go_alone(self, saver: Saver) -> None:
        self._report("The keeper is gone: saving without it, then ending.")
        self.ended = Reason.RESCUE
        saver.go_alone()
        self._tell("stopped")

    # --- leaving --------------------------------------------------------------------------------------------

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close(error)

    def close(self, error: BaseException | None = None) -> None:
        """Let go of everything, and wait until what is only in memory is a version; more than once is once.

        Args:
            error: that the loop ends with.
        """
        is_left = self.ended is None and (error is None or isinstance(error, KeyboardInterrupt))
        if is_left and self._saver is not None:
            self._tell("stopped")  # left by break, or at once
        self._close(self._code(error))

    def _code(self, error: BaseException | None) -> int:
        """How the program says that it ends. Of an error in the loop's body nobody knows what state it left: the newest
        whole state in memory is what becomes a version.
        """
        if error is None:
            return int(ExitCode.DONE if self.ended in COMPLETE else ExitCode.STOPPED)
        if isinstance(error, KeyboardInterrupt):
            return int(ExitCode.STOPPED)
        if isinstance(error, SystemExit):
            return error.code if isinstance(error.code, int) else int(error.code is not None)
        return int(error.exit_code) if isinstance(error, EverstepError) else 1  # as Python ends

    def _close(self, code: int) -> None:
        link, self._link = self._link, None
        if link is None:
            return
        self._interrupts.close()
        try:
            if self._saver is not None:
                self._saver.close()
        finally:
            self._saver = None
            self._parts.revision.close()
            link.tell("bye", code=code)
            link.close()
            if self._keeper is not None:
                self._keeper.wait()
                if self._lock is not None:  # workers that were forked meanwhile share it, and may live on
                    self._lock.let_go()
            self._held.close()

    def _tell(self, state: str) -> None:
        now = time.monotonic()
        if state == "running" and now - self._told_at < TELL_PERIOD_S:
            return
        saver, self._told_at = self._in_use(), now
        rate = (self._parts.images_seen - self._seen_before) / max(1e-9, now - self._began_at)
        live = LiveStatus.now(
            state=state,
            step=self.step,
            max_steps=self._until or self.step,
            images_seen=self._parts.images_seen,
            images_per_second=rate,
            loss=None,
            last_version=None if saver.last is None else saver.last.name,
            next_version_step=next_step(self.step, saver.making),
            snapshot_step=None if saver.snapshots is None else saver.snapshots.sealed_step,
            **saver.clock.told(saver.due.saved_at),
        )
        write_live(saver.making.run.layout, live)
