"""How `train` ends before its time: a second one is refused, a second Ctrl-C leaves, a loss that is no number stops."""

import json
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from everstep.versions import Run
from program import Ended, Program

Everstep = Callable[..., Ended]


def test_a_second_trainer_on_one_run_is_refused_and_told_who_trains(
    start: Callable[..., Program], everstep: Everstep, words: tuple[object, ...], workplace: Path
) -> None:
    program = start(*words, "--optim.max-steps", 100_000)
    program.wait_for(lambda: (workplace / "runs/a/version_0").exists())
    refused = everstep(*words, "--optim.max-steps", 100_000)
    assert refused.code == 2
    assert f"Run a is being written by process {program.process.pid} on" in refused.out
    status = json.loads(everstep("status", "a", "--json").out)
    assert (status["state"], status["pid"]) == ("running", program.process.pid)


@pytest.mark.fault("second SIGINT within a commit")
def test_a_second_ctrl_c_leaves_within_two_seconds_and_the_version_before_is_whole(
    start: Callable[..., Program], words: tuple[object, ...], workplace: Path
) -> None:
    program = start(*words, "--optim.max-steps", 100_000, prepare=SleepInTheSecondCommit())
    program.wait_for(lambda: "in the commit" in program.output)
    program.signal(signal.SIGINT)
    program.wait_for(lambda: "Once more leaves at once" in program.output)
    time.sleep(0.6)  # signals within a moment are one
    began = time.monotonic()
    program.signal(signal.SIGINT)
    assert program.wait() == 3
    assert time.monotonic() - began < 2
    run = Run.open(workplace / "runs/a")
    assert run.find("latest").number == 0
    assert run.newest_whole(print) is not None


class SleepInTheSecondCommit:
    """Hold the commit of version_1 in the middle, inside one system call that takes long."""

    def __call__(self) -> None:
        from everstep.versions import fsops

        original = fsops.flush_folder

        def slow(path: Path) -> None:
            original(path)
            if path.name.startswith(".version_1."):
                print("in the commit", flush=True)
                time.sleep(30)

        fsops.flush_folder = slow


@pytest.mark.fault("loss that is not finite")
def test_a_loss_that_is_no_number_ends_with_5_and_is_never_saved(
    everstep: Everstep, words: tuple[object, ...], workplace: Path
) -> None:
    ended = everstep(*words, "--optim.max-steps", 50, "--optim.learning-rate", 1e30, "--optim.max-grad-norm", 1e30)
    assert ended.code == 5, ended.out
    assert "The loss is nan at step" in ended.out
    assert "Nothing of it was saved" in ended.out
