"""However a training ends, its newest state is a version or lies in memory by name, and the next start goes on from it.

Real processes and real full disks; where a version is due only at the start, all that is kept was in memory before.
"""

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from trainers import (
    ENDLESS,
    SELDOM,
    STEPS,
    ask_to_save,
    die,
    in_memory,
    is_complete,
    is_running,
    kept,
    kill_both,
    last_whole,
    trained,
    wait_for_trainer,
    wait_until,
)

from disks import fill, remount
from everstep.versions import Run, read_live
from program import AfterStep, Ended, Program

if TYPE_CHECKING:
    from everstep.train.loop import Loop

Start = Callable[..., Program]
Words = tuple[object, ...]


# --- deaths and disks --------------------------------------------------------------------------------------


@pytest.mark.fault("kill -9 of the trainer while the disk is full, with {restarts} restarts left")
@pytest.mark.parametrize("restarts", [0, 3])
def test_a_state_that_no_disk_takes_stays_in_memory_and_the_next_start_goes_on_from_it(
    start: Start, words: Callable[..., Words], runs_disk: Path, workplace: Path, restarts: int
) -> None:
    program = start(*words(ENDLESS), "--restarts", restarts)
    trainer = trained(program, workplace)
    fill(runs_disk)
    os.kill(trainer, signal.SIGKILL)
    assert program.wait() == 4, program.output
    step = kept(workplace)
    assert f"Step {step} is kept in {in_memory(workplace)[0].path}: the next start of a goes on" in program.output
    assert "Starting the trainer again" not in program.output
    refused = start(*words(ENDLESS))
    assert refused.wait() == 4, refused.output
    assert "Nothing was started" in refused.output
    assert kept(workplace) == step
    remount(runs_disk, "size=200m")
    resumed = start("resume", "a", "--set", f"optim.max_steps={step + 3}")
    assert resumed.wait() == 0, resumed.output
    assert f"Rescued version_1 (step {step})" in resumed.output
    is_complete(workplace, step + 3)


@pytest.mark.fault("kill -9 of the keeper, and the same command again at once")
def test_there_are_never_two_trainers_and_no_step_is_lost(
    start: Start, words: Callable[..., Words], workplace: Path, tmp_path: Path
) -> None:
    gate = tmp_path / "gate"
    program = start(*words(), prepare=AfterStep(5, StandAt(gate)))
    trainer = wait_for_trainer(program)
    assert trainer is not None
    program.wait_for(lambda: gate.with_name("there").exists())
    program.process.kill()
    program.process.join()
    second = start(*words())
    assert second.wait() == 2, second.output
    assert f"still being written by process {trainer}" in second.output
    assert f"process {program.process.pid}, died" in second.output
    assert is_running(trainer)
    gate.touch()
    wait_until(lambda: not is_running(trainer), program)
    assert last_whole(workplace).step == 5
    third = start(*words())
    assert third.wait() == 0, third.output
    is_complete(workplace)


class StandAt:
    """Stand still until a file is there; say so by another."""

    def __init__(self, gate: Path) -> None:
        self.gate = gate

    def __call__(self, loop: "Loop") -> None:
        self.gate.with_name("there").touch()
        while not self.gate.exists():
            time.sleep(0.005)


@pytest.mark.fault("a run whose folder is away while another one starts")
def test_memory_of_a_run_whose_folder_is_away_is_left_alone_and_named(
    start: Start, words: Callable[..., Words], workplace: Path, everstep: Callable[..., Ended]
) -> None:
    program = start(*words(ENDLESS))
    kill_both(program, trained(program, workplace))
    step, (found,) = kept(workplace), in_memory(workplace)
    (workplace / "runs/a").rename(workplace / "away")
    other = start(*(("b" if word == "a" else word) for word in words(2)))
    assert other.wait() == 0, other.output
    assert f"rm -r {found.path}" in other.output
    assert kept(workplace) == step
    (workplace / "away").rename(workplace / "runs/a")
    again = start("resume", "a", "--set", f"optim.max_steps={step + 2}")
    assert again.wait() == 0, again.output
    is_complete(workplace, step + 2)


# --- the last version says that it is the last ---------------------------------------------------------------


@pytest.mark.fault("{what}")
@pytest.mark.parametrize(
    ("what", "every", "act", "code"),
    [
        ("nothing: a cadence that meets the last step", 4, None, 0),
        ("everstep save at the last step", SELDOM, ask_to_save, 0),
        ("everstep save at the last step, which meets the cadence", 4, ask_to_save, 0),
        ("exit of the trainer right after its last step", SELDOM, die, 99),
    ],
)
def test_the_newest_version_of_a_completed_training_says_final(
    start: Start,
    words: Callable[..., Words],
    workplace: Path,
    what: str,
    every: int,
    act: Callable[["Loop"], None] | None,
    code: int,
) -> None:
    program = start(*words(STEPS, every), prepare=None if act is None else AfterStep(STEPS, act))
    assert program.wait() == code, program.output
    if code:  # the state of the last step was not in memory yet
        again = start(*words(STEPS, every))
        assert again.wait() == 0, again.output
    is_complete(workplace)


@pytest.mark.fault("kill -9 of the trainer when its last state is in memory and no version of it is made")
@pytest.mark.parametrize("restarts", [0, 1])
def test_a_last_state_that_is_rescued_says_final(
    start: Start, words: Callable[..., Words], workplace: Path, restarts: int
) -> None:
    program = start(*words(), "--restarts", restarts, prepare=DieWhenSealed(STEPS))
    assert program.wait() == (0 if restarts else 3), program.output
    assert f"(step {STEPS}) was rescued from memory, 0 steps back" in program.output
    is_complete(workplace)
    again = start(*words())
    assert again.wait() == 0
    assert "already complete" in again.output


class DieWhenSealed:
    """As soon as a state is whole in memory, before anything else is done with it."""

    def __init__(self, step: int) -> None:
        self.step = step

    def __call__(self) -> None:
        from everstep.train.loop import Loop

        original = Loop._save_last

        def save_last(loop: Loop, *arguments: object) -> None:
            snapshots = loop.saver.snapshots
            if snapshots is not None and loop.saver._pending == {} and loop._resumed_from in (None, 0):
                snapshots.wait()
                if snapshots.sealed_step == self.step:
                    os.kill(os.getpid(), signal.SIGKILL)
            original(loop, *arguments)  # type: ignore[arg-type]

        Loop._save_last = save_last  # type: ignore[method-assign]


# --- faults of the keeper's own -----------------------------------------------------------------------------


class KeeperFails:
    """A fault of ours in the keeper, when it would tell of a version: from the n-th time on, so many times."""

    def __init__(self, nth: int, times: int) -> None:
        self.nth, self.times, self.count = nth, times, 0

    def __call__(self) -> None:
        from everstep.keeping.keeper import Keeper

        original = Keeper._tell

        def tell(keeper: Keeper, *arguments: object) -> None:
            self.count += 1
            if self.nth <= self.count < self.nth + self.times:
                raise RuntimeError("a fault of the keeper's")
            original(keeper, *arguments)  # type: ignore[arg-type]

        Keeper._tell = tell  # type: ignore[method-assign]


@pytest.mark.fault("an exception in the keeper, once")
@pytest.mark.parametrize("nth", [1, 3])
def test_a_fault_of_the_keepers_costs_nothing(
    start: Start, words: Callable[..., Words], workplace: Path, nth: int
) -> None:
    program = start(*words(STEPS, 4), prepare=KeeperFails(nth, 1))
    assert program.wait() == 0, program.output
    assert program.output.count("RuntimeError: a fault of the keeper's") == 1
    is_complete(workplace)


@pytest.mark.fault("an exception in the keeper again and again")
@pytest.mark.parametrize("nth", [1, 2])
def test_a_keeper_that_fails_always_lets_the_trainer_end_alone(
    start: Start, words: Callable[..., Words], workplace: Path, nth: int
) -> None:
    program = start(*words(STEPS, 4), prepare=KeeperFails(nth, ENDLESS))
    assert program.wait(120) == 3, program.output
    assert "The keeper fails again and again" in program.output
    live = read_live(Run(workplace / "runs/a").layout)
    assert last_whole(workplace).step == (0 if live is None else live.step)
    assert in_memory(workplace) == []
    again = start(*words(STEPS, 4))
    assert again.wait() == 0, again.output
    is_complete(workplace)
