"""Mirrors that a training keeps up by itself: after each new version the verb is started, behind the training.

A process of its own, which outlives whoever started it: a disk that hangs hangs nobody, one that is away costs nothing
and is caught up with at a later version. One sends to a place at a time, one more waits to: so whatever was committed
before the last one was started is sent, too.
"""

import contextlib
import os
import subprocess
import sys
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from everstep.mirror.copies import LOG
from everstep.priority import lower_session, lower_thread
from everstep.versions import Run

PROGRAM = (sys.executable, "-m", "everstep", "mirror", "send", "--wait")
AT_ONCE = 2  # that sends, and that waits


@dataclass(slots=True)
class _Target:
    number: int
    place: str
    running: list["subprocess.Popen[bytes]"] = field(default_factory=list)
    is_failing: bool = False
    why: str | None = None  # the newest one that ended failed
    has_begun_again: bool = False  # at the end


class Following:
    """Called with a run after each of its commits. Returns what is to be said; raises nothing."""

    def __init__(self, targets: Sequence[str], more: Sequence[str] = ()) -> None:
        """more: what the verb is told beside run and target."""
        self.targets = [_Target(number, target) for number, target in enumerate(targets)]
        self._more = more
        self._lock = threading.Lock()  # of two threads that commit, each has started one when it returns

    def __call__(self, run: Run) -> str:
        with self._lock:
            return " ".join(filter(None, (self._follow(run, target) for target in self.targets)))

    def is_sending(self, run: Run) -> bool:
        """At the end of a training: whether any of them lives. One that was killed, as all processes of a job are when
        it is asked to stop, is started again, once.
        """
        with self._lock:
            return sum(self._is_sending(run, target) for target in self.targets) > 0

    def failures(self) -> list[str]:
        """Of those that have ended last, in words."""
        return [
            f"The mirror in {target.place} failed ({target.why}). Versions are here; the next start sends them, or "
            "everstep mirror."
            for target in self.targets
            if target.why is not None
        ]

    def _is_sending(self, run: Run, target: _Target) -> bool:
        was_killed = any((process.poll() or 0) < 0 for process in target.running)
        _ended(run, target)
        if was_killed and not target.running and not target.has_begun_again:
            target.has_begun_again = True
            with contextlib.suppress(OSError):
                target.running.append(self._start(run, target))
        return bool(target.running)

    def _follow(self, run: Run, target: _Target) -> str:
        said = _ended(run, target)
        if len(target.running) < AT_ONCE:
            try:
                target.running.append(self._start(run, target))
            except OSError as error:
                said = said or _failed(target, str(error))
        return said

    def _start(self, run: Run, target: _Target) -> "subprocess.Popen[bytes]":
        with contextlib.ExitStack() as opened:
            try:
                out = opened.enter_context(_log(run, target).open("wb"))
            except OSError:  # records that cannot be written; then nothing is told of it
                out = opened.enter_context(open(os.devnull, "wb"))
            process = subprocess.Popen(
                [*PROGRAM, *self._more, str(run.path), target.place],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                start_new_session=True,
            )
        lower_thread(process.pid)
        lower_session(process.pid)
        return process


def _ended(run: Run, target: _Target) -> str:
    """What came of those that have ended: said when it begins to fail, and when it works again."""
    ended = [process for process in target.running if process.poll() is not None]
    target.running = [process for process in target.running if process not in ended]
    codes = [process.returncode for process in ended]
    if codes:
        target.why = None
    if any(codes):
        try:
            why = _log(run, target).read_text(encoding="utf-8", errors="replace").strip().splitlines()[-1]
        except (OSError, IndexError):
            why = f"exit code {next(filter(None, codes))}"
        return _failed(target, why)
    if codes and target.is_failing:
        target.is_failing = False
        return f"The mirror in {target.place} works again."
    return ""


def _failed(target: _Target, why: str) -> str:
    target.why = why
    if target.is_failing:
        return ""
    target.is_failing = True
    return f"The mirror in {target.place} failed ({why}); training goes on, and it is tried again at the next version."


def _log(run: Run, target: _Target) -> Path:
    """What the newest of them prints."""
    return run.layout.records / f"{LOG}{target.number}.log"
