"""Where an arena's memory comes from: the first of several places that really has the room.

Room is tested by taking it: writing through a map to a file system that is full is a fatal signal, not an error.
"""

import contextlib
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from everstep.errors import DamageFound
from everstep.keeping.arena import Arena, ArenaPlan
from everstep.keeping.sealed import rescue
from everstep.units import size
from everstep.versions.layout import identity_of
from everstep.versions.run import Run

SHARED_MEMORY = Path("/dev/shm")
PREFIX = "everstep-"
ARENA = "arena"
SLOTS = (3, 2)
RESERVE_SHARE, RESERVE_BYTES = 1 / 16, 512 << 20  # memory that is left to everything else

PlanFor = Callable[[int], ArenaPlan]


@dataclass(frozen=True, slots=True)
class Taken:
    """An arena, and in words where it is and why not elsewhere."""

    arena: Arena | None
    where: str


def take_memory(plan_for: PlanFor, ram_dir: Path | None, slots: tuple[int, ...] = SLOTS) -> Taken:
    """Make an arena: in ram_dir, in /dev/shm, or in a nameless memory file; with three slots, or two.

    Returns no arena where no memory can be had; commits are synchronous then.
    """
    reasons = []
    for count in slots:
        plan = plan_for(count)
        room = available_bytes()
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
            return Taken(arena, f"{_words(plan)} in {folder}, which outlives this program{_because(reasons)}")
        try:
            return Taken(_nameless(plan), f"{_words(plan)} in a nameless memory file{_because(reasons)}")
        except OSError as error:
            reasons.append(f"no memory file of {count} slots ({error.strerror})")
    return Taken(None, f"none, versions are written while training waits{_because(reasons)}")


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
        os.posix_fallocate(descriptor, 0, plan.size_bytes)
        arena = Arena.create(descriptor, plan, path)
    except OSError:
        os.close(descriptor)
        raise
    arena.prefault()
    return arena


def release(arena: Arena) -> None:
    """Give the memory back, its name included."""
    arena.close()
    if arena.path is not None:
        shutil.rmtree(arena.path.parent, ignore_errors=True)


def recover_arenas(run: Run, ram_dir: str | None) -> list[str]:
    """Commit what a keeper that died had in memory, then give the memory back. The run's lock has to be held.

    Returns a sentence for everything that was done. Raises: NotCommitted if the disk refuses; the arena stays.
    """
    done = []
    for arena in leftovers(run.path, Path(ram_dir).expanduser() if ram_dir else None):
        version, refused = rescue(run, arena)
        done += refused
        if version is not None:
            done.append(f"Rescued {version.name} (step {version.step:,}) from memory in {arena.path}.")
        release(arena)
    return done


def leftovers(run: Path, ram_dir: Path | None) -> Iterator[Arena]:
    """Arenas of a run whose trainer and keeper are gone. Those of runs that are gone too are removed on the way."""
    for folder in {folder for folder in (ram_dir, SHARED_MEMORY) if folder is not None and folder.is_dir()}:
        for path in sorted(folder.glob(f"{PREFIX}*/{ARENA}")):
            arena = _attached(path)
            if arena is None:
                continue
            is_there = arena.plan.identity == identity_of(Path(arena.plan.run)) and Path(arena.plan.run).exists()
            if arena.plan.run == str(run) and is_there:
                yield arena
                continue
            arena.close()
            if not is_there:
                shutil.rmtree(path.parent, ignore_errors=True)


def _attached(path: Path) -> Arena | None:
    """Only what is ours: a file of another user is nobody we believe."""
    with contextlib.suppress(OSError, DamageFound):
        if path.stat().st_uid == os.getuid():
            return Arena.attach(os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW), path)
    return None


def available_bytes() -> int | None:
    """Memory that can be taken without pressing anybody; None where the system does not say."""
    try:
        facts = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
        total, free = (int(facts[name].split()[0]) << 10 for name in ("MemTotal", "MemAvailable"))
    except (OSError, KeyError, ValueError):
        return None
    limit = _group_bytes()
    if limit is not None:
        total, free = min(total, limit[0]), min(free, limit[0] - limit[1])
    return max(0, int(free - max(RESERVE_BYTES, total * RESERVE_SHARE)))


def _group_bytes() -> tuple[int, int] | None:
    """Limit and use of the control group, version 2, where there is a limit."""
    for folder in (Path("/sys/fs/cgroup"),):
        with contextlib.suppress(OSError, ValueError):
            limit = int((folder / "memory.max").read_text())
            return limit, int((folder / "memory.current").read_text())
    return None


def _words(plan: ArenaPlan) -> str:
    return f"{plan.slots} slots, {size(plan.size_bytes)}"


def _because(reasons: list[str]) -> str:
    return f" ({'; '.join(reasons)})" if reasons else ""
