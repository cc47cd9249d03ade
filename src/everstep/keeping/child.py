"""The process that trains, as its keeper holds it: forked, started as a command, or found running already."""

import contextlib
import os
import select
import signal
import sys
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from everstep.errors import EverstepError, ExitCode
from everstep.keeping import stacks
from everstep.keeping.channel import Channel
from everstep.keeping.signals import SAVE, forget_signals
from everstep.places import refused

Main = Callable[[Channel], int]


@dataclass(frozen=True, slots=True)
class Child:
    """A process and a handle of it, which means this process alone, whoever gets its number later."""

    pid: int
    handle: int
    is_ours: bool = True  # a child of this process, so that its exit code can be had
    hears_signals: bool = True  # SIGTERM asks it to stop, and does not end it

    @classmethod
    def of(cls, pid: int, is_ours: bool = True, hears_signals: bool = True) -> "Child":
        """Raises: ProcessLookupError if it has ended and is nobody's any more."""
        return cls(pid, os.pidfd_open(pid), is_ours, hears_signals and is_ours)

    @property
    def has_ended(self) -> bool:
        return bool(select.select([self.handle], [], [], 0)[0])

    def signal(self, number: int) -> None:
        """Nothing happens if it has ended."""
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(self.handle, number)

    def end(self) -> int | None:
        """Wait for its end. Returns its exit code, or minus the signal that ended it; None for nobody's child, which
        is not waited for.
        """
        if not self.is_ours:
            os.close(self.handle)
            return None
        select.select([self.handle], [], [])
        os.close(self.handle)
        with contextlib.suppress(ChildProcessError):
            return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        return None


def fork(main: Main, ours: Channel, theirs: Channel, written: Path, kind: type[Child] = Child) -> Child:
    """Begin a trainer as a child of this process, which must have no threads and no PyTorch.

    Args:
        main: trains, and returns the exit code.
        written: the file into which it writes its stacks, when it is asked to (`stacks.py`).
        kind: how it is held.
    """
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()  # else both processes would write what is left in it
    pid = os.fork()
    if pid == 0:
        ours.close()
        _become_trainer(main, theirs, written)
    theirs.close()
    return kind.of(pid)


def _become_trainer(main: Main, channel: Channel, written: Path) -> NoReturn:
    """Train, and leave with the code. Its own group, so that a terminal's Ctrl-C reaches it once, from the keeper."""
    code = int(ExitCode.BUG)
    try:
        os.setpgid(0, 0)
        forget_signals()
        # Schedulers warn every process of a job, a terminal with tostop stops whoever writes from the background:
        # both are the keeper's to hear.
        for number in (*SAVE, signal.SIGTTOU):
            signal.signal(number, signal.SIG_IGN)
        stacks.prepare(written)
        code = int(main(channel))
    except EverstepError as error:
        code = int(error.exit_code)
        _complain(str(error))
    except BaseException as error:
        told = refused(error) if isinstance(error, OSError) else None
        if told is not None:
            code = int(told.exit_code)
        _complain(
            str(told)
            if told is not None
            else f"{traceback.format_exc()}\nThis is a bug in Everstep, or in a library; versions on disk are whole."
        )
    finally:
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError, ValueError):
                stream.flush()
        os._exit(code)


def _complain(text: str) -> None:
    with contextlib.suppress(OSError, ValueError):  # whoever looked on is gone; the code still tells
        print(text, file=sys.stderr)
