"""Where an arena's memory comes from, and what lies there: the first of several places that really has the room.

Room is tested by taking it: writing through a map to a file system that is full is a fatal signal, not an error. What
lies there is never removed while it holds a state that no version has, whatever run it is of.
"""

import contextlib
import fcntl
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from everstep.errors import DamageFound
from everstep.keeping.arena import Arena, ArenaPlan
from everstep.keeping.room import available_bytes, logs_out_with_memory
from everstep.units import size

SHARED_MEMORY = Path("/dev/shm")
PREFIX, DAMAGED = "everstep-", "everstep-damaged-"
ARENA = "arena"
SLOTS = (3, 2)
COPY_BYTES = 1 << 30
TRIES, PAUSE_S = 5, 0.02  # a lock that is only looked at is free in a moment

PlanFor = Callable[[int], ArenaPlan]


@dataclass(frozen=True, slots=True)
class Taken:
    """An arena, and in words where it is and why not elsewhere."""

    arena: Arena | None
    where: str


# --- taking it ---------------------------------------------------------------------------------------------


def take_memory(
    plan_for: PlanFor, ram_dir: Path | None, slots: tuple[int, ...] = SLOTS, coming_bytes: int = 0
) -> Taken:
    """Make an arena: in ram_dir, in /dev/shm, or in a nameless memory file; with three slots, or two.

    Args:
        coming_bytes: what the trainer will need beside it, and has not taken yet.

    Returns no arena where no memory can be had; commits are synchronous then.
    """
    reasons = []
    for count in slots:
        plan = plan_for(count)
        room = _room(coming_bytes)
        if room is not None and plan.size_bytes > room:
            reasons.append(f"{count} slots need {size(plan.size_bytes)}, memory has {size(room)} to spare")
            continue
        for folder in (ram_dir, SHARED_MEMORY):
            if folder is None or not folder.is_dir():
                continue
            try:
                arena = _named(plan, folder)
            except OSError as error:
                reasons.append(f"{folder} has no room for {count} slots ({error.strerror})")
                continue
            lasts = "until you log out" if logs_out_with_memory(folder) else "which outlives this program"
            return Taken(arena, f"{_words(plan)} in {folder}, {lasts}{_because(reasons)}")
        try:
            return Taken(_nameless(plan), f"{_words(plan)} in a nameless memory file{_because(reasons)}")
        except OSError as error:
            reasons.append(f"no memory file of {count} slots ({error.strerror})")
    return Taken(None, f"none, versions are written while training waits{_because(reasons)}")


def _room(coming_bytes: int) -> int | None:
    available = available_bytes()
    return None if available is None else max(0, available - coming_bytes)


def _named(plan: ArenaPlan, folder: Path) -> Arena:
    home = Path(tempfile.mkdtemp(prefix=PREFIX, dir=folder))  # mode 0700
    try:
        descriptor = os.open(home / ARENA, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        return _filled(descriptor, plan, home / ARENA)
    except OSError:
        shutil.rmtree(home, ignore_errors=True)
        raise


def _nameless(plan: ArenaPlan) -> Arena:
    return _filled(os.memfd_create("everstep-arena", os.MFD_CLOEXEC), plan, None)


def _filled(descriptor: int, plan: ArenaPlan, path: Path | None) -> Arena:
    try:
        # Held by the open file, which trainers inherit: as long as anybody uses the memory, nobody takes it for left.
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.posix_fallocate(descriptor, 0, plan.size_bytes)
        return Arena.create(descriptor, plan, path)
    except OSError:
        os.close(descriptor)
        raise


def release(arena: Arena) -> None:
    """Give the memory back, its name included. Whatever it holds is gone: ask `ending.settle`, which knows."""
    arena.close()
    if arena.path is not None:
        shutil.rmtree(arena.path.parent, ignore_errors=True)


def shelter(arena: Arena) -> Path | None:
    """Copy memory without a name into a file that has one, so that it outlives this process. None where none has room.

    Crash: a folder whose arena has no magic yet, which the next start removes.
    """
    for folder in shelters():
        home = None
        try:
            folder.mkdir(parents=True, exist_ok=True)
            home = Path(tempfile.mkdtemp(prefix=PREFIX, dir=folder))
            descriptor = os.open(home / ARENA, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            with contextlib.closing(os.fdopen(descriptor, "r+b", buffering=0)):
                os.posix_fallocate(descriptor, 0, arena.plan.size_bytes)
                _copy(arena, descriptor)
            return home / ARENA
        except OSError:
            if home is not None:
                shutil.rmtree(home, ignore_errors=True)
    return None


def _copy(arena: Arena, descriptor: int) -> None:
    offset = 8  # the magic comes last
    while offset < arena.plan.size_bytes:
        offset += os.pwrite(descriptor, os.pread(arena.descriptor, COPY_BYTES, offset), offset)
    os.fsync(descriptor)
    os.pwrite(descriptor, os.pread(arena.descriptor, 8, 0), 0)
    os.fsync(descriptor)


def shelters() -> tuple[Path, ...]:
    """Folders on disks, for memory that has no name when its keeper must go."""
    return Path("/var/tmp"), Path(tempfile.gettempdir())


# --- what lies there ---------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Found:
    """Memory that lies somewhere, as far as it can be told without touching it."""

    path: Path  # of its folder: removing it drops the memory
    run: str | None  # absolute path of the run it is of; None where it cannot be read
    identity: str
    size_bytes: int
    is_used: bool  # a keeper or trainer lives
    step: int | None  # of the newest whole state in it
    nonce: str = ""
    generation: int = 0
    why: str = ""  # it cannot be read


def lying_about(ram_dir: Path | None) -> list[Found]:
    """All memory of ours, of whatever run, in use or left."""
    return [_look(path) for path in _paths(ram_dir) if _is_ours(path)]


def leftovers(run: Path, identity: str, ram_dir: Path | None) -> Iterator[Arena]:
    """Memory of this run that nobody uses, opened and locked. What cannot be read is set aside on the way."""
    for path in _paths(ram_dir):
        try:
            arena = _attached(path)
        except DamageFound:
            _set_aside(path)
            continue
        except OSError:
            continue
        if arena is None:
            continue
        if is_of(arena.plan.run, arena.plan.identity, run, identity):
            yield arena
        elif arena.newest() is None:
            release(arena)  # nothing was ever sealed in it
        else:
            leave(arena)


def is_of(made_for: str, its_identity: str, run: Path, identity: str) -> bool:
    """A run that was moved takes its identity along; one that was deleted leaves its place to another."""
    is_here = made_for == str(run)
    return its_identity == identity and (is_here or (bool(identity) and not Path(made_for).exists()))


def leave(arena: Arena) -> None:
    """Let go of leftover memory that stays where it is, so that the next start finds it in nobody's use."""
    # The map holds the open file as long as anything looks at it, and with it the lock.
    fcntl.flock(arena.descriptor, fcntl.LOCK_UN)
    arena.close()


def _paths(ram_dir: Path | None) -> list[Path]:
    folders = {folder for folder in (ram_dir, SHARED_MEMORY, *shelters()) if folder is not None and folder.is_dir()}
    found = []
    for folder in sorted(folders):
        with contextlib.suppress(OSError):
            found += sorted(folder.glob(f"{PREFIX}*/{ARENA}"))
    return found


def _attached(path: Path) -> Arena | None:
    """Only what is ours, and in nobody's use. Raises: DamageFound, OSError."""
    if not _is_ours(path) or path.parent.name.startswith(DAMAGED):
        return None
    descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
    try:
        if _takes(descriptor):
            return Arena.attach(descriptor, path)
        os.close(descriptor)
        return None
    except BaseException:
        os.close(descriptor)
        raise


def _is_ours(path: Path) -> bool:
    """A file of another user is nobody we believe."""
    try:
        return path.stat().st_uid == os.getuid()
    except OSError:
        return False


def _takes(descriptor: int) -> bool:
    """Whoever only looks, as everstep status does, holds the lock for a moment: a start must not take that for use."""
    for _ in range(TRIES):
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        except BlockingIOError:
            time.sleep(PAUSE_S)
    return False


def _look(path: Path) -> Found:
    descriptor = -1
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
        taken = os.fstat(descriptor).st_blocks * 512
        is_used = _is_used(descriptor)
        arena = Arena.attach(descriptor, path)
    except (OSError, DamageFound) as error:
        if descriptor >= 0:
            os.close(descriptor)
        return Found(path.parent, None, "", 0, False, None, why=str(error))
    newest, plan = arena.newest(), arena.plan
    try:
        step = None if newest is None else int(newest.notes()["step"])
        generation = 0 if newest is None else newest.generation
        return Found(path.parent, plan.run, plan.identity, taken, is_used, step, plan.nonce, generation)
    except (DamageFound, KeyError) as error:
        return Found(path.parent, plan.run, plan.identity, taken, is_used, None, plan.nonce, why=str(error))
    finally:
        arena.close()


def _is_used(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    fcntl.flock(descriptor, fcntl.LOCK_UN)
    return False


def _set_aside(path: Path) -> None:
    """Nothing reads it any more; nothing deletes it either: somebody may still find a use for its bytes.

    Memory without a magic was never finished by its maker, and holds nothing.
    """
    with contextlib.suppress(OSError):
        with path.open("rb") as file:
            is_unfinished = file.read(8) in (b"", bytes(8))
        if is_unfinished:
            shutil.rmtree(path.parent, ignore_errors=True)
        else:
            path.parent.rename(path.parent.with_name(DAMAGED + path.parent.name.removeprefix(PREFIX)))


def _words(plan: ArenaPlan) -> str:
    return f"{plan.slots} slots, {size(plan.size_bytes)}"


def _because(reasons: list[str]) -> str:
    return f" ({'; '.join(reasons)})" if reasons else ""
