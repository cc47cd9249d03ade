"""Loops on Accelerate are kept whole, by real Accelerate."""

import signal
from pathlib import Path

import programs
import pytest
import yaml
from programs import STEPS, accelerate, weights

from everstep.adapters import accelerate as adapter
from everstep.errors import UserError
from everstep.versions import Run, read_live

pytest.importorskip("accelerate")


ACCUMULATE = "2"  # batches that make a step


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[float]]:
    folder = tmp_path_factory.mktemp("straight")
    programs.run(folder, accelerate(), ACCUMULATE=ACCUMULATE)
    versions = Run.open(folder / "runs/own").versions()
    assert [version.step for version in versions] == [0, 10, 12, 24, STEPS]
    assert not (folder / "out").exists()
    live = read_live(Run(folder / "runs/own").layout)
    assert live is not None
    assert live.images_per_second
    told = yaml.safe_load((folder / "runs/own/hparams.yaml").read_text())
    assert told["learning_rate"] == 0.01
    assert told["accelerator"]["gradient_accumulation_steps"] == int(ACCUMULATE)
    return weights(folder)


@pytest.mark.parametrize("step", [0, 11, 21])
@pytest.mark.fault("kill -9 of a loop on Accelerate")
def test_a_loop_that_was_killed_ends_as_if_it_had_not_been(
    tmp_path: Path, step: int, straight: dict[str, list[float]]
) -> None:
    programs.run(tmp_path, accelerate(), die_at=step, ACCUMULATE=ACCUMULATE)
    assert Run.open(tmp_path / "runs/own").versions()[-1].step in (step, step - 1)
    programs.run(tmp_path, accelerate(), ACCUMULATE=ACCUMULATE)
    assert weights(tmp_path) == straight


@pytest.mark.parametrize("by", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.fault("a signal to a loop on Accelerate")
def test_a_signal_ends_it_after_a_whole_step(tmp_path: Path, by: int, straight: dict[str, list[float]]) -> None:
    programs.run(tmp_path, accelerate(), die_at=13, by=by, ACCUMULATE=ACCUMULATE)
    newest = Run.open(tmp_path / "runs/own").versions()[-1]
    assert (newest.step, newest.reason) == (14, "signal")
    programs.run(tmp_path, accelerate(), ACCUMULATE=ACCUMULATE)
    assert weights(tmp_path) == straight


def test_a_script_that_ends_without_a_word_is_kept_too(tmp_path: Path, straight: dict[str, list[float]]) -> None:
    programs.run(tmp_path, accelerate(end=""), ACCUMULATE=ACCUMULATE)
    assert weights(tmp_path) == straight
    for batches in (ACCUMULATE, "1"):  # a step at every batch: the script asks after it whether it was the last
        again = programs.run(tmp_path, accelerate(), ACCUMULATE=batches)
        assert f"ended at {STEPS}" in again
    assert weights(tmp_path) == straight


def test_a_script_that_leaves_in_the_middle_is_not_called_complete(
    tmp_path: Path, straight: dict[str, list[float]]
) -> None:
    leaves = accelerate().replace("die_at(global_step)", "global_step == 17 and sys.exit(0)")
    programs.run(tmp_path, leaves, ACCUMULATE=ACCUMULATE)
    newest = Run.open(tmp_path / "runs/own").versions()[-1]
    assert (newest.step, newest.reason) == (17, "asked")
    programs.run(tmp_path, accelerate(), ACCUMULATE=ACCUMULATE)
    assert weights(tmp_path) == straight


def test_what_cannot_be_kept_is_refused() -> None:
    from accelerate import Accelerator

    accelerator = Accelerator(cpu=True)
    accelerator.free_memory()
    with pytest.raises(UserError, match="Nothing was prepared"):
        adapter.keep(accelerator, "own")
