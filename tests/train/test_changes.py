"""Going on with changes: each is told before anything is loaded, is recorded in the lineage, and takes effect."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from everstep.config.load import read_hparams
from everstep.records.steps import read_metrics
from everstep.versions import Run, Version
from program import Ended

Everstep = Callable[..., Ended]
SETTINGS = ("--optim.batch-size", 2, "--sampling.pairs", 0, "--scoring.overhead", 0, "--optim.ema-decay", 0.9)


@pytest.fixture(scope="session")
def trained(tiny_base: Path, pairs_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of 4 steps with its data beside it, to be copied; nobody writes to it."""
    from program import Program

    folder = tmp_path_factory.mktemp("changes")
    shutil.copytree(pairs_folder, folder / "data")
    words = ("train", "--run", "a", "--base", tiny_base, "--data", "data", *SETTINGS)
    program = Program((*words, "--optim.max-steps", 4, "--versions.every", 2, "--data.resolution", 16), folder)
    assert program.wait(timeout_s=240) == 0, program.output
    return folder


@pytest.fixture
def run(trained: Path, workplace: Path) -> Run:
    """The run, in a workplace of its own; its data stay where they were."""
    shutil.copytree(trained / "runs/a", workplace / "runs/a")
    return Run.open(workplace / "runs/a")


def first_after(run: Run) -> Version:
    """The first version made since."""
    return next(version for version in run.versions() if version.number == 3)


def position(run: Run) -> list[tuple[int, int]]:
    """Of each step: its number and the first example it was trained on."""
    return [(int(line["step"]), int(line["first_example"])) for line in read_metrics(run.path / "records")]


@pytest.mark.parametrize(
    ("key", "value", "before"),
    [
        ("optim.learning_rate", 5e-6, 1e-5),
        ("optim.accumulation_steps", 3, 1),
        ("optim.schedule", "cosine", "constant"),
        ("optim.weight_decay", 0.5, 0.01),
        ("optim.ema_decay", 0.99, 0.9),
        ("optim.min_snr_gamma", 5.0, None),
        ("data.prompt_dropout", 0.0, 0.5),
        ("data.flip_probability", 0.5, 0.0),
        ("data.crop", "random", "centre"),
        ("data.resolution", 8, 16),
        ("compute.precision", "bf16", "auto"),
        ("compute.gradient_checkpointing", True, False),
        ("versions.every", "1", "2"),
        ("keep.last", 2, 3),
    ],
)
def test_a_setting_changes_is_told_first_and_is_recorded(
    everstep: Everstep, run: Run, key: str, value: Any, before: Any
) -> None:
    ended = everstep("resume", "a", "--set", f"{key}={value}", "--set", "optim.max_steps=6")
    assert ended.code == 0, ended.out
    told = ended.out.split("Loading PyTorch")[0]
    assert "changed on purpose" in told
    assert f"  {key} " in told
    assert "Resumed from version_2 (step 4, 8 images seen)" in ended.out
    made = first_after(run)
    assert made.parent is not None
    assert made.parent.version == 2
    assert made.parent.changes == {key: [before, value], "optim.max_steps": [4, 6]}
    section, _, name = key.partition(".")
    assert getattr(getattr(read_hparams(run.layout.hparams), section), name) == value
    assert run.find("latest").step == 6
    assert run.versions()[-1].manifest["config"][section][name] == value
    later = [version.parent for version in run.versions() if version.number > 3]
    assert all(parent is not None and not parent.changes for parent in later)  # recorded once, where it happened


def test_another_batch_size_goes_on_at_the_same_example(everstep: Everstep, run: Run) -> None:
    ended = everstep("resume", "a", "--set", "optim.batch_size=5", "--set", "optim.max_steps=7")
    assert ended.code == 0, ended.out
    assert position(run) == [(1, 0), (2, 2), (3, 4), (4, 6), (5, 8), (6, 13), (7, 18)]
    assert run.find("latest").images_seen == 23


def test_another_learning_rate_is_the_one_that_is_used(everstep: Everstep, run: Run) -> None:
    assert everstep("resume", "a", "--set", "optim.learning_rate=5e-6", "--set", "optim.max_steps=6").code == 0
    rates = [line["learning_rate"] for line in read_metrics(run.path / "records")]
    assert rates == [1e-5] * 4 + [5e-6] * 2


def test_other_data_are_trained_on_and_what_was_held_out_stays_held_out(
    everstep: Everstep, run: Run, trained: Path, workplace: Path
) -> None:
    before = run.find("latest").manifest["data"]["held_out"]
    other = workplace / "more"
    shutil.copytree(trained / "data", other)
    lines = (other / "metadata.jsonl").read_text().splitlines()
    for number in range(30, 80):
        picture, outline = f"{number}.png", f"{number}_outline.png"
        shutil.copy(other / f"{number % 30}.png", other / picture)
        shutil.copy(other / f"{number % 30}_outline.png", other / outline)
        lines.append(json.dumps({"file_name": picture, "conditioning_image": outline, "text": "a"}))
    (other / "metadata.jsonl").write_text("\n".join(lines) + "\n")
    ended = everstep("resume", "a", "--set", f"data.path={other}", "--set", "optim.max_steps=6")
    assert ended.code == 0, ended.out
    told = ended.out.split("Loading PyTorch")[0]
    assert "data.path " in told
    assert "data.fingerprint " in told
    after = run.find("latest").manifest["data"]
    assert set(before) <= set(after["held_out"])
    assert after["training_pairs"] == 80 - len(after["held_out"])
    parent = first_after(run).parent
    assert parent is not None
    assert parent.changes.keys() == {"data.path", "data.fingerprint", "optim.max_steps"}


def test_data_that_changed_by_themselves_are_not_accepted_with_another_setting(
    everstep: Everstep, run: Run, trained: Path, workplace: Path
) -> None:
    shutil.copytree(trained / "data", workplace / "copy")
    way = ("resume", "a", "--set", f"data.path={workplace / 'copy'}")
    assert everstep(*way, "--set", "optim.max_steps=5").code == 0
    listed = workplace / "copy/metadata.jsonl"
    listed.write_text("\n".join(listed.read_text().splitlines()[:-3]) + "\n")
    refused = everstep("resume", "a", "--set", "data.workers=1", "--set", "optim.max_steps=6")
    assert refused.code == 2
    assert "have changed since" in refused.out
    assert read_hparams(run.layout.hparams).data.workers == 2
    accepted = everstep(*way, "--set", "data.workers=1", "--set", "optim.max_steps=6")
    assert accepted.code == 0, accepted.out


@pytest.mark.parametrize(
    ("key", "value", "why"),
    [
        ("optim.seed", 3, "order, noise and timesteps are functions of it"),
        ("data.held_out_pairs", 0, "pairs held out so far would be trained on"),
        ("optim.ema_decay", 0, "the averaged weights are kept from step 0 on, or not at all"),
        ("optim.start_from", "runs/a@1", "it says where step 0 came from"),
    ],
)
def test_what_cannot_change_is_refused_with_a_line_that_works(
    everstep: Everstep, run: Run, key: str, value: Any, why: str
) -> None:
    before = run.layout.hparams.read_text()
    refused = everstep("resume", "a", "--set", f"{key}={value}")
    assert refused.code == 2
    assert f"{key} cannot change within a run: {why}" in refused.out
    assert run.layout.hparams.read_text() == before
    way = refused.out.splitlines()[-1].partition("everstep ")[2].split()
    ended = everstep(*way)
    assert ended.code == 0, ended.out
    other = Run.open(run.path.with_name("a-2"))
    assert other.find("latest").step == 4
    assert other.find("latest").manifest["config"]["optim"]["batch_size"] == 2  # all else as it was
    settings = read_hparams(other.layout.hparams)
    section, _, name = key.partition(".")
    if key != "optim.start_from":
        assert getattr(getattr(settings, section), name) == value
    assert other.find("0").manifest["started_from"]["version"] == (1 if key == "optim.start_from" else 2)


def test_a_policy_may_change_with_the_same_line_and_holds_for_prune_too(
    everstep: Everstep, run: Run, trained: Path, tiny_base: Path
) -> None:
    line = ("train", run.layout.hparams, "--run", "a", "--keep.last", 1)
    ended = everstep(*line)
    assert ended.code == 0, ended.out
    assert "already complete" in ended.out
    assert "keep.last  3 -> 1" in ended.out
    assert read_hparams(run.layout.hparams).keep.last == 1


def test_fewer_steps_than_were_made_are_complete_and_change_nothing(everstep: Everstep, run: Run) -> None:
    ended = everstep("resume", "a", "--set", "optim.max_steps=3")
    assert (ended.code, "already complete" in ended.out) == (0, True)
    assert read_hparams(run.layout.hparams).optim.max_steps == 4
