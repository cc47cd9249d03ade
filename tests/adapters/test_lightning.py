"""Lightning's trainings are kept whole, by real Lightning."""

import signal
from pathlib import Path

import programs
import pytest
import yaml
from programs import KEPT, OWN_LOGS, STEPS, lightning, weights

from everstep.adapters.lightning import checkpoint_of
from everstep.cli.main import run as everstep
from everstep.errors import UserError
from everstep.versions import Run

pytest.importorskip("lightning")
PACKAGES = ["lightning.pytorch", "pytorch_lightning"]


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[float]]:
    folder = tmp_path_factory.mktemp("straight")
    programs.run(folder, lightning())
    return weights(folder)


def test_what_the_original_leaves_behind_and_what_a_kept_one_does(tmp_path: Path) -> None:
    """A training that is killed has an empty checkpoints folder, or none, and nothing of its settings."""
    programs.run(tmp_path / "plain", lightning(lines=OWN_LOGS), die_at=5)
    logs = tmp_path / "plain/lightning_logs/version_0"
    assert list(logs.glob("checkpoints/*")) == []
    programs.run(tmp_path / "kept", lightning(), die_at=20)
    run = Run.open(tmp_path / "kept/runs/own")
    *first, newest = [version.step for version in run.versions()]
    assert first == [0, 12]
    assert newest in (19, 20)  # a copy of the last step may still have been made
    told = yaml.safe_load(run.layout.hparams.read_text())
    assert told["module"]["learning_rate"] == 0.01
    assert told["trainer"]["max_steps"] == STEPS
    assert told["optimizers"][0]["groups"][0]["lr"] == 0.01
    assert told["data"][0] == {"dataset": "__main__.Pairs", "batch_size": 3, "examples": 20}


@pytest.mark.parametrize("step", [0, 13, 21])
@pytest.mark.fault("kill -9 of a training by Lightning")
def test_a_training_that_was_killed_ends_as_if_it_had_not_been(
    tmp_path: Path, step: int, straight: dict[str, list[float]]
) -> None:
    programs.run(tmp_path, lightning(), die_at=step)
    assert Run.open(tmp_path / "runs/own").versions()[-1].step in (step, step - 1)
    programs.run(tmp_path, lightning())
    assert weights(tmp_path) == straight


@pytest.mark.parametrize("by", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.fault("a signal to a training by Lightning")
def test_a_signal_ends_it_after_a_whole_step(tmp_path: Path, by: int, straight: dict[str, list[float]]) -> None:
    said = programs.run(tmp_path, lightning(), die_at=13, by=by)
    newest = Run.open(tmp_path / "runs/own").versions()[-1]
    assert (newest.step, newest.reason) == (14, "signal"), said
    programs.run(tmp_path, lightning())
    assert weights(tmp_path) == straight


def test_the_other_package_is_kept_too(tmp_path: Path, straight: dict[str, list[float]]) -> None:
    programs.run(tmp_path, lightning("pytorch_lightning"), die_at=13)
    programs.run(tmp_path, lightning("pytorch_lightning"))
    assert weights(tmp_path) == straight
    count = len(Run.open(tmp_path / "runs/own").versions())
    again = programs.run(tmp_path, lightning("pytorch_lightning"))
    assert f"ended at {STEPS}" in again
    assert len(Run.open(tmp_path / "runs/own").versions()) == count


def test_an_epoch_that_is_cut_short_is_over(tmp_path: Path) -> None:
    lines = KEPT.replace("max_steps=30", "max_steps=30, limit_train_batches=5")
    programs.run(tmp_path / "straight", lightning(lines=lines))
    programs.run(tmp_path / "killed", lightning(lines=lines), die_at=10)
    programs.run(tmp_path / "killed", lightning(lines=lines))
    assert weights(tmp_path / "killed") == weights(tmp_path / "straight")


def test_going_on_from_elsewhere_is_refused(tmp_path: Path) -> None:
    programs.run(tmp_path, lightning(), die_at=15)
    anew = lightning().replace('ckpt_path="last"', 'ckpt_path="runs/own/version_0"')
    before = len(Run.open(tmp_path / "runs/own").versions())
    with pytest.raises(AssertionError, match=r"goes on from version_2 .step 1[45]., but this training begins from"):
        programs.run(tmp_path, anew)
    assert len(Run.open(tmp_path / "runs/own").versions()) == before


def test_a_loader_whose_order_is_lost_is_said(tmp_path: Path) -> None:
    said = programs.run(tmp_path, lightning().replace("loader = ordered(loader)", ""), die_at=3)
    assert "begins that epoch's data anew" in said


def test_logs_and_runs_are_told_apart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    programs.run(tmp_path, lightning(lines=OWN_LOGS), die_at=20)
    monkeypatch.chdir(tmp_path)
    before = sorted(map(str, tmp_path.rglob("*")))
    for folder in ("./lightning_logs", "lightning_logs/version_0"):
        assert everstep(["list", folder]) == 2
        assert "of Lightning's" in capsys.readouterr().err
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs/own").symlink_to(tmp_path / "lightning_logs/version_0")
    with pytest.raises(AssertionError):
        programs.run(tmp_path, lightning())
    (tmp_path / "runs/own").unlink()
    (tmp_path / "runs").rmdir()
    assert [path for path in sorted(map(str, tmp_path.rglob("*"))) if "version_0" in path] == [
        path for path in before if "version_0" in path
    ]


def test_a_version_of_another_loop_is_no_checkpoint(tmp_path: Path) -> None:
    programs.run(tmp_path, programs.accelerate(), die_at=3)
    with pytest.raises(UserError, match="not made by a training of Lightning's"):
        checkpoint_of(tmp_path / "runs/own/version_0")
