"""What tells whether a file's content is what it was, without reading it: its size, and when it was written.

Of a long list the disk is asked by several processes at once: this file, run as a program, which for that reason
imports nothing of ours. Threads were measured and take longer than one alone, since each answer is short.
"""

import os
import signal
import struct
import subprocess
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

STAMP = struct.Struct("<Qqq")  # size, times of the last write and of the last change in nanoseconds
SAME_BYTES = 16  # of it: size and time of the last write; a file that was moved and came back is the same
NO_STAMP = b"\xff" * STAMP.size  # what stands for none among many: no file is that large
FEW = 50_000  # names that one process is done with before others have begun
MOST_PROCESSES = 8
TOGETHER = 2000  # names


def stamp_of(path: str) -> bytes | None:
    """Size and times of a file's content; None where there is nothing to tell it by.

    The second time changes with every write, and cannot be set back by whoever copies times along.
    """
    stamp = _stamps([path])
    return None if stamp == NO_STAMP else stamp


def _stamps(paths: Sequence[str] | Sequence[bytes]) -> bytes:
    """Of each, end to end."""
    stat, pack, told = os.stat, STAMP.pack, []  # names of its own: there are millions of paths
    for path in paths:
        try:
            found = stat(path)
            told.append(pack(found.st_size, found.st_mtime_ns, found.st_ctime_ns))
        except (OSError, ValueError, struct.error):  # a name that no disk takes; a time beyond the year 2262
            told.append(NO_STAMP)
    return b"".join(told)


def stamps_of(folder: str, names: Sequence[str]) -> Iterator[bytes]:
    """The same of many, by names in a folder or absolute ones, in their order: end to end, some at a time.

    NO_STAMP stands for None.
    """
    answered = 0
    processes = min(os.cpu_count() or 1, MOST_PROCESSES)
    if processes > 1 and len(names) >= FEW and sys.executable:
        for told in _asked(folder, names, processes):
            answered += len(told) // STAMP.size
            yield told
    root = os.path.join(folder, "")
    for first in range(answered, len(names), TOGETHER):  # what no process answered costs time alone
        some = names[first : first + TOGETHER]
        yield _stamps([name if name[:1] == "/" else root + name for name in some])


def _asked(folder: str, names: Sequence[str], processes: int) -> Iterator[bytes]:
    """What processes answer, each of its share; ends early where one of them does."""
    share = -(-len(names) // processes)
    shares = [names[first : first + share] for first in range(0, len(names), share)]
    with ExitStack() as closing:
        try:
            children = [closing.enter_context(_begun(folder)) for _ in shares]
            pool = closing.enter_context(ThreadPoolExecutor(processes))
            for child in children:
                closing.callback(child.kill)  # first of all
            for told, asked in zip(pool.map(_answers, children, shares), shares, strict=True):
                if len(told) < len(asked) * STAMP.size:
                    return
                yield told
        except (OSError, ValueError):  # no process more, no room for one; a name that no disk takes
            return


def _begun(folder: str) -> "subprocess.Popen[bytes]":
    return subprocess.Popen(
        [sys.executable, "-I", "-S", __file__],
        cwd=folder,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        start_new_session=True,  # what is pressed at a terminal is for the program that waits
    )


def _answers(child: "subprocess.Popen[bytes]", names: Sequence[str]) -> bytes:
    """Raises: ValueError for a name that no disk takes."""
    asked = os.fsencode("\0".join(names))
    if asked.count(b"\0") != len(names) - 1:
        raise ValueError("a name holds a NUL")
    return child.communicate(asked)[0]


def _answer() -> None:
    """What such a process does; it ends with whoever asked."""
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    names = sys.stdin.buffer.read().split(b"\0")
    for first in range(0, len(names), TOGETHER):
        sys.stdout.buffer.write(_stamps(names[first : first + TOGETHER]))


if __name__ == "__main__":
    _answer()
