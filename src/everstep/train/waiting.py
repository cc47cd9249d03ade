"""How the trainer's threads wait for each other: as OpenMP does on a quiet machine, asleep beside other work.

At the end of every loop over a tensor, threads wait for the slowest of them. GNU's libgomp lets them spin for some
milliseconds first: the quickest way where each has a processor, ruinous where one has none, since those that spin keep
it from running. Here is watched how long threads are kept off the processors, and libgomp is made to wait asleep
meanwhile. No bit depends on it. Knows nothing of training; never imports torch.
"""

import ctypes
import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import TracebackType

SETTINGS = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")  # a person's own: nothing is done where one is there
PERIOD_S = 0.25
CROWDED, QUIET = 0.3, 0.1  # kept off: seconds in a second, of all threads together; beside one busy core about 0.6
CALM_PERIODS = 2  # not more: asleep on a quiet machine is half the rate as well

TASKS = Path("/proc/self/task")
MAPS = Path("/proc/self/maps")


def how_threads_wait() -> str:
    """For the records: the person's own settings, or that it is seen to."""
    own = [f"{name}={os.environ[name]}" for name in SETTINGS if name in os.environ]
    return " ".join(own) or "asleep beside other work"


class Waiting:
    """While entered, threads wait asleep for as long as other work shares the processors.

    Nothing is done where a person chose how threads wait, where only one computes, or where the system does not tell.
    """

    def __init__(self, threads: int, say: Callable[[str], None]) -> None:
        """
        Args:
            threads: how many compute; 0 where that is left to OpenMP.
        """
        self._threads, self._say = threads, say
        self._is_over = threading.Event()
        self._watcher = threading.Thread(target=self._watch, name="everstep-waiting", daemon=True)
        self._has_told = False

    def __enter__(self) -> "Waiting":
        is_chosen = any(name in os.environ for name in SETTINGS)
        if not is_chosen and (TASKS / str(os.getpid()) / "schedstat").exists():
            self._watcher.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._is_over.set()
        if self._watcher.ident is not None:
            self._watcher.join()

    def _watch(self) -> None:
        crowd, asleep = Crowd(), None
        before, began = delays_s(), time.monotonic()
        while not self._is_over.wait(PERIOD_S):
            now, ended = delays_s(), time.monotonic()
            crowd.hear(kept_off_s(before, now) / (ended - began))
            before, began = now, ended
            if crowd.is_there and asleep is None and self._has_company():
                asleep = Asleep(loaded_libgomp())
                self._tell()
            elif not crowd.is_there and asleep is not None:
                asleep.end()
                asleep = None
        if asleep is not None:
            asleep.end()

    def _has_company(self) -> bool:
        """Whether several threads compute, and libgomp is what they wait in; it is loaded some time after the start."""
        return any((self._threads or library.omp_get_max_threads()) > 1 for library in loaded_libgomp())

    def _tell(self) -> None:
        """Once: it may come and go a hundred times, and changes nothing in what is trained."""
        if not self._has_told:
            self._has_told = True
            self._say("Other work shares the processors: threads wait asleep meanwhile, which changes no bit.")


class Crowd:
    """Whether other work shares the processors: at once when threads are kept off them, over when they no more are."""

    def __init__(self) -> None:
        self.is_there = False
        self._calm_periods = 0

    def hear(self, kept_off: float) -> None:
        """Take in one period: the seconds in a second, of all threads together."""
        self._calm_periods = self._calm_periods + 1 if kept_off < QUIET else 0
        if kept_off > CROWDED:
            self.is_there = True
        elif self._calm_periods >= CALM_PERIODS:
            self.is_there = False


class Asleep:
    """Makes libgomp wait asleep, from now until the end.

    libgomp gives up spinning, at the next wait and of its own accord, while it has more threads than processors (its
    manual, under GOMP_SPINCOUNT). So it is given a team of its own that sleeps: the one that computes stays as it is.
    """

    def __init__(self, libraries: list[ctypes.CDLL]) -> None:
        self._is_over = threading.Event()
        self._holders = [
            threading.Thread(target=self._hold, args=(library,), name="everstep-asleep", daemon=True)
            for library in libraries
        ]
        for holder in self._holders:
            holder.start()

    def _hold(self, library: ctypes.CDLL) -> None:
        """A team belongs to the thread that began it, and ends with it. Its one task, to ask for a number, is idle."""
        idle = ctypes.cast(library.omp_get_level, ctypes.c_void_p)
        library.GOMP_parallel(idle, None, ctypes.c_uint(library.omp_get_num_procs() + 1), ctypes.c_uint(0))
        self._is_over.wait()

    def end(self) -> None:
        """Spin again; returns when the team is gone."""
        self._is_over.set()
        for holder in self._holders:
            holder.join()


def loaded_libgomp() -> list[ctypes.CDLL]:
    """GNU's OpenMP where this process has loaded it; PyTorch brings its own, other libraries may bring another."""
    paths = {line.split(maxsplit=5)[-1].strip() for line in MAPS.read_text().splitlines() if "/libgomp" in line}
    return [ctypes.CDLL(path) for path in sorted(paths)]


def delays_s() -> dict[str, float]:
    """By thread that is not Python's own, but for the main one: seconds so far ready to run but without a processor."""
    reading = {str(thread.native_id) for thread in threading.enumerate()} - {str(os.getpid())}
    return {task: delay for task, delay in _all_delays_s() if task not in reading}


def kept_off_s(before: Mapping[str, float], now: Mapping[str, float]) -> float:
    """Seconds between two looks, of all threads together."""
    return sum(delay - before[task] for task, delay in now.items() if task in before)


def _all_delays_s() -> Iterator[tuple[str, float]]:
    for task in TASKS.iterdir():
        try:
            fields = (task / "schedstat").read_text().split()
        except OSError:  # it ended while we looked
            continue
        yield task.name, int(fields[1]) / 1e9
