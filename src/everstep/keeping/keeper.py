"""The keeper: the process that holds a run and its memory, and outlives the trainer.

It starts the trainer before PyTorch is loaded, commits what the trainer seals, and, however the trainer ends, settles
what is left in memory (`ending.settle`) before anything else is decided. Never imports torch.
"""

import os
import select
import signal
import sys
import time
import traceback
from collections.abc import Callable
from typing import Any, NoReturn

from everstep.contracts import Reason
from everstep.errors import EverstepError, ExitCode
from everstep.keeping.arena import Arena, PlannedFile, plan_arena
from everstep.keeping.attending import Attending, send
from everstep.keeping.channel import Channel, Message
from everstep.keeping.child import Child
from everstep.keeping.committer import RETRY_S, Committer, Outcome
from everstep.keeping.ending import Settled, in_memory, let_go, rescued, settle, unsettled
from everstep.keeping.hangs import Hangs
from everstep.keeping.memory import SLOTS, release, take_memory
from everstep.keeping.origin import Keeping, Origin
from everstep.keeping.restart import MEANT, NEAR_STEPS, End, Next, Whole, next_after
from everstep.keeping.signals import Listening
from everstep.places import spelled
from everstep.versions import Version, read_live

IS_POSSIBLE = hasattr(os, "pidfd_open") and hasattr(os, "memfd_create")  # Linux; elsewhere the trainer is alone


class Keeper:
    """Keeps one training from its start to its end, over as many trainers as it takes."""

    def __init__(self, keeping: Keeping, origin: Origin, signals: Listening | None = None) -> None:
        self.keeping, self.origin = keeping, origin
        self._run, self._settings, self._report = keeping.run, keeping.settings, keeping.report
        self._signals = signals or Listening()
        self._arena: Arena | None = None
        self._outgrown: list[Arena] = []  # memory of shapes that the state had, which no disk takes yet
        self._committer: Committer | None = None
        self._committed = 0  # the newest generation of the arena that is a version
        self._deaths: list[int] = []  # the step of each
        self._damaged: int | None = None  # the version that the trainer could not load
        self._hangs = Hangs(keeping.settings.hang_minutes, keeping.run.layout.records, keeping.report)
        self._untold: list[Outcome] = []
        self._begins_at = keeping.run.next_number()  # versions from here on are this keeper's

    def run(
        self,
        start: Callable[[Origin], tuple[Child, Channel]],
        outlasts: Callable[[End, bool], End | None] = lambda end, is_safe: end,
    ) -> int:
        """Start the trainer, again where that is allowed. Returns the exit code of the program.

        Args:
            start: begins a trainer that goes on from the origin; returns it, and our side of the channel to it.
            outlasts: waits for what outlives a trainer; returns the whole end, or None where that has begun the next
                trainer, which `start` then returns.
        """
        starts = 1
        while True:
            end = self.keep(*start(self.origin))
            settled = self.settle(end)
            was_damaged, over = self._was_damaged(), outlasts(end, settled.is_safe)
            if over is None and not was_damaged:
                self.origin = self.origin.moved_to(self._run, self._run.newest_resumable(self._report))
            if over is None or was_damaged:
                continue
            decided = self._decide(over, settled, starts)
            if decided.exit_code is not None:
                return self.leave(decided.exit_code, settled)
            self._go_on_from(decided)
            self._report(f"Starting the trainer again, {starts} of {self._settings.restarts} times.")
            starts += 1

    def run_once(self, child: Child, channel: Channel) -> int:
        """Keep a trainer that somebody else started, until it ends or lets go. Returns an exit code."""
        end = self.keep(child, channel)
        settled = self.settle(end)
        self._was_damaged()
        return self.leave(end.exit_code if settled.is_safe else int(ExitCode.DISK_FULL), settled)

    # --- while a trainer lives ------------------------------------------------------------------------------

    def keep(self, child: Child, channel: Channel) -> End:
        """Until the trainer has ended."""
        self.keeping.tell_trainer(child.pid)
        attending = Attending(self, child, channel, self._signals)
        attending.until_the_end()
        code = child.end()
        channel.close()
        self.keeping.tell_trainer(None)
        return End.of(code, attending.said_code, self._last_step())

    def give_arena(self, channel: Channel, message: Message) -> None:
        """The trainer says what it will copy; it gets memory laid out for that, or is told that there is none."""
        where = "in the same memory as before"
        try:
            where = self._take_arena(channel, message) or where
        except (EverstepError, OSError) as error:  # the trainer waits for an answer, and can do without memory
            self._arena, where = None, f"none, versions are written while training waits ({error})"
        arena = self._arena
        path = str(arena.path) if arena and arena.path else None
        channel.send("arena", arena.descriptor if arena else None, where=where, path=path)

    def _take_arena(self, channel: Channel, message: Message) -> str | None:
        """Returns where it is in words, if it is new. Raises: EverstepError, OSError."""
        files = tuple(PlannedFile(path, size) for path, size in message["files"])
        notes_bytes, where = message["notes_bytes"], None
        if self._arena is not None and (self._arena.plan.files, self._arena.plan.notes_bytes) != (files, notes_bytes):
            self._put_away(channel)
        if self._arena is None:
            ram_dir = spelled(self._settings.ram_dir) if self._settings.ram_dir else None
            newest = self._run.next_number() - 1
            taken = take_memory(
                lambda slots: plan_arena(self._run.path, files, notes_bytes, slots, newest),
                ram_dir,
                SLOTS,
                message.get("coming_bytes", 0),
            )
            self._arena, where = taken.arena, taken.where
        if self._arena is not None:
            in_use = self.origin.version.number if self.origin.version else None
            self._committer = Committer(
                self._run,
                self._arena,
                self._signals.wake,
                lambda run: self.keeping.retire(run, in_use),
                self._report,
            )
        return where

    def hear_of_claim(self, message: Message) -> None:
        """A claim begins, is sealed, or comes to nothing; other machines hold the same memory."""
        committer, kind = self._committer, message["kind"]
        if committer is None:
            return
        if kind == "claim":
            committer.claim(message["slot"], message["generation"], message["step"])
        elif kind == "sealed":
            committer.sealed(message["generation"])
        elif kind == "void":
            committer.void(message["generation"], message["why"])
        elif kind == "holders":
            committer.asking.these(message["nodes"])

    def was_damaged(self, number: int) -> None:
        """The trainer could not load the version that it was to go on from."""
        self._damaged = number

    def stop_committing(self) -> None:
        """The trainer commits by itself from here on."""
        self._finish(None)

    def say(self, text: str) -> None:
        self._report(text)

    def _put_away(self, channel: Channel) -> None:
        """The state has another shape now: what lies in the old memory is settled before there is new."""
        assert self._arena is not None
        self._finish(channel)
        settled = settle(self._run, self._arena, self._report)
        if not let_go(self._arena, settled, self._run, self._report):
            self._outgrown.append(self._arena)
        self._arena, self._committed = None, 0

    def tell_outcomes(self, channel: Channel) -> None:
        if self._committer is None:
            return
        self._untold += self._committer.outcomes()
        while self._untold:  # one that could not be told is told in the next turn: the trainer waits for it
            self._tell(channel, self._untold[0])
            self._untold.pop(0)
        for words in self._committer.retired():
            send(channel, "retired", words=words[:10_000])
        since, allowed = self._committer.refused_since, self._settings.unattended_minutes
        if since is not None and allowed is not None and time.monotonic() - since > 60 * allowed:
            send(channel, "give_up", after_s=time.monotonic() - since)
            self._committer.refused_since = None

    def _tell(self, channel: Channel, outcome: Outcome) -> None:
        if outcome.version is not None:
            self._committed = max(self._committed, outcome.generation)
            facts: dict[str, Any] = {"number": outcome.version.number, "manifest": outcome.version.manifest}
            send(channel, "committed", None, generation=outcome.generation, seconds=outcome.seconds, **facts)
            if outcome.version.reason == Reason.RESCUE:
                self._report(rescued(outcome.version, self._last_step()))
        else:
            again = outcome.is_tried_again
            why = str(outcome.error)
            send(channel, "refused", generation=outcome.generation, why=why, is_tried_again=again, retry_s=RETRY_S)

    def look_for_a_hang(self, child: Child, quiet_since: float) -> None:
        """Of a trainer that makes no step the last snapshot is committed."""
        if self._arena is None or self._committer is None or not self._committer.is_idle:
            return
        if not self._hangs.has_begun(self._arena, child, quiet_since):
            return
        newest = self._arena.newest()
        if newest is not None and newest.generation > self._committed:
            # The trainer may come to life and use the slot anew: then what was written is refused.
            self._committer.rescue(newest)

    # --- after its end --------------------------------------------------------------------------------------

    def settle(self, end: End) -> Settled:
        """The law: whatever the end was, first of all what is in memory becomes a version, or stays there by name."""
        is_death = end.code not in (*MEANT, ExitCode.DISK_FULL) and self._damaged is None
        if is_death and self._signals.stop is not None and self._arena is None:
            self._report(f"{self._signals.stop}: stopped before anything was trained.")
        elif is_death:
            self._report(f"The trainer {end.words}, at about step {end.step:,}.")
            self._deaths.append(end.step)
        settled = Settled()
        try:
            self._finish(None)
            newest = self._arena.newest() if self._arena is not None else None
            if self._arena is not None and newest is not None and newest.generation > self._committed:
                with self.keeping.during("Writing what memory holds"):
                    settled = settle(self._run, self._arena, self._report)
        except Exception as error:
            self._report(traceback.format_exc())
            settled = Settled(refused=unsettled(error))
        if settled.version is not None:
            self._committed = int(settled.version.manifest["snapshot"]["generation"])
            self._report(rescued(settled.version, end.step))
        elif is_death:
            self._say_last_version(end.step)
        return settled

    def leave(self, code: int, settled: Settled) -> int:
        """Give the memory back if nothing in it is the only one of its kind; otherwise keep it and say where."""
        for arena in self._outgrown:
            code = self._let_go(arena, code, settle(self._run, arena, self._report))
        code = code if self._arena is None else self._let_go(self._arena, code, settled)
        self._signals.ignore()
        return code

    def _let_go(self, arena: Arena, code: int, settled: Settled) -> int:
        while not let_go(arena, settled, self._run, self._report):
            # Memory without a name dies with this process, and no disk takes it: so this process stays.
            self._report(f"{settled.refused} Nothing else holds it, so it is tried again every {RETRY_S:g} s.")
            select.select([self._signals], [], [], RETRY_S)
            self._signals.drain()
            if self._signals.is_asked_again:
                self._report("Leaving all the same: what was only in memory is lost.")
                release(arena)
                return int(ExitCode.DISK_FULL)
            settled = settle(self._run, arena, self._report)
        return code

    def leave_at_once(self, child: Child) -> NoReturn:
        """After a second signal: nothing more is written; what is in memory stays there, by its name."""
        if not child.is_ours:
            os._exit(ExitCode.STOPPED)  # a program that is not ours lives on, and saves by itself
        child.signal(signal.SIGKILL)
        child.end()
        arena = self._arena
        newest = arena.newest() if arena is not None else None
        code = int(ExitCode.STOPPED)
        if arena is not None and newest is not None and newest.generation <= self._committed:
            release(arena)
        elif arena is not None and newest is not None and arena.path is not None:
            self._report(in_memory(self._run, arena, arena.path, Settled()))
        elif arena is not None:
            settled = self.settle(End(int(ExitCode.STOPPED), self._last_step()))
            code = self.leave(code if settled.is_safe else int(ExitCode.DISK_FULL), settled)
        self.keeping.undo()
        for stream in (sys.stdout, sys.stderr):
            try:
                stream.flush()
            except (OSError, ValueError):
                continue
        os._exit(code)

    def _finish(self, channel: Channel | None) -> None:
        """No commit goes on after this."""
        if self._committer is None:
            return
        untold, self._untold = self._untold, []
        for outcome in (*untold, *self._committer.finish()):
            if outcome.version is not None:
                self._committed = max(self._committed, outcome.generation)
            if channel is not None:
                self._tell(channel, outcome)
        self._committer = None

    def _was_damaged(self) -> bool:
        """Whether the version gone on from was found damaged while it was loaded, so that the one before is taken."""
        number, self._damaged = self._damaged, None
        if number is None or self.origin.is_named or not self._run.set_aside_damaged(number, self._report):
            return False
        version = self._run.newest_resumable(self._report)
        self.origin = self.origin.moved_to(self._run, version)
        return True

    def _decide(self, end: End, settled: Settled, starts: int) -> Next:
        left = self._settings.restarts - starts + 1
        is_asked, may_start = self._signals.stop is not None, left > 0 and end.code not in MEANT
        # A version that was asked for is gone on from, or one made since, but not those that it passed over.
        origin = -1 if self.origin.version is None else self.origin.version.number
        found = self._versions() if may_start else []
        versions = [one for one in found if one.number <= origin or one.number >= self._begins_at]
        wholes = [Whole(one.number, one.step) for one in versions if one.resumable]
        decided = next_after(end, settled.is_safe, is_asked, left, self._deaths, wholes)
        has_said = end.code in (*MEANT, ExitCode.DISK_FULL)  # the trainer itself
        has_begun = not settled.is_safe or bool(self._versions())
        if decided.exit_code is not None and not has_said and self.keeping.go_on and has_begun:
            self._report(f"Go on: {self.keeping.go_on}")
        return decided

    def _go_on_from(self, decided: Next) -> None:
        version = None if decided.version is None else self._run.version(decided.version)
        if decided.gave_up_on is not None and version is not None:
            self._report(
                f"Two deaths within {NEAR_STEPS} steps of version_{decided.gave_up_on}: going back to {version.name}."
            )
        self.origin = self.origin.moved_to(self._run, version)

    def _last_step(self) -> int:
        if self._arena is not None:
            return self._arena.heartbeat()[1]
        live = read_live(self._run.layout)
        return live.step if live is not None else 0

    def _versions(self) -> list[Version]:  # none where the disk does not answer: of what is in memory nothing follows
        try:
            return self._run.versions()
        except EverstepError as error:
            self._report(str(error))
            return []

    def _say_last_version(self, step: int) -> None:
        if versions := self._versions():
            last = versions[-1]
            back = max(0, step - last.step)
            self._report(f"{last.name} (step {last.step:,}) is the last version, {back} steps back: {last.path}")
