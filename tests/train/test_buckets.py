"""The resume law over pictures of several shapes, and what a change of batch size means there."""

import shutil
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from everstep.records.steps import read_metrics
from everstep.versions import Run
from law import SETTINGS, STEPS, KillAfter, outcome
from oblong import write_oblong
from program import Ended, Program

Everstep = Callable[..., Ended]
BUCKETS = ("--data.shape", "buckets", "--data.resolution", 16)
LINE = (*BUCKETS, "--optim.batch-size", 2, "--sampling.pairs", 0, "--scoring.overhead", 0, "--versions.every", 2)
SLOW = pytest.mark.slow  # the same with other numbers
ANEW = "Which pairs come when is planned anew from here on"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_oblong(tmp_path_factory.mktemp("data") / "oblong")


@pytest.fixture(scope="module")
def whole(tiny_base: Path, folder: Path, tmp_path_factory: pytest.TempPathFactory) -> object:
    """The uninterrupted run; batches of two in two passes, so that a step may have two shapes."""
    place = tmp_path_factory.mktemp("straight")
    program = Program(("train", "--run", "a", "--base", tiny_base, "--data", folder, *SETTINGS, *BUCKETS), place)
    assert program.wait() == 0, program.output
    assert "Pictures are trained in" in program.output
    assert "and repeats them to fill it" in program.output
    return outcome(place / "runs/a")


@pytest.mark.parametrize(
    ("number", "workers"),
    [
        (signal.SIGKILL, 2),
        pytest.param(signal.SIGKILL, 0, marks=SLOW),
        pytest.param(signal.SIGTERM, 1, marks=SLOW),
    ],
)
def test_stops_at_7_19_and_31_change_nothing(
    number: signal.Signals,
    workers: int,
    whole: object,
    tiny_base: Path,
    folder: Path,
    start: Callable[..., Program],
    workplace: Path,
) -> None:
    words = ("train", "--run", "a", "--base", tiny_base, "--data", folder, *SETTINGS, *BUCKETS)
    words = (*words, "--data.workers", workers)
    for step in (7, 19, 31):
        program = start(*words, prepare=KillAfter(step, number))
        assert program.wait() == 3, program.output
    program = start(*words)
    assert program.wait() == 0, program.output
    assert "not restored: nothing" in program.output
    assert outcome(workplace / "runs/a") == whole


def test_batches_follow_each_other(whole: object) -> None:
    _, metrics, _ = whole  # type: ignore[misc]
    assert [line["first_example"] for line in metrics] == [4 * step for step in range(STEPS)]


# --- changes -----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def begun(tiny_base: Path, folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of 5 steps with batches of 2; nobody writes to it."""
    place = tmp_path_factory.mktemp("changes")
    words = ("train", "--run", "a", "--base", tiny_base, "--data", folder, *LINE, "--optim.max-steps", 5)
    program = Program(words, place)
    assert program.wait() == 0, program.output
    return place / "runs/a"


@pytest.fixture
def run(begun: Path, workplace: Path) -> Run:
    shutil.copytree(begun, workplace / "runs/a")
    return Run.open(workplace / "runs/a")


def first_examples(run: Run) -> list[int]:
    return [int(line["first_example"]) for line in read_metrics(run.path / "records")]


def test_another_batch_size_begins_at_its_next_batch_is_said_and_stays_exact(everstep: Everstep, run: Run) -> None:
    other = Run(shutil.copytree(run.path, run.path.with_name("b")))
    changed = ("--set", "optim.batch_size=4", "--set", "versions.every=1")
    ended = everstep("resume", "a", *changed, "--set", "optim.max_steps=9")
    assert ended.code == 0, ended.out
    assert ANEW in ended.out.split("Loading PyTorch")[0]
    assert first_examples(run) == [0, 2, 4, 6, 8, 12, 16, 20, 24]
    assert run.find("latest").images_seen == 10 + 4 * 4
    assert everstep("resume", "b", *changed, "--set", "optim.max_steps=7").code == 0
    again = everstep("resume", "b", "--set", "optim.max_steps=9")
    assert again.code == 0, again.out
    assert ANEW not in again.out
    digests = [(one.find("latest").path / "digests.json").read_text() for one in (run, other)]
    assert digests[0] == digests[1]
    replayed = everstep("replay", f"a@{run.find('latest').number}")
    assert replayed.code == 0, replayed.out


@pytest.mark.parametrize("change", ["data.shape=square", "data.resolution=24"])
def test_other_shapes_are_another_plan_and_are_said(everstep: Everstep, run: Run, change: str) -> None:
    ended = everstep("resume", "a", "--set", change, "--set", "optim.max_steps=6")
    assert ended.code == 0, ended.out
    assert ANEW in ended.out.split("Loading PyTorch")[0]
    assert first_examples(run)[-1] == 10


def test_what_plans_nothing_is_no_other_plan(everstep: Everstep, run: Run) -> None:
    ended = everstep("resume", "a", "--set", "optim.learning_rate=5e-6", "--set", "optim.max_steps=6")
    assert ended.code == 0, ended.out
    assert ANEW not in ended.out


def test_the_same_line_with_another_batch_size_is_refused(
    everstep: Everstep, run: Run, tiny_base: Path, folder: Path
) -> None:
    words = ("train", "--run", "a", "--base", tiny_base, "--data", folder, *LINE, "--optim.max-steps", 5)
    assert everstep(*words).code == 0
    refused = everstep(*words, "--set", "optim.batch_size=3")
    assert refused.code == 2
    assert "optim.batch_size  2 -> 3" in refused.out
