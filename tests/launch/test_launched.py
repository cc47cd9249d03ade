"""Under somebody else's launcher one process keeps, and the others end as it does."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from everstep.errors import UserError
from everstep.launch.launched import Place, place_from, ranks_asked
from everstep.launch.ranks import forget_launcher
from everstep.versions import Run
from everstep.versions.layout import RunLayout
from everstep.versions.live import read_live
from program import Program

SLURM = {
    "SLURM_JOB_ID": "7",
    "SLURM_STEP_ID": "0",
    "SLURM_STEP_NUM_TASKS": "11",
    "SLURM_STEP_NUM_NODES": "3",
    "SLURM_STEP_TASKS_PER_NODE": "4(x2),3",
    "SLURM_NODEID": "2",
    "SLURM_LOCALID": "1",
}
TORCHRUN = {
    "TORCHELASTIC_RUN_ID": "none",
    "TORCHELASTIC_RESTART_COUNT": "1",
    "RANK": "5",
    "WORLD_SIZE": "8",
    "LOCAL_RANK": "1",
    "LOCAL_WORLD_SIZE": "4",
    "GROUP_RANK": "1",
    "GROUP_WORLD_SIZE": "2",
    "MASTER_ADDR": "here",
    "MASTER_PORT": "29500",
}
TRAINING = ("--optim.batch-size", 4, "--optim.max-steps", 10_000, "--sampling.pairs", 0, "--scoring.overhead", 0)


def test_a_place_is_what_the_launcher_says() -> None:
    assert place_from(SLURM) == Place("7-0-0", 1, 3, 2, 3)
    assert place_from(TORCHRUN) == Place("none-29500-1", 1, 4, 1, 2, is_repeated=True)
    assert ranks_asked(SLURM) == 3


@pytest.mark.parametrize(
    "environ",
    [{}, {"SLURM_JOB_ID": "7", "SLURM_PROCID": "0"}, {**SLURM, "SLURM_STEP_NUM_TASKS": "1"}, {"RANK": "0"}],
)
def test_alone_there_is_none(environ: dict[str, str]) -> None:
    assert place_from(environ) is None
    assert ranks_asked(environ) == 1


@pytest.mark.parametrize("told", ["", "4(y2)", "4(x1)"])
def test_what_no_launcher_says_is_refused(told: str) -> None:
    with pytest.raises(UserError, match="a launcher that does not say"):
        place_from({**SLURM, "SLURM_STEP_TASKS_PER_NODE": told})


def test_nothing_of_torchrun_is_left_for_the_launcher_of_ranks() -> None:
    environ = {**TORCHRUN, "HOME": "/root"}
    forget_launcher(environ)
    assert environ == {"HOME": "/root"}


@pytest.mark.parametrize("number", [signal.SIGTERM, pytest.param(signal.SIGKILL, marks=pytest.mark.slow)])
def test_tasks_of_slurm_are_one_training(
    number: signal.Signals,
    start: Callable[..., Program],
    monkeypatch: pytest.MonkeyPatch,
    workplace: Path,
    tiny_base: Path,
    pairs_folder: Path,
) -> None:
    one = {**SLURM, "SLURM_STEP_NUM_TASKS": "2", "SLURM_STEP_NUM_NODES": "1", "SLURM_STEP_TASKS_PER_NODE": "2"}
    one |= {"SLURM_JOB_ID": str(os.getpid()), "SLURM_NODEID": "0"}
    tasks = []
    for local_id in ("1", "0"):
        for name, value in {**one, "SLURM_LOCALID": local_id}.items():
            monkeypatch.setenv(name, value)
        tasks.append(start("train", "--base", tiny_base, "--data", pairs_folder, "--run", "a", *TRAINING))
    folder = workplace / "runs/a"
    layout = RunLayout(folder)
    tasks[1].wait_for(lambda: (live := read_live(layout)) is not None and live.step > 2)
    tasks[1].signal(number)
    assert [task.wait() for task in tasks] == [3, 3 if number == signal.SIGTERM else -9]
    until = time.monotonic() + 30
    while (last := Run.open(folder).find("latest")).step == 0:  # without its keeper a training saves by itself
        assert time.monotonic() < until
        time.sleep(0.1)
    assert last.manifest["machine"]["ranks"] == 2


def test_torchrun_starts_a_training(workplace: Path, tiny_base: Path, pairs_folder: Path) -> None:
    few = [*map(str, TRAINING), "--set", "optim.max_steps=4"]
    # Behind --, since torchrun takes --run for a short form of its own.
    torchrun = str(Path(sys.executable).with_name("torchrun"))
    words = [torchrun, "--nproc-per-node", "2", "--no-python", "--", sys.executable, "-m", "everstep"]
    line = [*words, "train", "--base", str(tiny_base), "--data", str(pairs_folder), "--run", "a", *few]
    ended = subprocess.run(line, capture_output=True, text=True, timeout=90)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert "Complete after 4 steps" in ended.stdout
    assert Run.open(workplace / "runs/a").find("latest").manifest["machine"]["ranks"] == 2
