"""What share of the time is useful on 8, 64 and 1,024 GPUs, with intervals that are found by themselves: a model.

    python bench/useful_time.py [--picture docs/pictures/useful-time.png]

Copy and commit are as bench/commit.py measured them; the rate of a mirror is measured here. The formula is checked by
the process itself, simulated. A minute.
"""

import argparse
import math
import os
import random
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from everstep.contracts import Draft, Reason, TensorFile
from everstep.keeping.intervals import (
    DAY_S,
    DEATHS_PER_FAILURE,
    Cost,
    Economy,
    daly,
    snapshot_interval,
    useful_share,
    version_interval,
)
from everstep.units import about
from everstep.versions import Run
from machine import record

PROGRAM = str(Path(sys.executable).with_name("everstep"))
# Saving 4.34 GB (bench/commit.py, RESULTS.md): a ControlNet of Stable Diffusion 1.5 with AdamW.
STATE_BYTES, COPY_S, COMMIT_S = 4_340_000_000, 0.35, 1.73
# Assumed: a copy beside the next pass, as on CUDA. 0.6 ms of waiting were measured for tensors on a CPU; by how much a
# GPU's steps are slower beside one, nobody has.
BESIDE_S = 0.02
# Assumed: a process starts, loads the base and takes its state from memory; a machine is found in place of another.
RESTART_S, REPLACE_S = 60.0, 600.0
OVERHEAD = 0.01  # keeper.overhead
GPUS, GPUS_A_MACHINE = (8, 64, 1024), 8
LIVES = 40_000
MIRROR_BYTES = 400_000_000


@dataclass(frozen=True)
class Clock:
    """Of copies of one kind, and of what they are for: seconds."""

    interval_s: float
    cost_s: float
    lost_s: float  # at each failure besides the work since the last copy
    mtbf_s: float
    late_s: float = 0.0  # until a copy that was begun counts

    @property
    def share(self) -> float:
        """By the formula: to wait for a copy to count is as if each failure lost so much more."""
        return useful_share(self.interval_s, self.cost_s, self.lost_s + self.late_s, self.mtbf_s)


def both(snapshots: Clock, versions: Clock) -> float:
    """Of two clocks: what one leaves of the time, the other has a share of."""
    return snapshots.share * versions.share


def simulated(snapshots: Clock, versions: Clock, rescues: bool = False, lives: int = LIVES, seed: int = 1) -> float:
    """The same by the process itself: lives between failures, whose length is drawn.

    Args:
        rescues: whether a trainer's death makes a version, as the keeper does it; the formula knows nothing of it.
    """
    draws = random.Random(seed)
    rate = 1 / snapshots.mtbf_s + 1 / versions.mtbf_s
    part = 1 / versions.mtbf_s / rate  # of failures that are a machine's
    pace = 1 / (1 + snapshots.cost_s / snapshots.interval_s + versions.cost_s / versions.interval_s)
    passed = work = loose = 0.0  # loose: work that is in memory and in no version yet
    wait = versions.lost_s
    for _ in range(lives):
        life = draws.expovariate(rate)
        passed += life
        run = max(0.0, life - wait) * pace
        claims = math.floor((run + loose) / versions.interval_s)  # at each whole interval since the last version
        counting = (max(0.0, life - wait - versions.late_s)) * pace
        counted = math.floor((counting + loose) / versions.interval_s) * versions.interval_s
        if draws.random() < part:
            work += counted - loose if counted else -loose
            loose, wait = 0.0, versions.lost_s
        else:
            sealed = math.floor(run / snapshots.interval_s) * snapshots.interval_s
            sealed = max(sealed, claims * versions.interval_s - loose)
            work += sealed
            loose = 0.0 if rescues else (loose + sealed) - counted
            wait = snapshots.lost_s
    return work / passed


# --- the table ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Row:
    """One size of a training."""

    gpus: int
    economy: Economy
    copy_s: float = BESIDE_S

    @property
    def snapshots(self) -> Clock:
        """The rarer of what is cheapest and what the stated overhead allows."""
        interval_s = max(self.copy_s / OVERHEAD, snapshot_interval(self.copy_s, self.economy.deaths_s))
        return Clock(interval_s, self.copy_s, RESTART_S, self.economy.deaths_s)

    def versions(self, interval_s: float | None = None) -> Clock:
        """As they are found, or so far apart."""
        found_s = version_interval(self.economy, Cost(self.copy_s, COMMIT_S, STATE_BYTES)).seconds
        return Clock(interval_s or found_s, self.copy_s, REPLACE_S, self.economy.failures_s, COMMIT_S)

    @property
    def cheapest_s(self) -> float:
        return daly(self.copy_s, self.economy.failures_s)

    @property
    def without_memory(self) -> float:
        """Where nothing survives a trainer, its deaths lose what a machine's failure does."""
        rate = 1 / self.economy.deaths_s + 1 / self.economy.failures_s
        lost_s = (RESTART_S * DEATHS_PER_FAILURE + REPLACE_S) / (1 + DEATHS_PER_FAILURE)
        return replace(self.versions(), lost_s=lost_s, mtbf_s=1 / rate).share


def rows_of(mtbf_s: float, bytes_a_day: int, copy_s: float = BESIDE_S) -> list[Row]:
    return [Row(gpus, Economy(mtbf_s, bytes_a_day, gpus // GPUS_A_MACHINE), copy_s) for gpus in GPUS]


def table(rows: list[Row]) -> str:
    text = (
        "| GPUs | a machine fails every | a trainer dies every | snapshots every | versions every | cheapest would be "
        "| useful share | simulated | with the cheapest | without memory |\n" + "| --- " * 10 + "|\n"
    )
    for row in rows:
        clocks = row.snapshots, row.versions()
        cells = (
            f"{row.gpus:,}",
            about(row.economy.failures_s),
            about(row.economy.deaths_s),
            about(clocks[0].interval_s),
            about(clocks[1].interval_s),
            about(row.cheapest_s),
            f"{both(*clocks):.2%}",
            f"{simulated(*clocks):.2%}",
            f"{both(row.snapshots, row.versions(row.cheapest_s)):.2%}",
            f"{row.without_memory:.2%}",
        )
        text += f"| {' | '.join(cells)} |\n"
    return text


def checked() -> tuple[float, int]:
    """The largest difference between formula and process, over clocks from good to bad, and how many were tried."""
    worst, tried = 0.0, 0
    for mtbf_s in (2e4, 2e5, 2e6):
        for version_s in (30.0, 300.0, 3000.0):
            for snapshot_s in (10.0, 60.0):
                snapshots = Clock(snapshot_s, 0.1, RESTART_S, mtbf_s / DEATHS_PER_FAILURE)
                versions = Clock(version_s, 1.0, REPLACE_S, mtbf_s, 5.0)
                worst = max(worst, abs(both(snapshots, versions) - simulated(snapshots, versions)))
                tried += 1
    return worst, tried


# --- what is measured here ---------------------------------------------------------------------------------


class _Numbers:
    """A tensor of random bytes, as a store takes it."""

    def __init__(self, array: NDArray[np.float32]) -> None:
        self.dtype, self.shape, self.nbytes, self._array = "F32", tuple(array.shape), array.nbytes, array

    def buffer(self) -> memoryview:
        return self._array.reshape(-1).view(np.uint8).data


def mirror_rate() -> float:
    """Bytes a second of `everstep mirror` to another folder of the same disk: read, sent, flushed, read back. Its start
    is counted in.
    """
    with tempfile.TemporaryDirectory(dir=Path.cwd()) as name:
        run = Run.create(Path(name) / "a", "a: 1\n")
        numbers = np.random.default_rng(1).standard_normal(MIRROR_BYTES // 4, dtype=np.float32)
        files = (TensorFile("weights.safetensors", {"weights": _Numbers(numbers)}),)
        facts = {"step": 1, "images_seen": 1, "reason": Reason.ASKED, "parent": None, "small_files": {}, "facts": {}}
        run.commit(Draft(tensor_files=files, **facts))  # type: ignore[arg-type]
        (Path(name) / "to").mkdir()
        os.sync()
        began = time.perf_counter()
        subprocess.run([PROGRAM, "mirror", str(run.path), str(Path(name) / "to")], check=True, capture_output=True)
        return MIRROR_BYTES / (time.perf_counter() - began)


# --- the picture -------------------------------------------------------------------------------------------

WIDTH, HEIGHT, SCALE = 860, 420, 2
LEFT, RIGHT, TOP, BOTTOM = 64, 130, 70, 50
PAPER, INK, FAINT, GRID = (250, 250, 248), (40, 40, 44), (130, 130, 134), (226, 226, 222)
INKS = ((20, 135, 75), (20, 110, 200), (215, 95, 20))
FROM_S, TO_S, LOWEST, HIGHEST = 5.0, 7200.0, 0.80, 1.0
TICKS = (5, 10, 30, 60, 300, 600, 1800, 3600, 7200)


def draw(rows: list[Row], to: Path) -> None:
    """Useful share over the interval of versions; the best, and the one that is found, are marked."""
    page = Image.new("RGB", (WIDTH * SCALE, HEIGHT * SCALE), PAPER)
    pen = ImageDraw.Draw(page)

    def at(interval_s: float, share: float) -> tuple[float, float]:
        across = math.log(interval_s / FROM_S) / math.log(TO_S / FROM_S)
        down = (HIGHEST - max(share, LOWEST)) / (HIGHEST - LOWEST)
        return (LEFT + (WIDTH - LEFT - RIGHT) * across) * SCALE, (TOP + (HEIGHT - TOP - BOTTOM) * down) * SCALE

    def text(x: float, y: float, said: str, ink: tuple[int, ...], size: int = 12, anchor: str = "la") -> None:
        pen.text((x * SCALE, y * SCALE), said, ink, ImageFont.load_default(size * SCALE), anchor)

    text(LEFT, 10, "Useful share of the time over the interval of versions", INK, 15)
    legend = "disc: the best; ring: versions.every auto, bounded by 500 GB a day; cross: the process simulated"
    text(LEFT, 34, legend, FAINT)
    for share in np.arange(LOWEST, HIGHEST + 0.001, 0.05):
        pen.line([at(FROM_S, share), at(TO_S, share)], GRID, SCALE)
        text(LEFT - 8, at(FROM_S, share)[1] / SCALE, f"{share:.0%}", FAINT, 11, "rm")
    for tick in TICKS:
        text(at(tick, 1)[0] / SCALE, HEIGHT - BOTTOM + 8, about(tick), FAINT, 11, "ma")
    for row, ink in zip(rows, INKS, strict=True):
        places = np.geomspace(FROM_S, TO_S, 200)
        shares = [both(row.snapshots, row.versions(float(place))) for place in places]
        pen.line([at(float(x), y) for x, y in zip(places, shares, strict=True) if y > LOWEST], ink, 2 * SCALE, "curve")
        for place in np.geomspace(FROM_S * 1.3, TO_S / 1.3, 9):
            x, y = at(float(place), simulated(row.snapshots, row.versions(float(place)), lives=LIVES // 4))
            pen.line([(x - 4 * SCALE, y), (x + 4 * SCALE, y)], ink, SCALE)
            pen.line([(x, y - 4 * SCALE), (x, y + 4 * SCALE)], ink, SCALE)
        for interval_s, is_found in ((row.cheapest_s, False), (row.versions().interval_s, True)):
            x, y = at(interval_s, both(row.snapshots, row.versions(interval_s)))
            radius = (7 if is_found else 4) * SCALE
            box = (x - radius, y - radius, x + radius, y + radius)
            pen.ellipse(box, None if is_found else ink, ink, 2 * SCALE)
        text(WIDTH - RIGHT + 8, at(TO_S, shares[-1])[1] / SCALE, f"{row.gpus:,} GPUs", ink, 12, "lm")
    to.parent.mkdir(parents=True, exist_ok=True)
    page.resize((WIDTH, HEIGHT), Image.Resampling.LANCZOS).save(to, optimize=True)


def main() -> None:
    """Measure, check, draw, and write RESULTS.md."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--picture", type=Path, default=Path("docs/pictures/useful-time.png"))
    asked = parser.parse_args()
    draw(rows_of(30 * DAY_S, 500 * 10**9), asked.picture)
    rate = mirror_rate()
    record("Useful time on many GPUs, a model (bench/useful_time.py)", told(rate))


def told(rate: float) -> str:
    """For RESULTS.md."""
    worst, tried = checked()
    measured = (
        f"4.34 GB of state. Measured (bench/commit.py): a copy that training waits for takes {COPY_S:g} s, a version "
        f"is on the disk after {COMMIT_S:g} s. Measured here: a mirror takes {rate / 1e6:,.0f} MB/s of "
        f"{MIRROR_BYTES / 1e6:,.0f} MB, its start included. Assumed: {BESIDE_S:g} s for a copy beside the next pass, "
        f"{RESTART_S:g} s from a trainer's death to its next step, {REPLACE_S / 60:g} min from a machine's failure; "
        f"machines of {GPUS_A_MACHINE} GPUs; {DEATHS_PER_FAILURE} deaths of trainers for a failure of a machine. "
        f"Useful share by the formula; simulated: {LIVES:,} lives drawn at random."
    )
    month, llama, day = 30 * DAY_S, 264 * DAY_S, 500 * 10**9
    parts = [
        measured,
        "A machine fails every 30 days (keeper.mtbf), 500 GB a day (versions.bytes_a_day), both the defaults:",
        table(rows_of(month, day)),
        "The same with 5 TB a day:",
        table(rows_of(month, 10 * day)),
        f"The defaults again, with copies that training waits for ({COPY_S:g} s):",
        table(rows_of(month, day, COPY_S)),
        "A machine fails every 264 days, as while Llama 3 was trained (419 interruptions of 16,384 GPUs in 54 days); "
        "500 GB a day:",
        table(rows_of(llama, day)),
        f"Formula and simulated process differ by {100 * worst:.2f} points at most, over {tried} pairs of clocks and "
        "times between failures from 6 hours to 23 days.",
    ]
    return "\n\n".join(part.strip() for part in parts)


if __name__ == "__main__":
    main()
