"""Useful time under real deaths beside what the model says: a kept loop killed again and again, with time scaled.

    python bench/useful_time_deaths.py [--minutes 8] [--mtbf 90]

Machines fail every MTBF seconds instead of every month, and trainers three times as often, at moments drawn from the
exponential distribution. A trainer's death is kill -9 of the loop alone; a machine's failure is kill -9 of keeper and
loop, and their memory is removed. Both clocks are real. Once the interval of versions is the one that is found by
itself, once it is ten times as long.
"""

import argparse
import itertools
import os
import random
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

from everstep.keeping.intervals import DEATHS_PER_FAILURE, useful_share
from machine import record
from useful_time import Clock, simulated

PROGRAM = str(Path(sys.executable).with_name("everstep"))
LOOP = str(Path(__file__).with_name("dying_loop.py"))
MEGABYTES, STEP_S, LONGER = 60.0, 0.05, 10
SETTLE_S = 20.0  # before the first death: both clocks have found their interval


@dataclass
class Seen:
    """One stretch of deaths.

    Args:
        waits_s: from each kill to the first new step, by whether the machine failed.
        lost_steps: that were made and had to be made again.
    """

    useful_s: float = 0.0
    passed_s: float = 0.0
    waits_s: dict[bool, list[float]] = field(default_factory=lambda: {True: [], False: []})
    lost_steps: dict[bool, list[int]] = field(default_factory=lambda: {True: [], False: []})
    step_s: float = 0.0
    overhead: float = 0.0  # of an undisturbed second, both clocks
    version_s: float = 0.0
    snapshot_s: float = 0.0

    @property
    def share(self) -> float:
        return self.useful_s / self.passed_s


@dataclass(frozen=True)
class Line:
    """What the loop wrote at one step."""

    step: int
    at_s: float
    sealed: int
    version_s: float


def lines_of(path: Path) -> list[Line]:
    """Whole lines only: the last may have been cut by a kill."""
    found = []
    for text in path.read_text().split("\n")[:-1] if path.exists() else ():
        parts = text.split()
        if len(parts) == 4:
            found.append(Line(int(parts[0]), float(parts[1]), int(parts[2]), float(parts[3])))
    return found


class Running:
    """The command as a supervisor starts it."""

    def __init__(self, folder: Path, memory: Path, mtbf_s: float, every_s: float) -> None:
        self.folder, self.memory, self.steps = folder, memory, folder / "steps"
        words = [str(folder / "runs/a"), str(MEGABYTES), str(STEP_S), str(mtbf_s), str(every_s), str(memory)]
        self.words = [PROGRAM, "keep", "--restarts", "100000", "--", sys.executable, LOOP, *words, str(self.steps)]
        self.log = (folder / "log").open("w")
        self.start()

    def start(self) -> None:
        self.memory.mkdir(parents=True, exist_ok=True)
        self.keeper = subprocess.Popen(self.words, stdout=self.log, stderr=self.log, start_new_session=True)

    def go_on(self) -> None:
        """What a supervisor does: a command that has ended is started again."""
        if self.keeper.poll() is not None:
            self.start()

    def trainers(self) -> list[int]:
        if self.keeper.poll() is not None:
            return []
        told = Path(f"/proc/{self.keeper.pid}/task/{self.keeper.pid}/children").read_text()
        return [int(word) for word in told.split()]

    def die(self, is_machine: bool) -> None:
        """Kill what that takes with it; after a machine's failure the supervisor starts the command again."""
        dead = self.trainers()
        if is_machine:
            self.keeper.send_signal(signal.SIGKILL)
        for pid in dead:
            os.kill(pid, signal.SIGKILL)
        if is_machine:
            self.keeper.wait()
            shutil.rmtree(self.memory)
            self.start()

    def end(self) -> None:
        self.keeper.terminate()
        self.keeper.wait(60)
        self.log.close()


def suffer(minutes: float, mtbf_s: float, every_s: float, seed: int) -> Seen:
    """Run the loop under deaths.

    Args:
        every_s: between versions; 0 to have it found.
    """
    draws, seen = random.Random(seed), Seen()
    with tempfile.TemporaryDirectory() as name, tempfile.TemporaryDirectory(dir="/dev/shm") as memory:
        running = Running(Path(name), Path(memory) / "m", mtbf_s, every_s)
        while not any(line.step > 20 for line in lines_of(running.steps)):
            time.sleep(0.1)
        time.sleep(SETTLE_S)
        first = lines_of(running.steps)[-1]
        rate = (1 + DEATHS_PER_FAILURE) / mtbf_s
        next_s = time.monotonic() + draws.expovariate(rate)
        kills: list[tuple[float, bool]] = []
        while time.monotonic() < first.at_s + 60 * minutes:
            time.sleep(0.05)
            running.go_on()
            if time.monotonic() >= next_s:
                is_machine = draws.random() < 1 / (1 + DEATHS_PER_FAILURE)
                if running.trainers():  # else nothing is there to die; a machine that fails while it starts has no loop
                    kills.append((time.monotonic(), is_machine))
                    running.die(is_machine)
                next_s += draws.expovariate(rate)
        while lines_of(running.steps)[-1].at_s < kills[-1][0]:
            time.sleep(0.1)
            running.go_on()
        lines = lines_of(running.steps)
        running.end()
    return read(seen, [line for line in lines if line.at_s >= first.at_s], kills)


def read(seen: Seen, lines: list[Line], kills: list[tuple[float, bool]]) -> Seen:
    """What the lines say; a kill after which none came before the next one is counted with that."""
    spans = [(a, b) for a, b in itertools.pairwise(lines) if b.step == a.step + 1]
    undisturbed = [b.at_s - a.at_s for a, b in spans if not any(a.at_s <= at <= b.at_s for at, _ in kills)]
    seen.step_s = statistics.median(undisturbed)
    seen.overhead = statistics.fmean(undisturbed) / seen.step_s - 1
    seen.passed_s = lines[-1].at_s - lines[0].at_s
    seen.useful_s = (lines[-1].step - lines[0].step) * seen.step_s
    seen.version_s = statistics.median(line.version_s for line in lines)
    sealed = [b.sealed - a.sealed for a, b in spans if b.sealed > a.sealed]
    seen.snapshot_s = statistics.median(sealed) * seen.step_s
    for number, (at, is_machine) in enumerate(kills):
        end = kills[number + 1][0] if number + 1 < len(kills) else float("inf")
        after = next((line for line in lines if at < line.at_s < end), None)
        before = [line for line in lines if line.at_s <= at]
        if after is not None and before:
            seen.waits_s[is_machine].append(after.at_s - at)
            seen.lost_steps[is_machine].append(before[-1].step + 1 - after.step)
    return seen


def forecast(seen: Seen, mtbf_s: float) -> tuple[float, float]:
    """By the formula, and by the process simulated: from the measured intervals, waits and overhead."""
    waits = {kind: statistics.fmean(found) for kind, found in seen.waits_s.items()}
    deaths_s = mtbf_s / DEATHS_PER_FAILURE
    formula = useful_share(seen.snapshot_s, 0.0, waits[False], deaths_s) * useful_share(
        seen.version_s, 0.0, waits[True], mtbf_s
    )
    clocks = Clock(seen.snapshot_s, 0.0, waits[False], deaths_s), Clock(seen.version_s, 0.0, waits[True], mtbf_s)
    return formula / (1 + seen.overhead), simulated(*clocks, rescues=True) / (1 + seen.overhead)


def main() -> None:
    """Measure and write RESULTS.md."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=8.0)
    parser.add_argument("--mtbf", type=float, default=90.0)
    asked = parser.parse_args()
    rows = []
    found_s = 0.0
    for name in ("found by itself", f"{LONGER} times as long"):
        seen = suffer(asked.minutes, asked.mtbf, LONGER * found_s, seed=5)
        found_s = found_s or seen.version_s
        formula, process = forecast(seen, asked.mtbf)
        lost = {kind: statistics.fmean(found) * seen.step_s for kind, found in seen.lost_steps.items()}
        counts = len(seen.lost_steps[False]), len(seen.lost_steps[True])
        rows.append(
            f"| {name} | {seen.version_s:.1f} s | {seen.snapshot_s:.1f} s | {counts[0]}, {counts[1]} | "
            f"{statistics.fmean(seen.waits_s[False]):.1f} s, {statistics.fmean(seen.waits_s[True]):.1f} s | "
            f"{lost[False]:.1f} s, {lost[True]:.1f} s | {seen.overhead:.1%} | {seen.share:.1%} | {process:.1%} | "
            f"{formula:.1%} |"
        )
        print(rows[-1], flush=True)
    record(
        "Useful time under real deaths, time scaled (bench/useful_time_deaths.py)", f"{told(asked)}\n\n{table(rows)}"
    )


COLUMNS = (
    "versions", "every", "snapshots every", "deaths, failures", "wait after one", "done again after one",
    "overhead of both clocks", "useful share measured", "process simulated", "formula",
)  # fmt: skip


def table(rows: list[str]) -> str:
    return "\n".join([f"| {' | '.join(COLUMNS)} |", "| --- " * len(COLUMNS) + "|", *rows])


def told(asked: argparse.Namespace) -> str:
    return (
        f"A kept loop of {MEGABYTES:g} MB of state, steps of {STEP_S:g} s; a machine fails every {asked.mtbf:g} s, a "
        f"trainer dies every {asked.mtbf / DEATHS_PER_FAILURE:.0f} s, both at random moments, {asked.minutes:g} "
        "minutes each. Waits, work that was done again and overhead are measured; what formula and simulated process "
        "say is from those waits, the intervals and the stated times between deaths. The process is simulated with "
        "what a rescue does: it makes a version, too; the formula leaves that out, and is too low where versions are "
        "rare."
    )


if __name__ == "__main__":
    main()
