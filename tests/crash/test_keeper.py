"""Real processes killed at random moments: nothing that was in memory is lost, and the end is the same bit for bit."""

import json
import os
import random
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from everstep.versions import LiveStatus, Run, read_live, verify
from law import SETTINGS, STEPS, outcome
from program import Ended, Program

ROUNDS = int(os.environ.get("EVERSTEP_CRASH_ROUNDS", "12"))
KILLS = max(100, ROUNDS)
Start = Callable[..., Program]
Words = tuple[object, ...]


@pytest.fixture
def words(tiny_base: Path, pairs_folder: Path) -> Words:
    return ("train", "--run", "a", "--base", tiny_base, "--data", pairs_folder, *SETTINGS, "--keeper.snapshots", 1)


@pytest.fixture
def endless(tiny_base: Path, pairs_folder: Path) -> Words:
    many = ("--optim.max-steps", 10**6, "--versions.every", 10, "--sampling.pairs", 0)
    return ("train", "--run", "a", "--base", tiny_base, "--data", pairs_folder, *many)


def trainer_of(program: Program) -> int | None:
    """The keeper's child."""
    pid = program.process.pid
    try:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except FileNotFoundError:
        return None
    return int(children[0]) if children else None


def wait_for_trainer(program: Program, other_than: int | None = None) -> int | None:
    """The trainer's process number, or None once the program has ended."""
    until = time.monotonic() + 60
    while program.process.is_alive():
        trainer = trainer_of(program)
        if trainer is not None and trainer != other_than:
            return trainer
        assert time.monotonic() < until, program.output
        time.sleep(0.002)
    return None


def live_of(folder: Path) -> LiveStatus | None:
    return read_live(Run(folder / "runs/a").layout)


def kept_step(live: LiveStatus | None) -> int:
    """What the training said was safe, just before it was killed."""
    return 0 if live is None else live.snapshot_step or 0


def newest_step(folder: Path) -> int:
    return max((version.step for version in Run(folder / "runs/a").versions()), default=-1)


def test_kills_of_the_trainer_at_random_moments_change_nothing(
    start: Start, words: Words, straight: object, workplace: Path
) -> None:
    draws, kills, trainings = random.Random(1), 0, 0
    while kills < KILLS:
        program = start(*words, "--restarts", 10 * KILLS)
        trainer = wait_for_trainer(program)
        while trainer is not None and kills < KILLS:
            time.sleep(draws.uniform(0.0, 0.8))
            live = live_of(workplace)
            if trainer_of(program) != trainer:
                break
            os.kill(trainer, signal.SIGKILL)
            kills += 1
            before, trainer = trainer, wait_for_trainer(program, other_than=trainer)
            if live is not None and live.pid == before:
                assert newest_step(workplace) >= kept_step(live)
        assert program.wait(120) == 0, program.output
        assert outcome(workplace / "runs/a") == straight
        shutil.rmtree(workplace / "runs/a")
        trainings += 1
    assert kills > trainings


def test_kills_of_keeper_and_trainer_together_lose_nothing_that_was_in_shared_memory(
    start: Start, words: Words, straight: object, workplace: Path
) -> None:
    draws = random.Random(2)
    for _ in range(max(3, ROUNDS // 2)):
        program = start(*words)
        trainer = wait_for_trainer(program)
        time.sleep(draws.uniform(0.2, 1.5))
        live = live_of(workplace)
        program.process.kill()
        if trainer is not None and Path(f"/proc/{trainer}").exists():
            os.kill(trainer, signal.SIGKILL)
        program.process.join()
        if not Run.exists(workplace / "runs/a"):
            continue
        again = start(*words, prepare=EndAtOnce())
        again.wait()
        if live is not None and live.pid == trainer and "in /dev/shm" in program.output:
            assert newest_step(workplace) >= kept_step(live), again.output
    program = start(*words)
    assert program.wait() == 0, program.output
    assert outcome(workplace / "runs/a") == straight


class EndAtOnce:
    """A trainer that does nothing: what its keeper did before it is all that is looked at."""

    def __call__(self) -> None:
        import everstep.train.session

        everstep.train.session.train = lambda *_: 3  # type: ignore[assignment]


def test_a_killed_keeper_costs_nothing_the_trainer_saves_and_ends(
    start: Start, words: Words, straight: object, workplace: Path
) -> None:
    draws = random.Random(3)
    for _ in range(max(3, ROUNDS // 4)):
        program = start(*words)
        trainer = wait_for_trainer(program)
        program.wait_for(lambda trainer=trainer: (live := live_of(workplace)) is not None and live.pid == trainer)
        time.sleep(draws.uniform(0.0, 0.3))
        program.process.kill()
        program.process.join()
        until = time.monotonic() + 60
        while trainer is not None and is_running(trainer):
            assert time.monotonic() < until, program.output
            time.sleep(0.01)
        assert "Complete after" in program.output or "saving without it" in program.output
        last = Run.open(workplace / "runs/a").find("latest")
        assert verify(last) == []
        live = live_of(workplace)
        assert live is not None
        assert last.step == live.step
    program = start(*words)
    assert program.wait() == 0, program.output
    assert outcome(workplace / "runs/a") == straight


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


# --- trainers that misbehave -------------------------------------------------------------------------------


class Misbehave:
    """At the end of a step, do something bad; every time."""

    def __init__(self, step: int, act: str) -> None:
        self.step, self.act = step, act

    def __call__(self) -> None:
        from everstep.train.loop import Loop

        original = Loop._step

        def stepped(loop: Loop) -> None:
            original(loop)
            if loop.state.step == self.step:
                if self.act == "hang":
                    time.sleep(1000)
                os._exit(99)

        Loop._step = stepped  # type: ignore[method-assign]


def test_a_crash_that_comes_again_goes_back_by_a_version_each_time_and_ends(
    start: Start, words: Words, workplace: Path
) -> None:
    program = start(*words, "--restarts", 4, prepare=Misbehave(15, "exit"))
    assert program.wait() == 99, program.output
    assert program.output.count("The trainer ended with exit code 99, at about step 14") == 5
    assert "Two deaths within 10 steps of version_" in program.output
    assert program.output.count("Starting the trainer again") == 4
    assert all(verify(version) == [] for version in Run.open(workplace / "runs/a").versions())


def test_a_trainer_that_hangs_is_reported_with_its_stacks_and_its_state_is_committed(
    start: Start, words: Words, workplace: Path
) -> None:
    program = start(*words, "--keeper.hang-minutes", 0.03, prepare=Misbehave(5, "hang"))
    program.wait_for(lambda: "was rescued from memory" in program.output)
    run = Run.open(workplace / "runs/a")
    assert run.find("latest").step == 4
    stacks = run.layout.records / "stacks.txt"
    program.wait_for(lambda: "stepped" in stacks.read_text())
    program.signal(signal.SIGTERM)
    time.sleep(0.1)
    program.signal(signal.SIGTERM)
    assert program.wait() == 3


# --- a disk that is full -----------------------------------------------------------------------------------


@pytest.fixture
def full_disk(workplace: Path) -> Iterator[Path]:
    """runs/ is a disk that is large enough until FillTheDisk leaves it little more than version_0."""
    folder = workplace / "runs"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=20m", "none", folder], capture_output=True)
    if mounted.returncode != 0:
        pytest.skip(f"mounting is refused: {mounted.stderr.decode().strip()}")
    yield folder
    subprocess.run(["umount", "-l", folder], check=True)


def test_a_full_disk_does_not_stop_training_and_ends_with_4_when_nobody_is_there(
    start: Start, words: Words, full_disk: Path
) -> None:
    program = start(*words, prepare=FillTheDisk(full_disk))
    assert program.wait() == 4, program.output
    assert "step 10) is not committed: it needs " in program.output
    assert "training goes on" in program.output
    run = Run.open(full_disk / "a")
    assert [version.step for version in run.versions()] == [0]
    assert verify(run.find("0")) == []
    if "for the next start to commit" in program.output:
        subprocess.run(["mount", "-o", "remount,size=100m", full_disk], check=True)
        again = start(*words)
        assert again.wait() == 0, again.output
        assert "Rescued version_1 (step 40)" in again.output


def test_a_commit_is_tried_again_and_succeeds_once_there_is_room(start: Start, words: Words, full_disk: Path) -> None:
    program = start(*words, "--unattended", 5, prepare=FillTheDisk(full_disk))
    program.wait_for(lambda: "is not committed" in program.output)
    subprocess.run(["mount", "-o", "remount,size=100m", full_disk], check=True)
    assert program.wait() == 0, program.output
    run = Run.open(full_disk / "a")
    assert run.find("latest").step == STEPS
    assert run.find("latest").reason == "interval"


def test_unattended_gives_up_after_the_stated_time(start: Start, endless: Words, full_disk: Path) -> None:
    program = start(*endless, "--unattended", 0.02, prepare=FillTheDisk(full_disk))
    assert program.wait() == 4, program.output
    assert "has refused every version for" in program.output


class FillTheDisk:
    """Something else takes the room as soon as version_0 is there. The test does not wait as long as people do."""

    LEFT_BYTES = 500_000

    def __init__(self, disk: Path) -> None:
        self.disk = disk

    def __call__(self) -> None:
        from everstep.keeping import committer
        from everstep.versions import fsops

        committer.RETRY_S = 0.3
        original, ballast = fsops.flush_folder, self.disk / "ballast"

        def flush_folder(path: Path) -> None:
            original(path)
            if (self.disk / "a/version_0").is_dir() and not ballast.exists():
                with ballast.open("wb") as file:
                    os.posix_fallocate(file.fileno(), 0, fsops.free_bytes(self.disk) - self.LEFT_BYTES)

        fsops.flush_folder = flush_folder


# --- what another shell asks -------------------------------------------------------------------------------


def test_save_commits_within_a_step_under_a_label(
    start: Start, endless: Words, everstep: Callable[..., Ended], workplace: Path
) -> None:
    program = start(*endless)
    program.wait_for(lambda: live_of(workplace) is not None)
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
