"""How many processors this process may use where a container allows it only a share of them.

OpenMP counts the processors that the process may run on, and knows nothing of a limit on their time: on a machine of 64
it starts 64 threads in a container that is given the time of 2. Linux only; never imports torch.
"""

import os
from collections.abc import Iterator
from pathlib import Path

SETTINGS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OMP_THREAD_LIMIT")  # a person's own: nothing is done where one is
CGROUPS, MINE = Path("/sys/fs/cgroup"), Path("/proc/self/cgroup")


def limit_threads(threads: int, ranks: int | str = 1) -> str | None:
    """Before PyTorch is loaded: let it start no more threads than there are processors to give them time.

    Args:
        threads: the person's setting; 0 leaves the choice to PyTorch, and then to this.
        ranks: processes among which the processors are shared out; auto are as many as GPUs.

    Returns a sentence where that is fewer than it would have started: the number of threads changes bits.
    """
    if threads or any(name in os.environ for name in SETTINGS) or not hasattr(os, "sched_getaffinity"):
        return None
    there, allowed = len(os.sched_getaffinity(0)), allowed_processors()
    if ranks != 1:
        count = ranks if isinstance(ranks, int) else max(1, len(list(Path("/dev").glob("nvidia[0-9]*"))))
        os.environ["OMP_NUM_THREADS"] = str(max(1, int(min(there, allowed or there)) // count))
        return None
    if allowed is None or int(allowed) >= there:
        return None
    chosen = max(1, int(allowed))
    os.environ["OMP_NUM_THREADS"] = str(chosen)
    return f"The time of {allowed:g} of {there} processors is allowed here: {chosen} threads (compute.threads)."


def allowed_processors(cgroups: Path = CGROUPS, mine: Path = MINE) -> float | None:
    """The least of the limits on processor time on the way from our group to the root, or None where there is none."""
    return min(_limits(cgroups, mine), default=None)


def _limits(cgroups: Path, mine: Path) -> Iterator[float]:
    lines = mine.read_text().splitlines() if mine.exists() else []
    for line in lines:
        _, controllers, name = line.split(":", 2)
        if not controllers:
            root = cgroups
        elif "cpu" in controllers.split(","):
            root = cgroups / controllers
        else:
            continue
        # In a container the name may be the host's, and the folders only ours: then the root says it.
        group = root / name.lstrip("/")
        for folder in (group, *group.parents):
            yield from _limit(folder)
            if folder == root:
                break


def _limit(folder: Path) -> Iterator[float]:
    """Of one group: cpu.max in the second version of groups, two files in the first."""
    try:
        words = (folder / "cpu.max").read_text().split()
    except OSError:
        words = _first_version(folder)
    if len(words) == 2 and words[0] not in ("max", "-1"):
        yield int(words[0]) / int(words[1])


def _first_version(folder: Path) -> list[str]:
    try:
        return [(folder / f"cpu.cfs_{name}_us").read_text().strip() for name in ("quota", "period")]
    except OSError:
        return []
