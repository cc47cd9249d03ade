"""The script in examples/slurm under a real Slurm: warned, stopped, put back, gone on; and over two nodes."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from cluster import Job, Slurm, missing, slurm_in
from everstep.versions import Run, read_live, verify

pytestmark = pytest.mark.slow
SCRIPT = Path(__file__).parents[2] / "examples/slurm/train.sbatch"
SETTINGS = """
base: {{path: {base}}}
data: {{path: {data}}}
optim: {{batch_size: 4, max_steps: 1000000}}
versions: {{every: 1000000}}
sampling: {{pairs: 0}}
scoring: {{overhead: 0}}
"""


@pytest.fixture(scope="module")
def slurm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Slurm]:
    if why := missing():
        pytest.skip(why)
    with slurm_in(tmp_path_factory.mktemp("slurm")) as found:
        yield found


@pytest.fixture
def job(slurm: Slurm, tiny_base: Path, pairs_folder: Path, workplace: Path) -> Iterator["Submit"]:
    (workplace / "canny.yaml").write_text(SETTINGS.format(base=tiny_base, data=pairs_folder))
    submit = Submit(slurm, workplace)
    yield submit
    for each in submit.jobs:
        slurm("scancel", each.number)
        each.wait_for(lambda each=each: each.state in ("CANCELLED", "COMPLETED", "FAILED"))


class Submit:
    """Submits the example with some words exchanged, where this machine has not what it asks for."""

    def __init__(self, slurm: Slurm, folder: Path) -> None:
        self._slurm, self._folder, self.jobs = slurm, folder, list[Job]()

    def __call__(self, **exchanged: str) -> Job:
        text = SCRIPT.read_text()
        for before, after in {" --gpus-per-node=4": "", "--ranks 4": "--ranks 2", **exchanged}.items():
            assert before in text
            text = text.replace(before, after)
        script = self._folder / "train.sbatch"
        script.write_text(text)
        self.jobs.append(self._slurm.submit(script))
        return self.jobs[-1]


def steps(run: Run) -> int:
    live = read_live(run.layout)
    return -1 if live is None else live.step


@pytest.mark.fault("Slurm's warning, its end of time and its kill of a job")
def test_a_job_is_warned_stopped_put_back_and_goes_on(job: Submit, workplace: Path) -> None:
    submitted, run = job(), Run(workplace / "runs/canny")
    submitted.wait_for(lambda: steps(run) > 5)
    submitted.send("USR1")
    submitted.wait_for(lambda: run.versions()[-1].reason == "asked")
    submitted.wait_for(lambda: steps(run) > run.versions()[-1].step)
    submitted.send("TERM")  # as --signal=TERM@300
    submitted.wait_for(lambda: submitted.state == "PENDING")  # by its own hand
    stopped = run.versions()[-1]
    assert stopped.reason == "signal"
    assert "Exited with exit code 3" in submitted.output
    submitted.start_soon()
    submitted.wait_for(lambda: f"Resumed from {stopped.name} (step {stopped.step}" in submitted.output)
    assert "not restored: nothing" in submitted.output
    submitted.wait_for(lambda: steps(run) > stopped.step + 5)
    for pid in trainers():
        os.kill(pid, signal.SIGKILL)
    submitted.wait_for(lambda: submitted.state == "PENDING")
    assert "was rescued from memory" in submitted.output
    assert all(verify(version) == [] for version in run.versions())
    assert "Traceback" not in submitted.output


@pytest.mark.fault("one of two nodes under Slurm")
def test_two_nodes_are_one_training_and_one_that_dies_is_gone_on_without(job: Submit, workplace: Path) -> None:
    submitted = job(**{"--nodes=1": "--nodes=2", "--ranks 2": "--ranks 1 --restarts 1"})
    run = Run(workplace / "runs/canny")
    submitted.wait_for(lambda: steps(run) > 5)
    assert run.versions()[0].manifest["machine"]["ranks"] == 2
    for pid in processes_with("SLURM_NODEID=1"):
        os.kill(pid, signal.SIGKILL)
    submitted.wait_for(lambda: "1 of 2 go on" in submitted.output, 180)
    submitted.wait_for(lambda: "not restored: nothing" in submitted.output)
    rescued = run.versions()[1]
    assert rescued.reason == "rescue"
    submitted.wait_for(lambda: steps(run) > rescued.step + 5)
    submitted.send("TERM")
    submitted.wait_for(lambda: submitted.state == "PENDING")
    assert run.versions()[-1].reason == "signal"


def trainers() -> list[int]:
    """Ranks, not their keepers: those whose parent is a launcher."""
    found = processes_with("SLURM_PROCID=0")
    parents = {pid: parent_of(pid) for pid in found}
    launchers = [pid for pid in found if parents[pid] in found and pid in parents.values()]
    return [pid for pid in found if parents[pid] in launchers]


def processes_with(variable: str) -> list[int]:
    """Of everstep under Slurm, by what is in their environment."""
    found = list[int]()
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            words = (folder / "cmdline").read_bytes().split(b"\0")
            environ = (folder / "environ").read_bytes().split(b"\0")
        except OSError:
            continue
        if b"everstep" in words[2:4] and variable.encode() in environ:
            found.append(int(folder.name))
    return sorted(found)


def parent_of(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
