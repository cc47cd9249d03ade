"""However a training ends, its newest state is a version or lies in memory by name, and the next start goes on from it.

Real processes and real full disks; where a version is due only at the start, all that is kept was in memory before.
"""

import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from trainers import (
    AfterStep,
    Together,
    die,
    in_memory,
    is_running,
    kill_both,
    last_whole,
    wait_for_trainer,
    wait_until,
    wait_until_it_tells,
)

from disks import fill, remount, small_disk
from everstep.train.metrics import read_metrics
from everstep.versions import Run, read_live
from program import Ended, Program

if TYPE_CHECKING:
    from everstep.train.loop import Loop

Start = Callable[..., Program]
Words = tuple[object, ...]
STEPS = 12
ENDLESS, SELDOM = 10**6, 10**6


@pytest.fixture
def words(tiny_base: Path, pairs_folder: Path) -> Callable[..., Words]:
    def call(steps: int = STEPS, every: int = SELDOM, *more: object, sheets: int = 0) -> Words:
        data = ("--base", tiny_base, "--data", pairs_folder, "--optim.batch-size", 2)
        amounts = ("--optim.max-steps", steps, "--versions.every", every, "--sampling.pairs", sheets)
        return ("train", "--run", "a", *data, *amounts, "--keeper.snapshots", 1, *more)

    return call


@pytest.fixture
def runs_disk(workplace: Path) -> Iterator[Path]:
    """runs/ is a disk of its own."""
    with small_disk(workplace / "runs", "size=40m") as folder:
        yield folder


def trained(program: Program, workplace: Path) -> int:
    """Its trainer, once that has told of a state in memory."""
    trainer = wait_for_trainer(program)
    assert trainer is not None, program.output
    assert wait_until_it_tells(program, trainer, workplace), program.output
    return trainer


def kept(workplace: Path) -> int:
    """The step of the state that lies in memory, unused."""
    (found,) = in_memory(workplace)
    assert not found.is_used
    assert found.step is not None
    return found.step


def is_complete(workplace: Path, steps: int = STEPS) -> None:
    last = last_whole(workplace)
    assert (last.step, last.reason) == (steps, "final")
    assert [line["step"] for line in read_metrics(workplace / "runs/a/records")] == list(range(1, steps + 1))
    assert in_memory(workplace) == []


# --- deaths and disks --------------------------------------------------------------------------------------


class RetrySoon:
    """The test does not wait as long as people do."""

    def __call__(self) -> None:
        from everstep.keeping import committer

        committer.RETRY_S = 0.1


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


# --- copies that are refused --------------------------------------------------------------------------------


class SpoilTheClaimOf:
    """The digest of one claimed copy is wrong, as that of memory that rots."""

    def __init__(self, step: int) -> None:
        self.step = step

    def __call__(self) -> None:
        from everstep.keeping import snapshots

        original = snapshots.slot_notes

        def spoiled(draft: object, pieces: dict[str, list[str]], label: str | None = None) -> object:
            if draft.step == self.step:  # type: ignore[attr-defined]
                pieces = {path: ["0" * 16, *digests[1:]] for path, digests in pieces.items()}
            return original(draft, pieces, label)  # type: ignore[arg-type]

        snapshots.slot_notes = spoiled  # type: ignore[assignment]


class AskAt:
    """everstep save comes between two steps, under a label."""

    def __call__(self, loop: "Loop") -> None:
        from everstep.versions import write_request

        write_request(loop.saver.making.run.layout, "save", label=f"at {loop.state.step}")


def known_of(run: Run) -> dict[int, tuple[object, object]]:
    """Labels and scores of each version, by its step."""
    notes = {version.step: run.annotation(version.number) for version in run.versions()}
    return {step: (note.labels, note.scores) for step, note in notes.items()}


@pytest.mark.fault("a claimed copy that fails its digest")
def test_a_refused_copy_leaves_later_versions_their_own_labels_losses_and_scores(
    start: Start, words: Callable[..., Words], workplace: Path
) -> None:
    scored = words(9, 2, "--sampling.steps", 2, "--keep.everything", sheets=2)
    undisturbed = start(*scored, prepare=AfterStep(7, AskAt()))
    assert undisturbed.wait(120) == 0, undisturbed.output
    whole = known_of(Run.open((workplace / "runs/a").rename(workplace / "whole")))
    program = start(*scored, prepare=Together((SpoilTheClaimOf(4), AfterStep(7, AskAt()))))
    assert program.wait(120) == 0, program.output
    assert "The version of step 4 was refused: it is torn: " in program.output
    is_complete(workplace, 9)
    assert list(whole) == [0, 2, 4, 6, 7, 8, 9]
    labels, scores = whole[7]
    assert (labels, sorted(scores)) == (("at 7",), ["control_gain", "loss"])
    assert known_of(Run.open(workplace / "runs/a")) == {step: known for step, known in whole.items() if step != 4}


@pytest.mark.fault("the last copy of a training fails its digest")
def test_a_training_whose_last_copy_is_refused_is_complete_only_with_a_final_version(
    start: Start, words: Callable[..., Words], workplace: Path
) -> None:
    program = start(*words(), prepare=SpoilTheClaimOf(STEPS))
    assert program.wait() == 0, program.output
    assert f"The version of step {STEPS} was refused" in program.output
    assert f"Complete after {STEPS} steps" in program.output
    is_complete(workplace)


class FillAfter:
    """Runs' disk has no byte left after this step."""

    def __init__(self, disk: Path) -> None:
        self.disk = disk

    def __call__(self, loop: "Loop") -> None:
        fill(self.disk)


@pytest.mark.fault("the last copy of a training fails its digest, and the disk is full")
def test_a_training_whose_last_state_is_nowhere_is_not_called_complete(
    start: Start, words: Callable[..., Words], runs_disk: Path, workplace: Path
) -> None:
    prepared = (RetrySoon(), SpoilTheClaimOf(STEPS), AfterStep(STEPS, FillAfter(runs_disk)))
    program = start(*words(), prepare=Together(prepared))
    assert program.wait() == 4, program.output
    assert "Complete after" not in program.output
    assert kept(workplace) == STEPS  # what is wrong with it shows when it is written
    remount(runs_disk, "size=200m")
    again = start(*words())
    assert again.wait() == 0, again.output
    assert f"(step {STEPS - 1}) from memory" in again.output
    is_complete(workplace)


class FullFrom:
    """The disk takes no version until two of them wait for it; the next step comes once both are there."""

    def __init__(self, disk: Path) -> None:
        self.disk = disk

    def __call__(self, loop: "Loop") -> None:
        step, run = loop.state.step, loop.saver.making.run
        if step == 1:
            fill(self.disk)
        elif step == 7:  # those of 3 and 6 wait
            (self.disk / "ballast").unlink()
            while not (run.path / "version_2").is_dir():
                time.sleep(0.005)
            while (run.path / "version_1").is_dir():
                time.sleep(0.005)


@pytest.mark.fault("two versions committed, and one retired, within one step")
def test_a_version_that_is_gone_before_the_trainer_hears_of_it_ends_nothing(
    start: Start, words: Callable[..., Words], runs_disk: Path, workplace: Path
) -> None:
    act = FullFrom(runs_disk)
    prepare = Together((RetrySoon(), AfterStep(1, act), AfterStep(7, act)))
    keep = ("--keep.last", 1, "--keep.best", 0, "--keep.every", "none", "--unattended", 10)
    program = start(*words(STEPS, 3, *keep), prepare=prepare)
    assert program.wait(120) == 0, program.output
    assert "training goes on" in program.output
    is_complete(workplace)


# --- the last version says that it is the last ---------------------------------------------------------------


@pytest.mark.fault("{what}")
@pytest.mark.parametrize(
    ("what", "every", "act", "code"),
    [
        ("nothing: a cadence that meets the last step", 4, None, 0),
        ("everstep save at the last step", SELDOM, AskAt(), 0),
        ("everstep save at the last step, which meets the cadence", 4, AskAt(), 0),
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


# --- sick states, damaged versions, faults of ours -----------------------------------------------------------


def sicken(loop: "Loop") -> None:
    import torch

    with torch.no_grad(), loop.state.revision.changing():
        next(iter(loop.state.controlnet.parameters())).view(-1)[0] = float("nan")


@pytest.mark.fault("a weight that is no number")
def test_a_state_that_is_no_numbers_ends_with_5_and_the_last_good_one_is_kept(
    start: Start, words: Callable[..., Words], workplace: Path
) -> None:
    program = start(*words(), "--restarts", 3, prepare=AfterStep(5, sicken))
    assert program.wait() == 5, program.output
    assert last_whole(workplace).step == 4
    assert in_memory(workplace) == []
    again = start(*words())
    assert again.wait() == 0, again.output
    is_complete(workplace)


def spoil(path: Path) -> None:
    with path.open("r+b") as file:
        file.seek(-5, os.SEEK_END)
        byte = file.read(1)
        file.seek(-5, os.SEEK_END)
        file.write(bytes([byte[0] ^ 1]))


class CountReads:
    """Says which versions are read whole by the keeper: the trainer reads while it loads."""

    def __call__(self) -> None:
        from everstep.versions import quarantine

        original = quarantine.verify

        def verify(version: object) -> object:
            print(f"read whole: {version.name}", flush=True)  # type: ignore[attr-defined]
            return original(version)  # type: ignore[arg-type]

        quarantine.verify = verify  # type: ignore[assignment]


@pytest.mark.fault("a version whose bytes rotted, found while it is loaded")
def test_a_damaged_version_is_set_aside_while_loading_and_the_one_before_is_taken(
    start: Start, words: Callable[..., Words], workplace: Path
) -> None:
    assert start(*words(8, 4)).wait() == 0
    run = Run.open(workplace / "runs/a")
    spoil(run.find("2").path / "controlnet/diffusion_pytorch_model.safetensors")
    again = start("resume", "a", "--set", f"optim.max_steps={STEPS}", prepare=CountReads())
    assert again.wait() == 0, again.output
    assert "version_2 is damaged: it " in again.output
    assert "was ended by" not in again.output
    reads = [line for line in again.output.splitlines() if line.startswith("read whole")]
    assert reads == ["read whole: version_2"]  # only what is moved away; the one before is verified as it is loaded
    assert (run.path / "quarantine").is_dir()
    last = last_whole(workplace)
    assert (last.step, last.reason) == (STEPS, "final")


def die_once(loop: "Loop") -> None:
    mark = loop.saver.making.run.path.with_name("has died")
    if not mark.exists():
        mark.touch()
        os.kill(os.getpid(), signal.SIGKILL)


class DieBeforeTheFirstStep:
    """Once, when everything is loaded."""

    def __call__(self) -> None:
        from everstep.train.loop import Loop

        original = Loop._until_the_end

        def until_the_end(loop: Loop) -> object:
            die_once(loop)
            return original(loop)

        Loop._until_the_end = until_the_end  # type: ignore[assignment,method-assign]


@pytest.mark.fault("kill -9 of a trainer that goes on from a version asked for by number, before its first step")
def test_a_death_does_not_lead_from_the_version_asked_for_to_another(
    start: Start, words: Callable[..., Words], workplace: Path
) -> None:
    assert start(*words(8, 4)).wait() == 0
    more = ("--set", f"optim.max_steps={STEPS}", "--set", "keeper.restarts=2")
    again = start("resume", "a@1", *more, prepare=DieBeforeTheFirstStep())
    assert again.wait() == 0, again.output
    assert "Starting the trainer again, 1 of 2 times." in again.output
    run = Run.open(workplace / "runs/a")
    assert run.find("latest").step == STEPS
    assert (run.find("3").step, run.find("3").parent) == (8, run.ref(run.find("1"))), again.output


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
