"""What a death costs a person who does nothing about it: seconds to the next new step, steps lost, useful share.

    python bench/restart.py [--kills 20] [--minutes 6]

The quickstart's training at its default settings, restarted by its keeper. Deaths are kill -9 of the trainer at random
moments of steady training. For the useful share they come every minute instead of every ten: ten times faster, and so
ten times harder, than what was asked.
"""

import argparse
import random
import re
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from everstep.versions import read_live
from everstep.versions.layout import RunLayout
from machine import record

PROGRAM = str(Path(sys.executable).with_name("everstep"))
WORDS = ("train", "circles", "--run", "a", "--restarts", "1000", "--optim.max-steps", "1000000")
LOST = re.compile(r"(?:was rescued from memory|is the last version), ([\d,]+) steps back")
SETTLE_S = 8.0  # of training before a kill: snapshots have found their pace


@dataclass(frozen=True)
class Death:
    """One kill that hit a trainer in the middle of its training."""

    steps_lost: int  # whole steps that were done and are not in the version that training went on from
    to_new_step_s: float
    seconds_lost: float


def main() -> None:
    """Measure and write RESULTS.md."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--minutes", type=float, default=6.0)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        deaths = die(Path(name), asked.kills)
    with tempfile.TemporaryDirectory() as name:
        share, kills = useful_share(Path(name), asked.minutes)
    lost = sorted(death.seconds_lost for death in deaths)
    steps = sorted(death.steps_lost for death in deaths)
    waits = sorted(death.to_new_step_s for death in deaths)
    rows = [
        ("kill -9 of the trainer to the first new step, median", f"{statistics.median(waits):.1f} s", "at most 10 s"),
        ("the longest", f"{waits[-1]:.1f} s", ""),
        ("training lost, median", f"{statistics.median(lost):.2f} s, {statistics.median(steps):g} steps", "1 s"),
        ("training lost, most", f"{lost[-1]:.2f} s, {steps[-1]} steps", "at most 2 s"),
        (f"useful share of {asked.minutes:g} minutes with a kill every minute ({kills} kills)", f"{share:.1%}", ""),
        ("the same with a kill every ten minutes, from the time that one costs", f"{every_ten(share):.1%}", "97 %"),
    ]
    record(
        f"Deaths: {len(deaths)} kills that hit, quickstart at its defaults (bench/restart.py)",
        "| | measured | asked |\n| --- | --- | --- |\n"
        + "".join(f"| {what} | {measured} | {wanted} |\n" for what, measured, wanted in rows),
    )


def every_ten(share: float) -> float:
    """A minute with a death costs 1 - share of it; ten minutes with one death cost a tenth of that share."""
    return 1 - (1 - share) / 10


class Training:
    """The program as a person starts it, and what it says of itself."""

    def __init__(self, folder: Path) -> None:
        self.layout = RunLayout(folder / "runs/a")
        self._log = (folder / "log").open("w")
        self.process = subprocess.Popen([PROGRAM, *WORDS], cwd=folder, stdout=self._log, stderr=self._log)

    def trainer(self) -> int | None:
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
        return int(children[0]) if children else None

    def live_step(self, trainer: int | None) -> int:
        """What the trainer of this number last told, or -1."""
        live = read_live(self.layout)
        return live.step if live is not None and live.pid == trainer else -1

    def wait_for_step(self, above: int, trainer_was: int | None) -> tuple[int, int]:
        """Until another trainer than that one has made a step beyond; its number and step."""
        while True:
            now = self.trainer()
            step = self.live_step(now)
            if now is not None and now != trainer_was and step > above:
                return now, step
            assert self.process.poll() is None, "the program has ended"
            time.sleep(0.02)

    def told_lost(self) -> int:
        """What the keeper said that the last death cost: it knows the step that the trainer had come to."""
        told = LOST.findall((self.layout.root.parents[1] / "log").read_text())
        return int(told[-1].replace(",", ""))

    def kill(self, trainer: int) -> None:
        subprocess.run(["kill", "-9", str(trainer)], check=True)

    def end(self) -> None:
        self.process.terminate()
        self.process.wait(120)
        self._log.close()


def die(folder: Path, kills: int) -> list[Death]:
    """Kill again and again, each time after some steady training."""
    draws, deaths, training = random.Random(5), list[Death](), Training(folder)
    trainer, _ = training.wait_for_step(0, None)
    while len(deaths) < kills:
        before = training.live_step(trainer)
        began = time.monotonic()
        time.sleep(SETTLE_S + draws.uniform(0, 4))
        step = training.live_step(trainer)
        rate = (step - before) / (time.monotonic() - began)
        killed_at = time.monotonic()
        training.kill(trainer)
        dead = trainer
        trainer, _ = training.wait_for_step(-1, dead)
        took = time.monotonic() - killed_at
        lost = training.told_lost()
        if rate > 0 and step > before:
            deaths.append(Death(lost, took, lost / rate))
            print(deaths[-1], flush=True)
    training.end()
    return deaths


def useful_share(folder: Path, minutes: float) -> tuple[float, int]:
    """Steps made with a kill every minute, over those that the same machine makes without, just before."""
    training = Training(folder)
    trainer, _ = training.wait_for_step(20, None)
    began, first = time.monotonic(), training.live_step(trainer)
    time.sleep(60)
    rate = (training.live_step(trainer) - first) / (time.monotonic() - began)
    began, first, kills = time.monotonic(), training.live_step(trainer), 0
    while time.monotonic() - began < 60 * minutes:
        time.sleep(max(0.0, began + 60 * (kills + 1) - time.monotonic()))
        step = training.live_step(trainer)
        training.kill(trainer)
        kills += 1
        trainer, _ = training.wait_for_step(-1, trainer)
        print(f"kill {kills}: at step {step}", flush=True)
    elapsed, made = time.monotonic() - began, training.live_step(trainer) - first
    training.end()
    return made / (rate * elapsed), kills


if __name__ == "__main__":
    main()
