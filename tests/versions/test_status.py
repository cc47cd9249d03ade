"""What is said of a run from outside, the way ahead included."""

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from drafts import ArrayTensor, draft

from everstep.contracts import Draft, TensorFile
from everstep.versions import Course, LiveStatus, Run, fsops, status, write_live
from everstep.versions.retention import Policy

STEPS_PER_S = 2.0
KEEP_ALL = Course(max_steps=100_000, images_per_step=4, every_steps=10)
KEEP_FEW = Course(max_steps=100_000, images_per_step=4, every_steps=10, policy=Policy(every_versions=None))


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of its own of 16 MB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16m", "none", folder], capture_output=True)
    if mounted.returncode != 0:
        pytest.skip(f"mounting is refused: {mounted.stderr.decode().strip()}")
    yield folder
    subprocess.run(["umount", "-l", folder], check=True)


@pytest.fixture
def held() -> Iterator[list[subprocess.Popen[str]]]:
    """Processes that hold runs; they end with the test."""
    started: list[subprocess.Popen[str]] = []
    yield started
    for process in started:
        process.kill()
        process.communicate()


def train(run: Run, held: list[subprocess.Popen[str]]) -> None:
    """Another process holds the run for writing, and the live file says that it is at step 25."""
    hold = (
        "import time; from pathlib import Path; from everstep.versions import Run\n"
        f"with Run.open(Path({str(run.path)!r})).lock('mine'):\n    print('held', flush=True); time.sleep(60)"
    )
    process = subprocess.Popen([sys.executable, "-c", hold], stdout=subprocess.PIPE, text=True)
    held.append(process)
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    facts = {"state": "running", "step": 25, "max_steps": 100_000, "images_seen": 100, "loss": None}
    rate = {"images_per_second": 4 * STEPS_PER_S, "last_version": "version_2", "next_version_step": 30}
    write_live(run.layout, LiveStatus.now(**facts, **rate))


def filled(folder: Path) -> Run:
    run = Run.create(folder / "r", "a: 1\n")
    for step in (0, 10, 20):
        run.commit(large_draft(step))
    return run


def large_draft(step: int) -> Draft:
    """400 kB, so that the pages of small files hardly count."""
    tensor = ArrayTensor(np.full(100_000, step, dtype=np.float32))
    return replace(draft(step), tensor_files=[TensorFile("training/large.safetensors", {"large": tensor})])


def test_time_left_and_the_next_version_go_by_the_rate_of_now(run: Run, held: list[subprocess.Popen[str]]) -> None:
    stopped = status(run, KEEP_FEW)
    assert (stopped.state, stopped.seconds_left, stopped.next_version_in_s) == ("stopped", None, None)
    train(run, held)
    found = status(run, KEEP_FEW)
    assert (found.state, found.pid, found.step, found.steps_at_risk) == ("running", held[0].pid, 25, 5)
    assert found.seconds_left == (100_000 - 25) / STEPS_PER_S
    assert found.next_version_in_s == 5 / STEPS_PER_S


def test_a_live_file_that_is_not_written_any_more_shows_its_age(
    run: Run, held: list[subprocess.Popen[str]], capsys: pytest.CaptureFixture[str]
) -> None:
    from everstep.cli.status import status_

    run.layout.hparams.write_text("{}\n")
    train(run, held)
    assert "last heard" not in shown(status_, run, capsys)
    facts = json.loads(run.layout.live.read_text())
    run.layout.live.write_text(json.dumps({**facts, "updated_at": facts["updated_at"] - 3600}))
    assert 3600 <= (status(run, KEEP_FEW).told_age_s or 0) < 4000
    assert "last heard" in shown(status_, run, capsys)


def test_an_interval_that_the_training_finds_is_told_with_its_reason(
    run: Run, held: list[subprocess.Popen[str]], capsys: pytest.CaptureFixture[str]
) -> None:
    from everstep.cli.status import status_

    run.layout.hparams.write_text("versions: {every: auto}\n")
    train(run, held)
    auto = replace(KEEP_ALL, every_steps=None)
    facts = json.loads(run.layout.live.read_text())
    assert status(run, auto).next_version_in_s == 5 / STEPS_PER_S  # by steps, as the live file still says
    found = {"versions_every_s": 720.0, "versions_why": "a version costs 0.3 s of training", "next_version_in_s": 240.0}
    run.layout.live.write_text(json.dumps({**facts, "next_version_step": None, **found}))
    told = status(run, auto)
    assert told.next_version_in_s == pytest.approx(240, abs=30)
    assert told.disk_peak_bytes > 60 * run.find("latest").size_bytes  # one in each 720 s of the 50,000 that are left
    assert "in about 4 min, one every 12 min: a version costs 0.3 s of training" in shown(status_, run, capsys)


def shown(verb: Callable[[str], int], run: Run, capsys: pytest.CaptureFixture[str]) -> str:
    assert verb(str(run.path)) == 0
    return capsys.readouterr().out


def test_a_disk_that_gets_full_does_so_after_as_many_versions_as_were_told(
    small_disk: Path, held: list[subprocess.Popen[str]]
) -> None:
    run = filled(small_disk)
    train(run, held)
    found = status(run, KEEP_ALL)
    assert found.disk_full_after_versions is not None
    assert found.disk_full_in_s == (found.disk_full_after_versions + 1) * 10 / STEPS_PER_S
    assert found.disk_peak_bytes > found.version_bytes + found.free_bytes
    made, size = 0, run.find("latest").size_bytes
    while fsops.free_bytes(run.path) > size:
        run.commit(large_draft(30 + 10 * made))
        made += 1
    assert found.disk_full_after_versions == pytest.approx(made, abs=2)  # small files take whole pages


def test_a_policy_that_lets_nothing_grow_never_fills_it(small_disk: Path, held: list[subprocess.Popen[str]]) -> None:
    run = filled(small_disk)
    train(run, held)
    found = status(run, KEEP_FEW)
    assert (found.disk_full_after_versions, found.disk_full_in_s) == (None, None)
    sizes = [version.disk_bytes for version in run.versions()]
    assert found.disk_peak_bytes == pytest.approx(4 * max(sizes), rel=0.2)


def test_a_run_without_versions_or_cadence_has_a_status_too(tmp_path: Path) -> None:
    found = status(Run.create(tmp_path / "e", "a: 1\n"), Course(max_steps=10))
    assert (found.state, found.disk_peak_bytes, found.disk_full_in_s) == ("empty", 0, None)
