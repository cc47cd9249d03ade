"""The keeper: the process that the user started. It holds the run and the arena, and outlives the trainer.

It forks the trainer before PyTorch is loaded, commits what the trainer seals, and, when the trainer dies, commits the
newest healthy state and may start the trainer again. Never imports torch.
"""

import contextlib
import os
import select
import shutil
import signal
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NoReturn

from everstep.contracts import ParentRef
from everstep.errors import ExitCode, NotCommitted
from everstep.keeping.arena import Arena, PlannedFile, plan_arena
from everstep.keeping.channel import Channel, Gone, Message
from everstep.keeping.committer import RETRY_S, Committer
from everstep.keeping.memory import SLOTS, release, take_memory
from everstep.keeping.sealed import rescue
from everstep.train.intent import Ready
from everstep.train.progress import Reporter
from everstep.train.retiring import retiring
from everstep.train.trainer import STACKS_SIGNAL, Trainer, become_trainer, stacks_file
from everstep.units import duration
from everstep.versions import Version, read_live

IS_POSSIBLE = hasattr(os, "pidfd_open") and hasattr(os, "memfd_create")  # Linux; elsewhere the trainer is alone
POLL_S = 0.5
NEAR_STEPS = 10  # deaths so soon after a version speak against that version
LEAVE_S = 1.5  # what a trainer gets to leave after a second signal
SIGNALS = (signal.SIGINT, signal.SIGTERM)
EXPECTED = {ExitCode.DONE, ExitCode.WRONG_INPUT, ExitCode.STOPPED, ExitCode.DISK_FULL}


@dataclass(frozen=True, slots=True)
class End:
    """How a trainer ended."""

    code: int  # its exit code, or minus the signal that ended it
    step: int  # where it was, as far as it told

    @property
    def was_expected(self) -> bool:
        return self.code in EXPECTED

    @property
    def words(self) -> str:
        if self.code < 0:
            return f"was ended by {signal.Signals(-self.code).name}"
        return f"ended with exit code {self.code}"

    @property
    def exit_code(self) -> int:
        """Of the whole program: a killed trainer can be resumed."""
        return ExitCode.STOPPED if self.code < 0 else self.code


class Keeper:
    """Keeps one training from its start to its end, over as many trainers as it takes."""

    def __init__(self, ready: Ready, reporter: Reporter, trainer: Trainer) -> None:
        self.ready, self.reporter, self._trainer = ready, reporter, trainer
        self._settings = ready.config.keeper
        self._arena: Arena | None = None
        self._committer: Committer | None = None
        self._signals: list[int] = []
        self._deaths: list[int] = []  # the step of each
        self._has_told_hang = False

    def run(self) -> int:
        """Start the trainer, again where that is allowed. Returns the exit code of the program."""
        starts = 1
        with self._listening():
            while True:
                end = self._one_trainer()
                if end.was_expected:
                    return self._leave(end.code)
                if end.code == ExitCode.NOT_FINITE:
                    self._rescue(end.step)
                    return self._leave(end.code)
                self._after(end)
                if starts > self._settings.restarts or self._signals:
                    self.reporter.say(f"Go on: everstep resume {self.ready.run.path}")
                    return self._leave(end.exit_code)
                self._choose_version()
                self.reporter.say(f"Starting the trainer again, {starts} of {self._settings.restarts} times.")
                starts += 1

    # --- one trainer ---------------------------------------------------------------------------------------

    def _one_trainer(self) -> End:
        ours, theirs = Channel.pair()
        sys.stdout.flush()
        sys.stderr.flush()
        child = os.fork()
        if child == 0:
            ours.close()
            become_trainer(self._trainer, self.ready, self.reporter, theirs)
        theirs.close()
        handle = os.pidfd_open(child)
        try:
            self._watch(child, handle, ours)
        finally:
            os.close(handle)
            ours.close()
            if self._committer is not None:
                for _ in self._committer.finish():
                    pass  # a version, or left for the rescue
                self._committer = None
        _, status = os.waitpid(child, 0)
        return End(os.waitstatus_to_exitcode(status), self._last_step())

    def _watch(self, child: int, handle: int, channel: Channel) -> None:
        """Until the trainer has ended."""
        forwarded, leave_by = 0, None
        while True:
            ready, _, _ = select.select([handle, channel.fileno(), self._wakeup], [], [], POLL_S)
            if self._wakeup in ready:
                with contextlib.suppress(BlockingIOError):
                    os.read(self._wakeup, 4096)
            for number in self._signals[forwarded:]:
                os.kill(child, number)
                forwarded += 1
                leave_by = time.monotonic() + LEAVE_S if forwarded > 1 else None
            if leave_by is not None and (handle in ready or time.monotonic() > leave_by):
                self._leave_at_once(child)
            if channel.fileno() in ready or handle in ready:
                self._listen(channel)
            self._tell_outcomes(channel)
            if handle in ready:
                return
            self._look_for_a_hang(child)

    def _listen(self, channel: Channel) -> None:
        """All messages that are there; those of a trainer that has died since count too."""
        with contextlib.suppress(Gone):
            while channel.is_waiting():
                message = channel.receive()
                if message["kind"] == "plan":
                    self._give_arena(channel, message)
                elif message["kind"] == "sealed" and self._committer is not None:
                    self._committer.add(message["slot"])

    def _give_arena(self, channel: Channel, message: Message) -> None:
        files = tuple(PlannedFile(path, size) for path, size in message["files"])
        if self._arena is not None and self._arena.plan.files != files:
            release(self._arena)
            self._arena = None
        where = "in the same memory as before"
        if self._arena is None:
            ram_dir = Path(self._settings.ram_dir).expanduser() if self._settings.ram_dir else None
            path, notes_bytes = self.ready.run.path, message["notes_bytes"]
            taken = take_memory(lambda slots: plan_arena(path, files, notes_bytes, slots), ram_dir, SLOTS)
            self._arena, where = taken.arena, taken.where
        if self._arena is not None:
            in_use = self.ready.version.number if self.ready.version else None
            retire = retiring(self.ready.config.keep, in_use)
            self._committer = Committer(self.ready.run, self._arena, self._wake, retire)
        arena = self._arena
        where_path = str(arena.path) if arena and arena.path else None
        channel.send("arena", arena.descriptor if arena else None, where=where, path=where_path)

    def _tell_outcomes(self, channel: Channel) -> None:
        if self._committer is None:
            return
        with contextlib.suppress(Gone):
            for outcome in self._committer.outcomes():
                if outcome.version is not None:
                    number, retired = outcome.version.number, outcome.retired
                    channel.send("committed", number=number, seconds=outcome.seconds, retired=retired)
                else:
                    is_disk = isinstance(outcome.error, NotCommitted)
                    channel.send("refused", why=str(outcome.error), is_tried_again=is_disk, retry_s=RETRY_S)
            since, allowed = self._committer.refused_since, self._settings.unattended_minutes
            if since is not None and allowed is not None and time.monotonic() - since > 60 * allowed:
                channel.send("give_up", after_s=time.monotonic() - since)
                self._committer.refused_since = None

    def _look_for_a_hang(self, child: int) -> None:
        """A trainer that makes no step: its last snapshot is committed, its stacks are written, it is left alone."""
        if self._arena is None or self._committer is None or not self._committer.is_idle:
            return
        age_s, step = self._arena.heartbeat()
        if age_s < 60 * self._settings.hang_minutes:
            self._has_told_hang = False
            return
        if self._has_told_hang:
            return
        self._has_told_hang = True
        os.kill(child, STACKS_SIGNAL)
        stacks = stacks_file(self.ready.run)
        self.reporter.say(f"No step for {duration(age_s)}, since step {step:,}. Where the trainer is: {stacks}")
        self._rescue(step)

    # --- after a death -------------------------------------------------------------------------------------

    def _after(self, end: End) -> None:
        """Commit the newest healthy state and say what was lost."""
        self.reporter.say(f"The trainer {end.words}, at about step {end.step:,}.")
        self._deaths.append(end.step)
        self._rescue(end.step)

    def _rescue(self, step: int) -> None:
        saved = None
        if self._arena is not None:
            try:
                saved, refused = rescue(self.ready.run, self._arena)
                for sentence in refused:
                    self.reporter.say(sentence)
            except NotCommitted as error:
                self.reporter.say(str(error))
        versions = self.ready.run.versions()
        if not versions:
            return
        last, word = versions[-1], "is the last version" if saved is None else "was rescued from memory"
        self.reporter.say(
            f"{last.name} (step {last.step:,}) {word}, {max(0, step - last.step)} steps back: {last.path}"
        )

    def _choose_version(self) -> None:
        """The newest whole version at which the trainer did not die twice."""
        run = self.ready.run
        if self._arena is not None:
            self._arena.clear()
        version = run.newest_whole(self.reporter.say)
        while version is not None and self._deaths_near(version) > 1:
            before = [found for found in run.versions() if found.number < version.number and found.resumable]
            if not before:
                break
            self.reporter.say(
                f"Two deaths within {NEAR_STEPS} steps of {version.name}: going back to {before[-1].name}."
            )
            version = before[-1]
        parent = self.ready.parent
        if version is not None:
            parent = ParentRef(run.name, version.number, version.manifest_digest)
        self.ready = replace(self.ready, version=version, parent=parent)

    def _deaths_near(self, version: Version) -> int:
        return sum(0 <= step - version.step <= NEAR_STEPS for step in self._deaths)

    def _last_step(self) -> int:
        if self._arena is not None:
            return self._arena.heartbeat()[1]
        live = read_live(self.ready.run.layout)
        return live.step if live is not None else 0

    def _leave(self, code: int) -> int:
        """Give the memory back, unless it holds what the disk refused and the next start can find it."""
        if self._arena is not None:
            if code == ExitCode.DISK_FULL and self._arena.path is not None:
                self.reporter.say(f"What was not written is kept in {self._arena.path}, for the next start to commit.")
            else:
                release(self._arena)
        return code

    def _leave_at_once(self, child: int) -> NoReturn:
        """After a second signal: whatever is being written stays unfinished, and is cleared at the next start."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(child, signal.SIGKILL)
        if self._arena is not None and self._arena.path is not None:
            shutil.rmtree(self._arena.path.parent, ignore_errors=True)
        sys.stdout.flush()
        os._exit(ExitCode.STOPPED)

    def _wake(self) -> None:
        os.write(self._waking, b"\0")

    @contextlib.contextmanager
    def _listening(self) -> Iterator[None]:
        """Inside, signals are noted, and wake the loop."""
        self._wakeup, self._waking = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        before = {number: signal.signal(number, lambda n, _: self._signals.append(n)) for number in SIGNALS}
        before_fd = signal.set_wakeup_fd(self._waking, warn_on_full_buffer=False)
        try:
            yield
        finally:
            signal.set_wakeup_fd(before_fd)
            for number, handler in before.items():
                signal.signal(number, handler)
            os.close(self._waking)
            os.close(self._wakeup)
