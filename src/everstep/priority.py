"""Who goes first on the processors: what works beside a training stands behind it. Raises nothing.

A process in a session of its own needs two things for that. Kernels with autogroups, which every desktop has, share
processors between sessions first, each like one process, whatever is in it: niceness counts within a session alone.
Source: sched(7), "The autogroup feature".
"""

import contextlib
import os
import threading
import time
from pathlib import Path

NICENESS = 10  # at 19 work beside crawls, and costs a training more than it takes: decision 049
TRIES, AGAIN_S = 5, 0.11  # without privileges one session of all is changed every tenth of a second


def lower_thread(thread: int | None = None) -> None:
    """A thread stands behind, this one by default, with all that it will start; the kernel derives the priority of its
    writes from it.

    A person who is nicer already stays so: raising the priority again is nobody's right.
    """
    thread = threading.get_native_id() if thread is None else thread
    with contextlib.suppress(OSError):
        if os.getpriority(os.PRIO_PROCESS, thread) < NICENESS:
            os.setpriority(os.PRIO_PROCESS, thread, NICENESS)


def lower_session(leader: int | None = None) -> None:
    """A session stands behind all others, with whatever is in it.

    Args:
        leader: the process that began it, this one by default. One that did not begin its session changes nothing.
    """
    leader = os.getpid() if leader is None else leader
    with contextlib.suppress(OSError, ValueError):  # no such process any more; a kernel without such groups
        if os.getsid(leader) == leader:
            _lower_group(Path(f"/proc/{leader}/autogroup"))


def _lower_group(file: Path) -> None:
    """Raises: OSError."""
    words = file.read_text().split()  # /autogroup-12 nice 0; none in a group of processes, as a container has it
    if not words or int(words[-1]) >= NICENESS:
        return
    for _ in range(TRIES):
        try:
            file.write_text(str(NICENESS))
            return
        except BlockingIOError:
            time.sleep(AGAIN_S)
