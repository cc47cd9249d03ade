"""Who is writing a run: a POSIX lock that the system drops when its holder dies, however it dies.

POSIX locks are the process's own: a forked child does not keep them. Closing any descriptor of the file in the holding
process would drop the lock, so the holder opens it once. Folders are locked in the other way, by descriptor: that lock
a forked child keeps, threads exclude each other, and it can be shared.
"""

import fcntl
import json
import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

from everstep.errors import UserError

BUSY = (BlockingIOError, PermissionError)


@dataclass(frozen=True, slots=True)
class LockHolder:
    """The process that writes a run."""

    pid: int
    host: str
    started_at: str
    command: str


class Busy(UserError):
    """Somebody else holds the lock."""

    def __init__(self, sentence: str, holder: LockHolder) -> None:
        super().__init__(sentence)
        self.holder = holder


@contextmanager
def locked(path: Path, run_name: str, command: str) -> Iterator[None]:
    """Hold the lock inside. Raises: Busy saying who holds it; nothing is changed then."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    try:
        try:
            fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BUSY:
            found = _read(descriptor)
            raise Busy(_busy(run_name, found), found) from None
        me = LockHolder(os.getpid(), platform.node(), datetime.now(UTC).isoformat(timespec="seconds"), command)
        os.ftruncate(descriptor, 0)
        with suppress(OSError):  # on a full disk there is a lock all the same, though without a name
            os.pwrite(descriptor, json.dumps(asdict(me)).encode(), 0)
        yield
        os.ftruncate(descriptor, 0)
    finally:
        os.close(descriptor)


@contextmanager
def folder_lock(folder: Path, operation: int) -> Iterator[bool]:
    """Hold a lock on a folder itself inside; yields whether it was to be had.

    Where the file system has no such locks, it always is. Raises: FileNotFoundError if the folder is gone.
    """
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        is_held = _flock(descriptor, operation)
        if not os.path.samestat(os.stat(folder), os.fstat(descriptor)):
            raise FileNotFoundError(folder)  # moved away while we waited
        yield is_held
    finally:
        os.close(descriptor)


def _flock(descriptor: int, operation: int) -> bool:
    try:
        fcntl.flock(descriptor, operation)
    except BlockingIOError:
        return False
    except OSError:
        return True
    return True


def holder(path: Path) -> LockHolder | None:
    """Who holds the lock now. Must not be asked by the holding process itself, whose lock it would drop."""
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except (FileNotFoundError, PermissionError):
        return None
    try:
        fcntl.lockf(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BUSY:
        return _read(descriptor)
    else:
        return None
    finally:
        os.close(descriptor)


def _read(descriptor: int) -> LockHolder:
    try:
        return LockHolder(**json.loads(os.pread(descriptor, 1 << 16, 0)))
    except (ValueError, TypeError):
        return LockHolder(0, "unknown host", "just now", "")


def _busy(run_name: str, found: LockHolder) -> str:
    return (
        f"Run {run_name} is being written by process {found.pid} on {found.host} since {found.started_at}. "
        f"Nothing was changed.\neverstep status {run_name} shows it, everstep stop {run_name} ends it."
    )
