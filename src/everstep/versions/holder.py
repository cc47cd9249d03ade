"""Who holds a lock, as its file says: for people, and to decide only where the file system has no locks at all."""

import contextlib
import json
import os
import platform
import time
from dataclasses import asdict, dataclass, fields, replace
from datetime import UTC, datetime

from everstep.places import as_word

TRIES, PAUSE_S = 5, 0.02  # for one who is just writing it


@dataclass(frozen=True, slots=True)
class LockHolder:
    """The process that holds a lock: of a run its keeper, and beside it the trainer, which holds it too."""

    pid: int
    host: str
    started_at: str
    command: str
    trainer: int | None = None
    pid_born: int = 0  # when the process began, as the kernel counts: another one with its number is not it
    trainer_born: int = 0

    @classmethod
    def me(cls, command: str) -> "LockHolder":
        pid = os.getpid()
        now = datetime.now(UTC).isoformat(timespec="seconds")
        return cls(pid, platform.node(), now, command, pid_born=_birth(pid) or 0)

    def with_trainer(self, pid: int | None) -> "LockHolder":
        return replace(self, trainer=pid, trainer_born=0 if pid is None else _birth(pid) or 0)

    @property
    def is_here(self) -> bool:
        return self.host == platform.node()

    @property
    def is_alive(self) -> bool | None:
        """Whether the process lives; None if it is another host's, or of another container there."""
        return _lives(self.pid, self.pid_born) if self.is_here else None

    @property
    def trainer_is_alive(self) -> bool | None:
        if self.trainer is None:
            return False
        return _lives(self.trainer, self.trainer_born) if self.is_here else None

    def lives_beside(self, pid: int) -> bool:
        """Whether one of the two is alive on this host, this process left out."""
        keeper, trainer = self.is_alive and self.pid != pid, self.trainer_is_alive and self.trainer != pid
        return bool(keeper or trainer)


UNKNOWN = LockHolder(0, "unknown host", "just now", "")


def read_holder(descriptor: int) -> LockHolder | None:
    """What the lock's file says; None if it cannot be read. A later Everstep's fields are ignored."""
    known = {field.name for field in fields(LockHolder)}
    for attempt in range(TRIES):
        try:
            content = json.loads(os.pread(descriptor, 1 << 16, 0))
            return LockHolder(**{name: value for name, value in content.items() if name in known})
        except (ValueError, TypeError, AttributeError):
            if attempt < TRIES - 1:
                time.sleep(PAUSE_S)
    return None


def write_holder(descriptor: int, holder: LockHolder) -> None:
    """Say who holds the lock. On a full disk there is a lock all the same, though without a name."""
    content = json.dumps(asdict(holder)).encode()
    with contextlib.suppress(OSError):
        os.pwrite(descriptor, content, 0)
        os.ftruncate(descriptor, len(content))


def in_words(run_name: str, found: LockHolder) -> str:
    """Why a second writer is refused, and what to do."""
    if found == UNKNOWN:
        return f"Run {run_name} is being written by another process, which has not said who it is. Nothing was changed."
    since = f"on {found.host} since {found.started_at}"
    trainer = "" if found.trainer is None else f", its trainer is process {found.trainer}"
    ends_it = f"everstep stop {as_word(run_name)} ends it cleanly"
    if found.is_alive is False and found.trainer_is_alive:
        return (
            f"Run {run_name} is still being written by process {found.trainer} {since}: a trainer whose keeper, "
            f"process {found.pid}, died. Nothing was changed.\n"
            "It saves and ends by itself in a moment; the same command goes on from there then."
        )
    if found.is_here and not found.is_alive:
        return (
            f"Run {run_name} is being written by a process that process {found.pid} {since} left behind, or by one in "
            f"another container. Nothing was changed.\n{ends_it}, if it trains."
        )
    told = f"Run {run_name} is being written by process {found.pid} {since}{trainer}. Nothing was changed.\n"
    if found.is_here:
        return f"{told}{ends_it}; everstep status {as_word(run_name)} shows it."
    return f"{told}{ends_it}, from here too; it can be looked at only on {found.host}."


def _lives(pid: int, born: int) -> bool:
    found = _birth(pid)
    return found is not None and (found == born or 0 in (found, born))


def _birth(pid: int) -> int | None:
    """When a process began, in ticks of the kernel; 0 where that cannot be told, None if no such process lives."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            fields_after_name = file.read().rpartition(b")")[2].split()
    except OSError:
        return 0 if _exists(pid) else None
    # One that was killed and not yet waited for still has its number, but holds nothing any more.
    return None if fields_after_name[0] in (b"Z", b"X") else int(fields_after_name[19])


def _exists(pid: int) -> bool:
    try:
        if pid > 0:  # others mean groups of processes
            os.kill(pid, 0)
    except PermissionError:
        return True
    except OSError:
        return False
    return pid > 0
