"""Where a trainer is, asked from outside: the stacks of its threads, in a file.

Not by a signal's handler that writes them at once: walking the stacks of threads that run ends the process with
SIGSEGV now and then, after tens of asks where a thread recurses. A thread of its own writes them, which holds the
interpreter's lock meanwhile, so that no stack moves. Where something hangs with that lock, nothing moves either, and a
handler may.
"""

import contextlib
import faulthandler
import fcntl
import os
import signal
import threading
from pathlib import Path
from typing import TextIO

# That no scheduler, terminal or launcher sends; SIGUSR1, say, a scheduler's warning, goes to all processes of a job.
ASKED = getattr(signal, "SIGRTMIN", 0) + 10  # where there are none, nor is there a keeper
ASKED_AGAIN = ASKED + 1  # nothing was written: somebody holds the interpreter's lock
NAME = "stacks.txt"
_file: TextIO | None = None


def prepare(path: Path) -> None:
    """In a process without threads yet: asking costs it nothing from now on, also where no file can be opened."""
    global _file
    signal.pthread_sigmask(signal.SIG_BLOCK, (ASKED,))  # of all threads to come, and of all processes
    signal.signal(ASKED_AGAIN, signal.SIG_IGN)
    with contextlib.suppress(OSError):  # a disk that takes no stacks still takes versions, or memory does
        _file = path.open("w")
        faulthandler.register(ASKED_AGAIN, _file)


def listen() -> None:
    """Write them whenever this process is asked; one that was not prepared does nothing."""
    if _file is not None:
        threading.Thread(target=_listen, args=(_file,), name="everstep-stacks", daemon=True).start()


def _listen(file: TextIO) -> None:
    while True:
        signal.sigwait((ASKED,))
        with contextlib.suppress(OSError):
            fcntl.lockf(file, fcntl.LOCK_EX)  # ranks share the file
            os.write(file.fileno(), f"Process {os.getpid()}:\n".encode())
            faulthandler.dump_traceback(file)
            fcntl.lockf(file, fcntl.LOCK_UN)
