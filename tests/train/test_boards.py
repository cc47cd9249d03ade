"""Curves go to Weights & Biases too, offline here; and its failures cost nothing."""

import os
import signal
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
