"""How much memory may be taken here: the machine's, or the smallest limit of the control groups that we are in."""

import contextlib
import os
import pwd
from collections.abc import Iterator
from pathlib import Path

from everstep import heap

RESERVE_SHARE, RESERVE_BYTES = 1 / 16, 512 << 20  # memory that is left to everything else
GROUPS, OWN_GROUPS = Path("/sys/fs/cgroup"), Path("/proc/self/cgroup")
UNLIMITED = 1 << 60  # version 1 writes "no limit" as a number near 2 ** 63
FIRST_USER = 1000  # systemd takes users from here on for people


def available_bytes() -> int | None:
    """Memory that can be taken without pressing anybody; None where the system does not say."""
    heap.give_back()  # what is kept for the next step is in nobody's use now
    try:
        facts = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
        total, free = (int(facts[name].split()[0]) << 10 for name in ("MemTotal", "MemAvailable"))
    except (OSError, KeyError, ValueError):
        return None
    for limit, used in group_limits():
        total, free = min(total, limit), min(free, limit - used)
    return max(0, int(free - max(RESERVE_BYTES, total * RESERVE_SHARE)))


def group_limits() -> Iterator[tuple[int, int]]:
    """Limit and use of every control group that this process is in, both versions, the nested ones included."""
    try:
        lines = OWN_GROUPS.read_text().splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, place = line.split(":", 2)
        if not controllers:
            yield from _limits(GROUPS, place, "memory.max", "memory.current")
        elif "memory" in controllers.split(","):
            yield from _limits(GROUPS / "memory", place, "memory.limit_in_bytes", "memory.usage_in_bytes")


def _limits(root: Path, place: str, limit: str, used: str) -> Iterator[tuple[int, int]]:
    # Within a container the path of the group may be that of the host, which is not mounted here: the root still is.
    here = root / place.lstrip("/")
    for folder in (here, *here.parents):
        with contextlib.suppress(OSError, ValueError):
            most, now = (int((folder / name).read_text()) for name in (limit, used))
            if most < UNLIMITED:
                yield most, now
        if folder == root:
            return


def logs_out_with_memory(folder: Path) -> bool:
    """Whether what a person leaves in shared memory is removed when they log out, as systemd does unless told."""
    if not folder.is_relative_to("/dev/shm") or os.getuid() < FIRST_USER or not Path("/run/systemd/system").is_dir():
        return False
    try:
        name = pwd.getpwuid(os.getuid()).pw_name
        settings = Path("/etc/systemd/logind.conf").read_text().lower()
    except (KeyError, OSError):
        return False
    is_off = any(line.strip().replace(" ", "") == "removeipc=no" for line in settings.splitlines())
    return not is_off and not Path("/var/lib/systemd/linger", name).exists()
