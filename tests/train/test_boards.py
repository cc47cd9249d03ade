"""Curves, sheets and versions go to trackio and Weights & Biases too, here on this machine; failures cost nothing."""

import contextlib
import hashlib
import json
import os
import signal
import sqlite3
import sys
from pathlib import Path

import pytest


@pytest.fixture
def words(tiny_base, pairs_folder):
    rest = ("--optim.batch-size", 2, "--optim.max-steps", 2, "--sampling.pairs", 1, "--tracking.wandb-project", "p")
    return ("train", "--run", "a", "--base", tiny_base, "--data", pairs_folder, *rest)


def test_curves_and_pictures_are_written_for_wandb(everstep, words, workplace, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "offline")
    ended = everstep(*words)
    assert ended.code == 0, ended.out
    written = list((workplace / "runs/a/records/wandb").glob("offline-run-*/*.wandb"))
    assert len(written) == 1
    content = written[0].read_bytes()
    assert b"control_gain" in content
    assert b"learning_rate" in content
    assert list((workplace / "runs/a/records/wandb").glob("offline-run-*/files/media/images/samples*.png"))
    manifest = json.loads((workplace / "runs/a/version_1/manifest.json").read_bytes())
    assert manifest["digest"].encode() in content  # the version, by reference


LINES = "SELECT run_name, step, metrics FROM metrics"
ARTIFACTS = "SELECT manifest, metadata FROM artifact_versions ORDER BY version"


@pytest.fixture
def tracked(tiny_base, pairs_folder, tmp_path, monkeypatch):
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))
    rest = ("--optim.batch-size", 2, "--sampling.pairs", 1, "--versions.every", 1, "--keep.everything")
    return ("train", "--run", "a", "--base", tiny_base, "--data", pairs_folder, *rest, "--tracking.trackio", "p")


def test_curves_sheets_and_versions_are_mirrored_to_trackio_across_a_resume(everstep, tracked, workplace, tmp_path):
    for words in ((*tracked, "--optim.max-steps", 2), ("resume", "a", "--set", "optim.max_steps=4")):
        ended = everstep(*words)
        assert ended.code == 0, ended.out
        assert "rackio" not in ended.out  # it prints nothing of its own
    with contextlib.closing(sqlite3.connect(tmp_path / "trackio/p.db")) as stored:
        lines = [(name, step, json.loads(said)) for name, step, said in stored.execute(f"{LINES} ORDER BY id")]
        artifacts = [tuple(map(json.loads, one)) for one in stored.execute(ARTIFACTS)]
    assert len({name for name, _, _ in lines}) == 1  # one run of theirs
    assert [step for _, step, said in lines if "loss" in said] == [1, 2, 3, 4]
    sheets = [said["samples"]["file_path"] for _, _, said in lines if "samples" in said]
    assert len(sheets) == 5
    assert all((tmp_path / "trackio/media" / path).is_file() for path in sheets)
    assert len(artifacts) == 5
    for (reference,), facts in artifacts:
        path = workplace / f"runs/a/version_{facts['version']}/manifest.json"
        assert reference["ref"] == path.as_uri()
        assert reference["digest"] == hashlib.sha256(path.read_bytes()).hexdigest()
        assert facts["manifest_digest"] == json.loads(path.read_bytes())["digest"]


@pytest.mark.fault("tracker that is down")
def test_a_trackio_that_cannot_write_costs_no_training(everstep, tracked, tmp_path):
    (tmp_path / "trackio").write_text("no folder")
    ended = everstep(*tracked, "--optim.max-steps", 2)
    assert ended.code == 0, ended.out
    assert ended.out.count("trackio failed (") == 1


def test_a_training_without_tensorboard_misses_nothing(start, words, workplace):
    program = start(*words[:-2], prepare=WithoutTensorboard())
    assert program.wait() == 0, program.output
    assert not (workplace / "runs/a/records/tensorboard").exists()
    assert len((workplace / "runs/a/records/metrics.jsonl").read_text().splitlines()) == 2
    assert "TensorBoard" not in program.output
    again = start(*words[:-2], "--tracking.tensorboard", prepare=WithoutTensorboard())
    assert again.wait() == 2
    assert "pip install 'everstep[tensorboard]'" in again.output


class WithoutTensorboard:
    """As where it was never installed."""

    def __call__(self):
        sys.modules["tensorboard"] = None


class BreakWandb:
    def __call__(self):
        import wandb

        def fail(*arguments, **more):
            raise RuntimeError("no route to host")

        wandb.init = fail


@pytest.mark.fault("tracker that is down")
def test_wandb_that_fails_is_said_once_and_costs_no_training(start, words):
    program = start(*words, prepare=BreakWandb())
    assert program.wait() == 0, program.output
    said = "Weights & Biases failed (no route to host); training goes on without it, and it is tried again."
    assert program.output.count(said) == 1


class KillWandb:
    """Its server dies before the first step."""

    def __call__(self):
        from everstep.train.loop import Loop

        original = Loop._step

        def step(self):
            if self.state.step == 0:
                children = Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
                assert children
                for child in children:
                    os.kill(int(child), signal.SIGKILL)
            original(self)

        Loop._step = step


def test_a_wandb_whose_server_dies_hangs_nothing(start, words, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "offline")
    program = start(*words, prepare=KillWandb())
    assert program.wait(120) == 0, program.output
    assert "Complete after 2 steps" in program.output


def test_what_is_not_installed_is_told_before_a_run_is_made(everstep, words, workplace: Path, monkeypatch):
    monkeypatch.setattr("everstep.train.boards.find_spec", lambda name: None)
    from everstep.config.schema import Tracking
    from everstep.errors import UserError
    from everstep.train.boards import check_tracking

    with pytest.raises(UserError, match=r"pip install 'everstep\[wandb\]'"):
        check_tracking(Tracking(wandb_project="p"))
    check_tracking(Tracking())
