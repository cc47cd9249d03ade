"""What other work on the same processors costs a training, alone, beside one busy process and beside another training.

    python bench/busy.py [MINUTES]

Real trainings of the built-in circles on two processors, as `everstep train` starts them. All are started once and
stopped in the middle; they take turns, and only those whose turn it is go on. "As OpenMP does" is a training whose
person chose libgomp's own number of spins, so that nothing else is done about it. A turn counts only where all else on
the machine used less than a tenth of a processor meanwhile; others are taken again, for so many minutes at most.
"""

import contextlib
import itertools
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from machine import record

ROUNDS, WARM_S, WINDOW_S, MINUTES = 3, 2.0, 5.0, 30.0
NOISE, POLL_S = 0.1, 0.01
TICKS = os.sysconf("SC_CLK_TCK")
WORDS = [sys.executable, "-m", "everstep", "train", "circles", "--run", "a", "--sampling.pairs", "0"]
ENDLESS = ["--optim.max-steps", "1000000", "--versions.every", "1000000"]
LIBGOMP = {"GOMP_SPINCOUNT": "300000"}  # its default


@dataclass
class Training:
    """One that is stopped but for its turns."""

    folder: Path
    batch: int
    settings: dict[str, str]
    keeper: int = 0
    trainer: int = 0
    rates: dict[str, list[float]] = field(default_factory=dict)

    @contextlib.contextmanager
    def started(self) -> Iterator[None]:
        """Until it has made its first steps; then it is stopped."""
        words = [*WORDS, *ENDLESS, "--optim.batch-size", str(self.batch), "--ram-dir", str(self.folder)]
        self.folder.mkdir()
        with (self.folder / "log").open("w") as log:
            keeper = subprocess.Popen(words, cwd=self.folder, env=os.environ | self.settings, stdout=log, stderr=log)
        try:
            while self.steps() < 5:
                assert keeper.poll() is None, (self.folder / "log").read_text()
                time.sleep(POLL_S)
            self.keeper = keeper.pid
            self.trainer = int(Path(f"/proc/{keeper.pid}/task/{keeper.pid}/children").read_text().split()[0])
            os.kill(self.trainer, signal.SIGSTOP)
            yield
        finally:
            keeper.kill()
            keeper.wait()
            if self.trainer:
                os.kill(self.trainer, signal.SIGKILL)

    @contextlib.contextmanager
    def going_on(self) -> Iterator[None]:
        os.kill(self.trainer, signal.SIGCONT)
        try:
            yield
        finally:
            os.kill(self.trainer, signal.SIGSTOP)

    def steps(self) -> int:
        path = self.folder / "runs/a/records/metrics.jsonl"
        return path.read_bytes().count(b"\n") if path.exists() else 0

    def told(self) -> tuple[int, float]:
        """The number of steps at a moment when it has just been written down, and that moment."""
        before = self.steps()
        while (now := self.steps()) == before:
            time.sleep(POLL_S)
        return now, time.perf_counter()


@contextlib.contextmanager
def busy_process() -> Iterator[int]:
    """One that uses as much of a processor as it gets."""
    process = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        yield process.pid
    finally:
        process.kill()
        process.wait()


def turn(trainings: list[Training], has_company: bool) -> tuple[list[float], float]:
    """Steps in a second of those whose turn it is, and processors that all else used meanwhile."""
    with contextlib.ExitStack() as closing:
        ours = [os.getpid(), *(pid for training in trainings for pid in (training.keeper, training.trainer))]
        if has_company:
            ours.append(closing.enter_context(busy_process()))
        for training in trainings:
            closing.enter_context(training.going_on())
        time.sleep(WARM_S)
        others, clock = others_s(ours), time.perf_counter()
        began = [training.told() for training in trainings]
        time.sleep(WINDOW_S)
        ended = [training.told() for training in trainings]
        noise = (others_s(ours) - others) / (time.perf_counter() - clock)
    pairs = zip(began, ended, strict=True)
    return [(after - before) / (late - early) for (before, early), (after, late) in pairs], noise


def quiet_turn(trainings: list[Training], has_company: bool, until: float) -> list[float]:
    """The first turn in which the machine was ours."""
    for tries in itertools.count(1):
        while time.monotonic() < until and noise_now() > NOISE:
            pass
        rates, noise = turn(trainings, has_company)
        if noise < NOISE:
            return rates
        print(f"  {noise:.2f} processors used by others, try {tries}", flush=True)
        if time.monotonic() > until:
            sys.exit("The machine was not quiet in all that time: nothing was recorded.")
    raise AssertionError


def others_s(ours: list[int]) -> float:
    """Seconds of processor that all but ours have used so far."""
    user, nice, system, _, _, interrupts, soft = map(int, Path("/proc/stat").read_text().split()[1:8])
    return (user + nice + system + interrupts + soft) / TICKS - sum(map(used_s, ours))


def used_s(process: int) -> float:
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


def noise_now(seconds: float = 0.5) -> float:
    before = others_s([])
    time.sleep(seconds)
    return (others_s([]) - before) / seconds


def measured(batch: int, folder: Path, until: float) -> dict[str, list[float]]:
    """Rates of all rounds, by what was measured."""
    ours, plain, second = (
        Training(folder / f"{name}-{batch}", batch, settings)
        for name, settings in (("ours", {}), ("plain", LIBGOMP), ("second", {}))
    )
    turns = {
        "alone": ([ours], False),
        "alone, as OpenMP does": ([plain], False),
        "busy": ([ours], True),
        "busy, as OpenMP does": ([plain], True),
        "two": ([ours, second], False),
    }
    found: dict[str, list[float]] = {name: [] for name in turns}
    with ours.started(), plain.started(), second.started():
        for number in range(ROUNDS):
            for name in [*list(turns)[number % len(turns) :], *list(turns)[: number % len(turns)]]:
                rates = quiet_turn(*turns[name], until)
                found[name].append(statistics.mean(rates))
                print(f"batch {batch}, round {number + 1}/{ROUNDS}, {name}: {found[name][-1]:.2f} steps/s", flush=True)
    return found


def row(what: str, over: list[float], under: list[float], asked: str) -> str:
    ratios = [above / below for above, below in zip(over, under, strict=True)]
    return f"| {what} | {statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f}) | {asked} |\n"


def main() -> None:
    """Measure and write RESULTS.md."""
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:2])
    until = time.monotonic() + 60 * float(sys.argv[1] if len(sys.argv) > 1 else MINUTES)
    rows = ""
    with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:  # so that the snapshots' memory goes with it
        for batch in (16, 2):
            found = measured(batch, Path(folder), until)
            alone, before = found["alone"], found["alone, as OpenMP does"]
            rows += f"| batch {batch}, alone: steps in a second | {statistics.median(alone):.2f} | |\n"
            rows += row(f"batch {batch}, alone / the same as OpenMP does", alone, before, "at least 0.97")
            rows += row(f"batch {batch}, beside a busy process / alone", found["busy"], alone, "at least 0.5")
            rows += row(f"batch {batch}, the same as OpenMP does", found["busy, as OpenMP does"], before, "")
            rows += row(f"batch {batch}, each of two side by side / alone", found["two"], alone, "about 0.5")
    record(
        "Beside other work (bench/busy.py)",
        f"Circles on two processors, medians of {ROUNDS} rounds with their range; windows of {WINDOW_S:g} s.\n\n"
        f"| | measured | asked |\n| --- | --- | --- |\n{rows}",
    )


if __name__ == "__main__":
    main()
