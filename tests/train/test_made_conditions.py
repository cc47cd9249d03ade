"""Trainings whose conditions are made: they resume exactly, and notice where what makes them is another."""

import json
import shutil
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from everstep.versions import Run
from law import SETTINGS, KillAfter, outcome
from program import Ended, Program

Everstep = Callable[..., Ended]
OWN = """
import numpy as np

def noisy(picture, draws):
    return np.clip(255 - picture + draws.normal(0, 9, picture.shape), 0, 255).astype(np.uint8)
"""
FEW = ("--optim.batch-size", 2, "--sampling.pairs", 0, "--scoring.overhead", 0, "--versions.every", 2)


@pytest.fixture
def alone(workplace: Path, pairs_folder: Path) -> Path:
    """The pairs' pictures, in a list that names no conditions; and a function beside it."""
    folder = workplace / "alone"
    shutil.copytree(pairs_folder, folder, ignore=shutil.ignore_patterns("*_outline.png"))
    listed = [json.loads(line) for line in (folder / "metadata.jsonl").read_text().splitlines()]
    lines = (json.dumps({key: line[key] for key in ("file_name", "text")}) for line in listed)
    (folder / "metadata.jsonl").write_text("\n".join(lines))
    (workplace / "own.py").write_text(OWN)
    return folder


@pytest.mark.parametrize(
    "how",
    [
        ("--data.condition", "canny", "--data.condition-random"),
        pytest.param(("--data.condition", "own.py:noisy"), marks=pytest.mark.slow),
    ],
    ids=["canny", "own"],
)
def test_kills_and_other_workers_change_nothing(
    how: tuple[str, ...], alone: Path, tiny_base: Path, start: Callable[..., Program], workplace: Path
) -> None:
    words = ("--base", tiny_base, "--data", alone, *SETTINGS, *how)
    program = start("train", "--run", "straight", *words, "--data.workers", 0)
    assert program.wait() == 0, program.output
    for step, number in ((7, signal.SIGTERM), (23, signal.SIGKILL)):
        program = start("train", "--run", "a", *words, prepare=KillAfter(step, number))
        assert program.wait() == 3, program.output
    program = start("train", "--run", "a", *words)
    assert program.wait() == 0, program.output
    assert outcome(workplace / "runs/a") == outcome(workplace / "runs/straight")


@pytest.fixture
def run(alone: Path, tiny_base: Path, everstep: Everstep, workplace: Path) -> Run:
    """Two steps with a function of one's own."""
    ended = everstep(
        "train",
        *("--run", "a", "--base", tiny_base, "--data", alone, *FEW),
        *("--data.condition", "own.py:noisy", "--optim.max-steps", 2),
        *("--optim.learning-rate", 3e-2, "--optim.hint-start", "random"),  # so that the condition soon shows
    )
    assert ended.code == 0, ended.out
    return Run.open(workplace / "runs/a")


def test_a_function_that_was_changed_is_named_and_may_be_gone_on_with(
    run: Run, everstep: Everstep, workplace: Path
) -> None:
    own = workplace / "own.py"
    made = run.find("latest")
    assert made.manifest["data"]["condition"]["name"] == "noisy"
    own.write_text(OWN.replace("9", "90"))
    ended = everstep("resume", "a", "--set", "optim.max_steps=4")
    assert ended.code == 2
    assert f"The condition function in {own} has changed since version_1 was made. Nothing was changed." in ended.out
    way = ended.out.strip().splitlines()[-1].partition("everstep resume ")[2].split()
    assert way[1:] == ["--set", f"data.condition={own}:noisy"]
    again = everstep("resume", "a", *way[1:], "--set", "optim.max_steps=4")
    assert again.code == 0, again.out
    assert "data.fingerprint" in run.find("latest").parent.changes  # type: ignore[union-attr]


def test_a_function_that_was_moved_is_the_same_in_another_place(run: Run, everstep: Everstep, workplace: Path) -> None:
    (workplace / "lib").mkdir()
    moved = shutil.move(workplace / "own.py", workplace / "lib/mine.py")
    refused = everstep("resume", "a", "--set", "optim.max_steps=4")
    assert refused.code == 2
    assert "there is no such file" in refused.out
    ended = everstep("resume", "a", "--set", f"data.condition={moved}:noisy", "--set", "optim.max_steps=4")
    assert ended.code == 0, ended.out
    assert "a: the same function is in another place now" in ended.out
    assert "data.fingerprint" not in run.find("latest").parent.changes  # type: ignore[union-attr]


def test_another_kind_is_said_and_recorded(run: Run, everstep: Everstep) -> None:
    ended = everstep("resume", "a", "--set", "data.condition=blur", "--set", "optim.max_steps=4")
    assert ended.code == 0, ended.out
    assert "changed on purpose" in ended.out.split("Loading PyTorch")[0]
    made = run.find("latest")
    assert made.manifest["data"]["condition"] == {"kind": "blur", "algorithm": 1}
    assert {"data.condition", "data.fingerprint"} <= made.parent.changes.keys()  # type: ignore[union-attr]


def test_a_picture_is_drawn_from_a_photograph_with_the_runs_own_recipe(
    run: Run, everstep: Everstep, alone: Path, workplace: Path
) -> None:
    words = ("sample", "a", "--condition", alone / "3.png", "--prompt", "p", "--out")
    for out, more in (("made.png", ("--make-condition",)), ("given.png", ())):
        ended = everstep(*words, out, *more)
        assert ended.code == 0, ended.out
    assert (workplace / "made.png").read_bytes() != (workplace / "given.png").read_bytes()
