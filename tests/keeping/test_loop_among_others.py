"""A loop of somebody's own is a guest: neither what its keeper asks nor what is sent to a whole job ends it."""

import signal
from pathlib import Path

import pytest
from loops import Start, both, content, latest, once, script, starting, undisturbed

from everstep.versions import Run

straight = pytest.fixture(scope="module")(undisturbed)
start = pytest.fixture(starting)


@both
@pytest.mark.fault("a loop of somebody's own that makes no step for long")
def test_a_loop_that_makes_no_step_for_long_is_told_and_left_alone(
    tmp_path: Path, way: str, straight: dict[str, object], start: Start
) -> None:
    path = script(tmp_path, within=once(33, "time.sleep(4)"))
    path.write_text(path.read_text().replace("Settings(snapshots=1)", "Settings(snapshots=1, hang_minutes=0.02)"))
    running = start(path, way)
    assert running.wait() == 0, running.out
    assert "No step for" in running.out
    assert f"since step 33. It is process {running.trainer}, and is left alone." in running.out
    assert content(latest(tmp_path)) == straight


@both
@pytest.mark.fault("SIGUSR1 to a loop of somebody's own and its keeper, as schedulers warn")
def test_a_warning_to_all_processes_makes_one_version_and_the_loop_goes_on(
    tmp_path: Path, way: str, straight: dict[str, object], start: Start
) -> None:
    running = start(script(tmp_path), way, pause_s=0.05)
    running.wait_for_step(3)
    for pid in (running.trainer, running.keeper):
        running.kill(pid, signal.SIGUSR1)
    assert running.wait() == 0, running.out
    assert [version.reason for version in Run(tmp_path / "runs/own").versions()].count("asked") == 1
    assert content(latest(tmp_path)) == straight
