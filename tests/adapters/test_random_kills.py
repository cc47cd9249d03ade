"""kill -9 from outside, at any moment of a training by somebody else's trainer or of a loop: nothing is lost."""

import os
import random
import shutil
import signal
import time
from pathlib import Path

import programs
import pytest
from chance import draws, rounds
from faults import Seen

from everstep.versions import Run, read_live

PAUSE_S = "0.03"  # in each step, so that most moments lie within steps
TRAINERS = {"lightning": programs.lightning(), "accelerate": programs.accelerate()}


def kill(folder: Path, program: str, chance: random.Random) -> int | None:
    """Start it and kill it at some moment, unless it ends before. Returns the step that memory held by what it told."""
    started, log = programs.start(folder, program, PAUSE_S=PAUSE_S)
    own, until = Run(folder / "runs/own"), time.monotonic() + 60
    at_once = chance.random() < 0.2
    while not at_once and started.poll() is None and _told(own, started.pid) is None:
        assert time.monotonic() < until, log.read_text()
        time.sleep(0.005)
    time.sleep(chance.uniform(0, 1.5))
    held = _told(own, started.pid)
    if started.poll() is None:
        os.kill(started.pid, signal.SIGKILL)
    started.wait()
    programs.wait_for_its_keeper(folder)
    return held


def _told(own: Run, pid: int) -> int | None:
    live = read_live(own.layout)
    return live.snapshot_step if live is not None and live.pid == pid else None


@pytest.mark.parametrize("trainer", sorted(TRAINERS))
@pytest.mark.fault("kill -9 of {trainer} at random moments")
def test_kills_at_random_moments_change_nothing(tmp_path: Path, trainer: str, seen: Seen) -> None:
    programs.run(tmp_path / "straight", TRAINERS[trainer])
    straight, folder = programs.weights(tmp_path / "straight"), tmp_path / "killed"
    chance, floor = draws(trainer), rounds(2, most=60)
    while seen.hit_times < floor:
        held = kill(folder, TRAINERS[trainer], chance)
        seen.injected()
        if held is not None:
            seen.lost(held - Run(folder / "runs/own").versions()[-1].step)
            seen.hit()
            assert seen.lost_steps == 0
        if seen.hit_times == floor or chance.random() < 0.2:
            programs.run(folder, TRAINERS[trainer])
            assert programs.weights(folder) == straight
            shutil.rmtree(folder)
