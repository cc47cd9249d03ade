"""The precision that is asked for, the one that is used, and what a run of another time has of them."""

import json
from pathlib import Path

import pytest

from everstep.versions import Run


@pytest.fixture
def words(tiny_base: Path, pairs_folder: Path) -> tuple[object, ...]:
    return (
        *("train", "--run", "a", "--base", tiny_base, "--data", pairs_folder, "--optim.max-steps", 2),
        *("--optim.batch-size", 1, "--sampling.pairs", 0, "--scoring.overhead", 0),
    )


def manifest(run: Run, spec: str) -> dict:
    return json.loads((run.find(spec).path / "manifest.json").read_text())


def test_what_was_asked_and_what_was_used_are_both_on_record(everstep, words, workplace):
    assert everstep(*words).code == 0
    run = Run.open(workplace / "runs/a")
    assert "precision: auto" in run.layout.hparams.read_text()
    facts = manifest(run, "latest")
    assert facts["config"]["compute"]["precision"] == "auto"
    assert (facts["machine"]["precision"], facts["machine"]["tf32"]) == ("fp32", False)
    refused = everstep(*words, "--compute.precision", "bf16")
    assert refused.code == 2
    assert "everstep resume a --set compute.precision=bf16" in refused.out


def test_the_line_of_a_run_that_began_before_auto_goes_on_with_what_it_began_with(everstep, words, workplace):
    assert everstep(*words, "--compute.precision", "bf16").code == 0
    ended = everstep(*words)
    assert ended.code == 0, ended.out
    assert "already complete" in ended.out
    assert "precision: bf16" in Run.open(workplace / "runs/a").layout.hparams.read_text()


def test_auto_that_means_another_precision_here_is_said_at_the_resume(everstep, words, workplace):
    """As if it had been begun on a GPU: bf16 in the manifest, auto in the settings."""
    assert everstep(*words, "--compute.precision", "bf16").code == 0
    run = Run.open(workplace / "runs/a")
    ended = everstep("resume", "a", "--set", "compute.precision=auto", "--set", "optim.max_steps=3")
    assert ended.code == 0, ended.out
    assert "different from then, so not bit for bit the same: precision bf16 then, fp32 now" in ended.out
    again = everstep("resume", "a", "--set", "optim.max_steps=4")
    assert again.code == 0, again.out
    assert "different from then" not in again.out
    assert manifest(run, "latest")["machine"]["precision"] == "fp32"


def test_the_line_of_a_run_that_began_before_there_was_a_choice_of_resizing_goes_on(everstep, words, workplace):
    """Its settings lack it, and it goes on as it was trained; whoever asks for another way is refused."""
    assert everstep(*words, "--data.resize", "lanczos", "--data.condition-resize", "bilinear").code == 0
    path = Run.open(workplace / "runs/a").layout.hparams
    path.write_text(
        "".join(line for line in path.read_text().splitlines(keepends=True) if "resize: lanczos" not in line)
    )
    ended = everstep(*words)
    assert ended.code == 0, ended.out
    assert "already complete" in ended.out
    ended = everstep(*words, "--data.resize", "area")
    assert ended.code == 2
    assert "data.resize  lanczos -> area" in ended.out
