"""Locks that belong to an open file, not to a process: held over fork and exec, until the last descriptor is closed.

Open-file-description locks where the system has them: they and POSIX locks exclude each other, and over NFS they reach
other hosts. Else flock. Knows descriptors only; whose lock it is, `holder.py` tells.
"""

import errno
import fcntl
import struct
from collections.abc import Callable

SET, ASK = (getattr(fcntl, name, None) for name in ("F_OFD_SETLK", "F_OFD_GETLK"))
FLOCK_C = "hhqqi0q"  # C's struct flock: type, whence, start, length, pid
HELD_BY_ANOTHER = (errno.EAGAIN, errno.EACCES)
NO_LOCKS = (errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS)


def take(descriptor: int) -> bool | None:
    """Take the lock: True if it is held now, False if somebody else has it, None if the file system has no locks.

    Taking what this open file holds already does nothing.
    """
    return _first(lambda: _record(descriptor, fcntl.F_WRLCK), lambda: _flock(descriptor, fcntl.LOCK_EX))


def is_free(descriptor: int) -> bool | None:
    """Whether nobody holds the lock through another open file; None if the file system has no locks.

    Nothing is taken where the system can be asked. A flock has to be tried; a writer that comes just then tries again.
    """
    return _first(lambda: _ask(descriptor), lambda: _flock(descriptor, fcntl.LOCK_SH))


def drop(descriptor: int) -> None:
    """Give the lock back, for everyone who shares the open file."""
    _first(lambda: _record(descriptor, fcntl.F_UNLCK), lambda: _flock(descriptor, fcntl.LOCK_UN))


def _first(record: Callable[[], bool], flock: Callable[[], bool]) -> bool | None:
    """What the first kind of lock answers that the system and the file system have."""
    for attempt in (flock,) if SET is None else (record, flock):
        try:
            return attempt()
        except OSError as error:
            if error.errno in HELD_BY_ANOTHER:
                return False
            if error.errno not in (*NO_LOCKS, errno.EINVAL):  # EINVAL: a kernel that does not know this kind
                raise
    return None


def _record(descriptor: int, kind: int) -> bool:
    assert SET is not None
    fcntl.fcntl(descriptor, SET, struct.pack(FLOCK_C, kind, 0, 0, 0, 0))
    return True


def _ask(descriptor: int) -> bool:
    assert ASK is not None
    # As a reader would ask: an older Everstep that looks who writes holds a reader's lock for a moment.
    answer = fcntl.fcntl(descriptor, ASK, struct.pack(FLOCK_C, fcntl.F_RDLCK, 0, 0, 0, 0))
    return int(struct.unpack(FLOCK_C, answer)[0]) == fcntl.F_UNLCK


def _flock(descriptor: int, operation: int) -> bool:
    fcntl.flock(descriptor, operation | fcntl.LOCK_NB)
    return True
