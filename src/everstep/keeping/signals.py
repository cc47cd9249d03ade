"""Signals to a keeper, as things that it is asked: to stop, to leave at once, to save, to pause.

Several signals within a moment are one: service managers, schedulers and GNU timeout signal a process and then its
group, and a terminal that closes sends its own on top.
"""

import contextlib
import os
import signal
import time
from types import FrameType

from everstep.keeping import stacks

STOP = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGXCPU)
AGAIN = (signal.SIGINT, signal.SIGTERM)  # that somebody sends a second time on purpose
SAVE = (signal.SIGUSR1, signal.SIGUSR2)  # what schedulers send some time before the end
PAUSE = (signal.SIGTSTP, signal.SIGCONT)
WHERE = (stacks.ASKED,) if hasattr(signal, "SIGRTMIN") else ()  # a person's, who took the keeper for its trainer
MOMENT_S = 0.5


class Listening:
    """Notes signals from the moment it is made to the end of the process, and wakes whoever selects on `fileno`.

    Never lets go of them again: a signal that comes while the process leaves must not change how it ends. What was
    ignored by whoever started us (nohup, a shell's `&`) stays ignored.
    """

    def __init__(self) -> None:
        self.stop: str | None = None  # the first signal that asked to stop
        self.is_asked_again = False  # to leave at once
        self._is_warned = self._is_asked_where = False
        self.is_paused = False
        self._stopped_at = 0.0
        self._wakeup, self._waking = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        for number in (*STOP, *SAVE, *PAUSE, *WHERE):
            if signal.getsignal(number) is not signal.SIG_IGN:
                signal.signal(number, self._note)
        signal.set_wakeup_fd(self._waking, warn_on_full_buffer=False)

    @property
    def asked(self) -> int:
        """How often somebody has asked to stop: 0, 1, or 2, to leave at once."""
        return (self.stop is not None) + self.is_asked_again

    def fileno(self) -> int:
        return self._wakeup

    def wake(self) -> None:
        """From any thread."""
        with contextlib.suppress(BlockingIOError):
            os.write(self._waking, b"\0")

    def drain(self) -> None:
        """Forget that somebody woke us."""
        with contextlib.suppress(BlockingIOError):
            os.read(self._wakeup, 4096)

    def take_warning(self) -> bool:
        """Whether a scheduler has warned since this was asked last: the next trainer makes no version of it too."""
        was_warned, self._is_warned = self._is_warned, False
        return was_warned

    def take_question(self) -> bool:
        """Whether somebody has asked, since this was asked last, where the trainer is."""
        was_asked, self._is_asked_where = self._is_asked_where, False
        return was_asked

    def ignore(self) -> None:
        """The end is decided. An interpreter that ends gives back the signals that it handles, not those it ignores."""
        for number in (*STOP, *SAVE, *PAUSE, *WHERE):
            signal.signal(number, signal.SIG_IGN)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if number in SAVE:
            self._is_warned = True
        elif number in WHERE:
            self._is_asked_where = True
        elif number in PAUSE:
            self.is_paused = number == signal.SIGTSTP
        elif self.stop is None:
            self.stop, self._stopped_at = signal.Signals(number).name, time.monotonic()
        elif number in AGAIN and time.monotonic() - self._stopped_at > MOMENT_S:
            self.is_asked_again = True


def outlast_warnings() -> None:
    """What a scheduler sends to every process of a job ends none that has nothing to save; who has, listens.

    A handler, since what is ignored is never listened to, and stays ignored in programs that are started.
    """
    for number in SAVE:
        if signal.getsignal(number) == signal.SIG_DFL:
            signal.signal(number, lambda number, frame: None)


def forget_signals() -> None:
    """In a child that was just forked: the handlers of its keeper are not its own."""
    signal.set_wakeup_fd(-1)
    for number in (*STOP, *SAVE, *PAUSE, *WHERE):
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, signal.SIG_DFL)
