"""Real processes killed at random moments: nothing that was in memory is lost, and the end is the same bit for bit.

A kill counts as a hit where the trainer had told of a state in memory before it; others are made, too, and repeated.
"""

import json
import os
import random
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from chance import draws, rounds
from faults import Seen
from trainers import (
    EndAtOnce,
    die,
    hang,
    hang_with_the_lock,
    is_running,
    kept_step,
    kill_both,
    latest_step,
    told,
    trainer_of,
    wait_for_trainer,
    wait_until_it_tells,
)

from everstep.versions import Run, read_live, verify
from law import SETTINGS, UNSEEN, outcome
from program import AfterStep, Ended, Program

NEVER = 1000  # steps between versions: what memory holds is on no disk, unless it is rescued
AT_ONCE = 0.15  # share of the kills that do not wait until the trainer has told anything
Start = Callable[..., Program]
Words = tuple[object, ...]


@pytest.fixture
def words(tiny_base: Path, pairs_folder: Path, memory: Path) -> Words:
    kept = ("--keeper.snapshots", 1, "--keeper.ram-dir", memory)  # what a failed test leaves there goes with it
    return ("train", "--run", "a", "--base", tiny_base, "--data", pairs_folder, *SETTINGS, *kept)


@pytest.fixture
def only_in_memory(words: Words) -> Words:
    """The same training, with no version between the first and the last but those that are rescued."""
    every = words.index("--versions.every") + 1
    return (*words[:every], NEVER, *words[every + 1 :])


def let_it_train(program: Program, trainer: int, folder: Path, chance: random.Random) -> None:
    """Up to a moment at which to kill it."""
    if chance.random() < AT_ONCE:
        time.sleep(chance.uniform(0.0, 0.5))
    elif wait_until_it_tells(program, trainer, folder):
        time.sleep(chance.uniform(0.0, 0.4))


@pytest.mark.fault("kill -9 of the trainer at random moments")
def test_kills_of_the_trainer_at_random_moments_change_nothing(
    start: Start, only_in_memory: Words, straight: object, workplace: Path, seen: Seen
) -> None:
    chance, floor = draws("trainer"), rounds(6)
    while seen.hit_times < floor:
        program = start(*only_in_memory, "--restarts", 1000 * floor)
        trainer = wait_for_trainer(program)
        while trainer is not None and seen.hit_times < floor:
            let_it_train(program, trainer, workplace, chance)
            live = told(workplace, trainer)
            if trainer_of(program) != trainer:
                break
            os.kill(trainer, signal.SIGKILL)
            seen.injected()
            trainer = wait_for_trainer(program, other_than=trainer)
            kept = kept_step(live)
            if kept is not None:
                seen.lost(kept - latest_step(workplace))
                seen.hit()
                assert seen.lost_steps == 0, program.output
        assert program.wait(240) == 0, program.output
        assert outcome(workplace / "runs/a") == straight
        shutil.rmtree(workplace / "runs/a")


@pytest.mark.fault("kill -9 of keeper and trainer together")
def test_kills_of_keeper_and_trainer_together_lose_nothing_that_was_in_shared_memory(
    start: Start, only_in_memory: Words, straight: object, workplace: Path, memory: Path, seen: Seen
) -> None:
    chance, floor = draws("keeper and trainer"), rounds(2, most=50)
    while seen.hit_times < floor:
        program = start(*only_in_memory)
        trainer = wait_for_trainer(program)
        if trainer is None:  # all steps had been made
            shutil.rmtree(workplace / "runs/a")
            continue
        let_it_train(program, trainer, workplace, chance)
        live = told(workplace, trainer)
        kill_both(program, trainer)
        seen.injected()
        if not Run.exists(workplace / "runs/a"):
            continue
        again = start(*only_in_memory, prepare=EndAtOnce())
        again.wait()
        kept = kept_step(live)
        if kept is not None and f"in {memory}" not in program.output:
            pytest.skip(f"{memory} has no room for an arena")
        if kept is not None:
            seen.lost(kept - latest_step(workplace))
            seen.hit()
            assert seen.lost_steps == 0, f"{program.output}\n--- then\n{again.output}"
    program = start(*only_in_memory)
    assert program.wait() == 0, program.output
    assert outcome(workplace / "runs/a") == straight


@pytest.mark.fault("kill -9 of the keeper alone")
def test_a_killed_keeper_costs_nothing_the_trainer_saves_and_ends(
    start: Start, words: Words, straight: object, workplace: Path, seen: Seen
) -> None:
    chance, floor = draws("keeper"), rounds(2, most=30)
    while seen.hit_times < floor:
        program = start(*words)
        trainer = wait_for_trainer(program)
        if trainer is None or not wait_until_it_tells(program, trainer, workplace):
            shutil.rmtree(workplace / "runs/a")
            continue
        time.sleep(chance.uniform(0.0, 0.3))
        program.process.kill()
        program.process.join()
        seen.injected()
        until = time.monotonic() + 60
        while is_running(trainer):
            assert time.monotonic() < until, program.output
            time.sleep(0.01)
        is_hit = "saving without it" in program.output
        assert is_hit or "Complete after" in program.output
        last, live = Run.open(workplace / "runs/a").find("latest"), told(workplace, trainer)
        assert verify(last) == []
        assert live is not None
        seen.lost(live.step - last.step)
        seen.hit(is_hit)
        assert seen.lost_steps == 0
    program = start(*words)
    assert program.wait() == 0, program.output
    assert outcome(workplace / "runs/a") == straight


# --- trainers that misbehave -------------------------------------------------------------------------------


@pytest.mark.fault("trainer that dies at the same step again and again")
def test_a_crash_that_comes_again_goes_back_by_a_version_each_time_and_ends(
    start: Start, words: Words, workplace: Path
) -> None:
    program = start(*words, "--restarts", 4, prepare=AfterStep(15, die))
    assert program.wait() == 99, program.output
    assert program.output.count("The trainer ended with exit code 99, at about step 14") == 5
    assert "Two deaths within 10 steps of version_" in program.output
    assert program.output.count("Starting the trainer again") == 4
    assert all(verify(version) == [] for version in Run.open(workplace / "runs/a").versions())


@pytest.mark.fault("trainer that hangs")
@pytest.mark.parametrize("hanging", [hang, hang_with_the_lock])
def test_a_trainer_that_hangs_is_reported_with_its_stacks_and_its_state_is_committed(
    start: Start, words: Words, workplace: Path, hanging: Callable[..., None]
) -> None:
    program = start(*words, "--keeper.hang-minutes", 0.03, prepare=AfterStep(5, hanging))
    program.wait_for(lambda: "was rescued from memory" in program.output)
    run = Run.open(workplace / "runs/a")
    assert run.find("latest").step == 4
    stacks = run.layout.records / "stacks.txt"
    program.wait_for(lambda: f" in {hanging.__name__}" in stacks.read_text())
    program.signal(signal.SIGTERM)
    time.sleep(1.2)  # signals within a moment are one
    program.signal(signal.SIGTERM)
    assert program.wait() == 3


# --- what another shell asks -------------------------------------------------------------------------------


@pytest.fixture
def endless(tiny_base: Path, pairs_folder: Path) -> Words:
    many = ("--optim.max-steps", 10**6, "--versions.every", 10, *UNSEEN)
    return ("train", "--run", "a", "--base", tiny_base, "--data", pairs_folder, *many)


def test_save_commits_within_a_step_under_a_label(
    start: Start, endless: Words, everstep: Callable[..., Ended], workplace: Path
) -> None:
    program = start(*endless)
    program.wait_for(lambda: read_live(Run(workplace / "runs/a").layout) is not None)
    saved = everstep("save", "a", "--label", "before lunch")
    assert saved.code == 0, saved.out
    listed = json.loads(everstep("list", "a", "--json").out)
    assert listed[-1]["labels"] == ["before lunch"]
    assert listed[-1]["reason"] == "asked"
    assert f"(step {listed[-1]['step']:,})" in saved.out
    status = json.loads(everstep("status", "a", "--json").out)
    assert status["steps_at_risk"] <= 10
    assert everstep("stop", "a").code == 0
    assert program.wait() == 3
    assert everstep("save", "a").code == 2
