"""Copies that are refused, states that are sick, versions that rotted: named, put aside, and never mistaken for others.

What is said of one claim is said of no other, and what was asked for by name is not exchanged for what is newer.
"""

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from trainers import (
    STEPS,
    RetrySoon,
    Together,
    ask_to_save,
    in_memory,
    is_complete,
    kept,
    last_whole,
)

from disks import fill, remount
from everstep.versions import Run
from program import AfterStep, Program

if TYPE_CHECKING:
    from everstep.train.loop import Loop

Start = Callable[..., Program]
Words = tuple[object, ...]


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


def wait_for_the_disk(loop: "Loop") -> None:
    """Until another version has room in memory."""
    while loop.saver.snapshots is not None and loop.saver.snapshots.is_full:
        time.sleep(0.01)


def wait(loop: "Loop") -> None:
    """Until the keeper has said what it has to say."""
    time.sleep(2)


def known_of(run: Run) -> dict[int, tuple[object, dict[str, float]]]:
    """Labels and scores of each version, by its step."""
    notes = {version.step: run.annotation(version.number) for version in run.versions()}
    return {step: (note.labels, dict(note.scores)) for step, note in notes.items()}


@pytest.mark.fault("a claimed copy that fails its digest")
def test_a_refused_copy_leaves_later_versions_their_own_labels_losses_and_scores(
    start: Start, words: Callable[..., Words], workplace: Path
) -> None:
    # Patience, which ends nothing here, has every version measured, whatever the clock says.
    scored = words(9, 2, "--sampling.steps", 2, "--keep.everything", "--scoring.patience", 99, sheets=2, scores=0.02)
    in_time = tuple(AfterStep(step, wait_for_the_disk) for step in range(1, 10))  # none is put off
    undisturbed = start(*scored, prepare=Together((*in_time, AfterStep(7, ask_to_save))))
    assert undisturbed.wait(120) == 0, undisturbed.output
    whole = known_of(Run.open((workplace / "runs/a").rename(workplace / "whole")))
    hears = AfterStep(5, wait)  # of the refusal, before it asks what is due
    program = start(*scored, prepare=Together((SpoilTheClaimOf(4), *in_time, hears, AfterStep(7, ask_to_save))))
    assert program.wait(120) == 0, program.output
    assert "The version of step 4 was refused: it is torn: " in program.output
    is_complete(workplace, 9)
    assert list(whole) == [0, 2, 4, 6, 7, 8, 9]
    labels, scores = whole[7]
    assert (labels, sorted(scores)) == (("at 7",), ["benefit", "control_gain", "loss"])
    found = known_of(Run.open(workplace / "runs/a"))
    assert list(found) == [0, 2, 5, 6, 7, 8, 9]
    found.pop(5)
    assert found == {step: known for step, known in whole.items() if step != 4}


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
