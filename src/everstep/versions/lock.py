"""Who is writing a run: a lock that lives as long as the keeper or the trainer, and that the system drops after both.

The lock belongs to the open file, so whoever inherits the descriptor holds it too. Leaving only closes the descriptor.
Folders are locked by flock: that can be shared, and threads exclude each other.
"""

import fcntl
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from everstep.contracts import Report
from everstep.errors import UserError
from everstep.versions import ofd
from everstep.versions.holder import UNKNOWN, LockHolder, in_words, read_holder, write_holder
from everstep.versions.layout import RunLayout
from everstep.versions.live import read_live
from everstep.versions.reach import reaching, writing

TRIES, PAUSE_S = 5, 0.02  # a lock that is only looked at, or cleared, is free in a moment
SEEN_S = 60.0  # a training on another host that told so lately where it is counts as alive


class Busy(UserError):
    """Somebody else holds the lock."""

    def __init__(self, sentence: str, holder: LockHolder) -> None:
        super().__init__(sentence)
        self.holder = holder


class Gone(UserError):
    """The run was taken back while its lock was waited for: the start that had made it came to nothing."""


@dataclass(slots=True)
class Held:
    """A lock as its holder has it. The descriptor holds it, in every process that inherits it."""

    descriptor: int
    holder: LockHolder

    def tell_trainer(self, pid: int | None) -> None:
        """Say in the lock's file which process is the trainer, for those who are refused."""
        self.holder = self.holder.with_trainer(pid)
        write_holder(self.descriptor, self.holder)
        with suppress(OSError):
            os.fsync(self.descriptor)  # for those who read it on another host

    def let_go(self) -> None:
        """Give the lock back, children that inherited it included: none of them writes."""
        with suppress(OSError):
            ofd.drop(self.descriptor)


def aloud(sentence: str) -> None:
    """A report to whoever reads standard error."""
    with suppress(OSError):
        print(sentence, file=sys.stderr)


@contextmanager
def locked(path: Path, run_name: str, command: str, report: Report = aloud) -> Iterator[Held]:
    """Hold the lock inside. Leaving closes the descriptor; a child that has it goes on holding the lock.

    Where the file system has no locks it goes on all the same and says so, unless somebody is seen at work.

    Raises: Busy saying who holds it, Gone, UserError where it may not be written, UnreachableDisk; nothing is changed.
    """
    descriptor = _taken(path, run_name, report)
    with _holding(descriptor, path, LockHolder.me(command)) as held:
        yield held


@contextmanager
def adopted(descriptor: int, path: Path, run_name: str, command: str) -> Iterator[Held]:
    """Hold a lock through the descriptor that another process handed on; it is closed at the end.

    The file then names this process as the trainer, or as the holder where the one that is named has died.

    Raises: Busy if the lock was let go meanwhile and somebody else has it; UserError if the descriptor is another's.
    """
    if not _is_open_as(descriptor, path):
        raise UserError(f"Descriptor {descriptor} is not the lock of {run_name}. Nothing was changed.")
    before = read_holder(descriptor)
    # Taking what the open file holds already does nothing; without locks, who handed it on would be in our way.
    if ofd.take(descriptor) is False:
        raise Busy(in_words(run_name, before or UNKNOWN), before or UNKNOWN)
    is_trainer = before is not None and before.is_alive and before.pid != os.getpid()
    me = before.with_trainer(os.getpid()) if before is not None and is_trainer else LockHolder.me(command)
    with _holding(descriptor, path, me) as held:
        yield held


def _is_open_as(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), os.stat(path))
    except OSError:
        return False


@contextmanager
def _holding(descriptor: int, path: Path, holder: LockHolder) -> Iterator[Held]:
    held = Held(descriptor, holder)
    try:
        write_holder(descriptor, holder)
        yield held
    finally:
        os.close(descriptor)
        with suppress(OSError):
            _clear(path)


def _clear(path: Path) -> None:
    """Empty the lock's file, unless a child or somebody new holds the lock."""
    descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    try:
        is_ours = ofd.take(descriptor)
        if is_ours is None:
            found = read_holder(descriptor)
            is_ours = found is None or not found.lives_beside(os.getpid())
        if is_ours:
            os.ftruncate(descriptor, 0)
    finally:
        os.close(descriptor)


def _taken(path: Path, run_name: str, report: Report) -> int:
    with reaching(path):
        try:
            with writing(path, f"{run_name} cannot be written to"):
                descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        except FileNotFoundError:
            raise Gone(f"{run_name} is not there any more. Nothing was changed.") from None
        try:
            _take(descriptor, path, run_name, report)
            if not _is_open_as(descriptor, path):
                raise Gone(f"{run_name} is not there any more. Nothing was changed.")
        except BaseException:
            os.close(descriptor)
            raise
    return descriptor


def _take(descriptor: int, path: Path, run_name: str, report: Report) -> None:
    for _ in range(TRIES):
        is_held = ofd.take(descriptor)
        if is_held is None:
            found = _seen_at_work(descriptor, path)
            if found is not None:
                raise Busy(in_words(run_name, found), found)
            report(f"{path.parent} has no file locks: nothing can keep a second process from writing {run_name} too.")
        if is_held is not False:
            return
        time.sleep(PAUSE_S)
    found = read_holder(descriptor) or UNKNOWN
    raise Busy(in_words(run_name, found), found)


def _seen_at_work(descriptor: int, path: Path) -> LockHolder | None:
    """Where there are no locks: a process of this host that lives, or a training on another that told lately."""
    found, live = read_holder(descriptor), read_live(RunLayout(path.parent))
    if found is not None and (found.is_alive or found.trainer_is_alive):
        return found
    if live is None or live.state != "running" or abs(time.time() - live.updated_at) > SEEN_S:
        return None
    seen_at = datetime.fromtimestamp(live.updated_at, UTC).isoformat(timespec="seconds")
    seen = LockHolder(live.pid, live.host, f"at least {seen_at}", "")
    return None if seen.is_here else seen


def holder(path: Path) -> LockHolder | None:
    """Who holds the lock now. May be asked from everywhere, by the holding process too. Raises: UnreachableDisk."""
    with reaching(path):
        return _holder(path)


def _holder(path: Path) -> LockHolder | None:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except (FileNotFoundError, PermissionError):
        return None
    try:
        is_free = ofd.is_free(descriptor)
        if is_free is None:
            return _seen_at_work(descriptor, path)
        return None if is_free else read_holder(descriptor) or UNKNOWN
    finally:
        os.close(descriptor)


@contextmanager
def folder_lock(folder: Path, operation: int) -> Iterator[bool]:
    """Hold a lock on a folder itself inside; yields whether it was to be had.

    A shared lock is kept by children that inherit it, the only one is not. Where the file system has no such locks, it
    always is to be had. Raises: FileNotFoundError if the folder is gone.
    """
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        is_held = _flock(descriptor, operation)
        if not os.path.samestat(os.stat(folder), os.fstat(descriptor)):
            raise FileNotFoundError(folder)  # moved away while we waited
        yield is_held
    finally:
        if operation & fcntl.LOCK_EX:  # a child that another thread forked meanwhile must not go on holding it
            _flock(descriptor, fcntl.LOCK_UN)
        os.close(descriptor)


def _flock(descriptor: int, operation: int) -> bool:
    try:
        fcntl.flock(descriptor, operation)
    except BlockingIOError:
        return False
    except OSError:
        return True
    return True
