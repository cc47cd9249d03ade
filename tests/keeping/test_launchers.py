"""A command that is kept may be one that starts the trainer in its turn, and again when that has died."""

import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from loops import ALL_MADE, EVERSTEP, LOOP, STEPS, children, content, everstep, latest, script, wait_until_gone

from everstep.versions import Run

# Dies once, within step 17.
DIES = "step == 17 and not os.path.exists('once') and (open('once', 'w'), os.kill(os.getpid(), signal.SIGKILL))"
TORCHRUN = (sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "1", "--max-restarts", "1")
ACCELERATE = (sys.executable, "-m", "accelerate.commands.accelerate_cli", "launch", "--cpu", "--num_processes", "1")


def kept(folder: Path, *words: object) -> subprocess.CompletedProcess[str]:
    command = [*EVERSTEP, "keep", *map(str, words)]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=120)


def as_script(path: Path) -> str:
    """A launcher as people write it: the loop until it ends well."""
    again = f"{sys.executable} {path} {STEPS} 0"
    return f"until {again}; do echo once more; done"


def wait_for(is_there: Callable[[], bool]) -> None:
    until = time.monotonic() + 60
    while not is_there():
        assert time.monotonic() < until
        time.sleep(0.01)


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory) -> dict[str, object]:
    """What a loop holds that nothing happened to."""
    folder = tmp_path_factory.mktemp("straight")
    assert kept(folder, "--", sys.executable, script(folder), STEPS, 0).returncode == 0
    return content(latest(folder))


@pytest.mark.fault("kill -9 of a loop under a launcher that starts it again")
@pytest.mark.parametrize("launcher", ["torchrun", "a shell script"])
def test_a_launcher_that_starts_it_again_goes_on_under_the_same_keeper(
    tmp_path: Path, straight: dict[str, object], launcher: str
) -> None:
    path = script(tmp_path, within=DIES, first=ALL_MADE)
    words = (*TORCHRUN, path, STEPS, 0) if launcher == "torchrun" else ("sh", "-c", as_script(path))
    ended = kept(tmp_path, "--", *words)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert "was rescued from memory" in ended.stdout
    found = [version.reason for version in Run(tmp_path / "runs/own").versions()]
    assert found == ["start", "rescue", "interval", "interval", "final"]
    assert content(latest(tmp_path)) == straight


@pytest.mark.fault("kill -9 of a loop under accelerate launch")
def test_a_launcher_that_ends_with_it_is_started_again_where_that_is_wanted(
    tmp_path: Path, straight: dict[str, object]
) -> None:
    path = script(tmp_path, within=DIES)
    words = (*ACCELERATE, "--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no", path, STEPS, 0)
    ended = kept(tmp_path, "--", *words)
    assert ended.returncode == 1, ended.stdout + ended.stderr
    assert "Go on: start the program again" in ended.stdout
    assert latest(tmp_path).reason == "rescue"
    (tmp_path / "once").unlink()
    ended = kept(tmp_path, "--restarts", 1, "--", *words)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert content(latest(tmp_path)) == straight


@pytest.mark.fault("kill -9 of a loop that has not begun")
@pytest.mark.parametrize(("restarts", "code"), [(0, 3), (1, 0)])
def test_a_loop_that_is_killed_before_it_is_kept_is_started_again_where_that_is_wanted(
    tmp_path: Path, restarts: int, code: int
) -> None:
    words = f"test -e once || {{ touch once; kill -9 $$; }}; exec {sys.executable} {script(tmp_path)} {STEPS} 0"
    ended = kept(tmp_path, "--restarts", restarts, "--", "sh", "-c", words)
    assert ended.returncode == code, ended.stdout + ended.stderr
    assert ("before it asked to be kept, and is started again" in ended.stdout) == (restarts > 0)


def test_a_launcher_may_start_other_loops_meanwhile(tmp_path: Path) -> None:
    """Each is kept by a keeper of its own; the first run is that of the keeper that was started by hand."""
    other = "everstep_keep = everstep.keep('other', network, every=5)\n" + LOOP
    path = script(tmp_path)
    (tmp_path / "other.py").write_text(script(tmp_path, other).read_text())
    script(tmp_path)
    python = f"{sys.executable} {{}} {{}} 0"
    own, others = (python.format(path, STEPS), python.format(tmp_path / "other.py", 10))
    ended = kept(tmp_path, "--", "sh", "-c", f"{own} && {others} && {own}")
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert (latest(tmp_path).step, Run(tmp_path / "runs/other").find("latest").step) == (STEPS, 10)
    assert "already" not in ended.stderr


def test_a_second_signal_ends_the_launcher_too(tmp_path: Path) -> None:
    path = script(tmp_path, within="step == 5 and (open('waits', 'w'), time.sleep(600))")
    words = [*EVERSTEP, "keep", "--", "sh", "-c", as_script(path)]
    with (tmp_path / "log").open("w") as log:
        keeper = subprocess.Popen(words, cwd=tmp_path, stdout=log, stderr=log)
    try:
        wait_for((tmp_path / "waits").exists)
        (launcher,) = children(keeper.pid)
        (trainer,) = children(launcher)
        keeper.send_signal(signal.SIGTERM)
        wait_for(lambda: "Once more" in (tmp_path / "log").read_text())
        with pytest.raises(subprocess.TimeoutExpired):
            keeper.wait(0.8)
        keeper.send_signal(signal.SIGTERM)
        assert keeper.wait(30) == 3
        wait_until_gone(launcher)
        wait_until_gone(trainer)
    finally:
        keeper.kill()
        keeper.wait()
    told = everstep(tmp_path, "list", "own")  # settles nothing by itself
    assert told.returncode == 0, told.stderr
    assert "once more" not in (tmp_path / "log").read_text()


@pytest.mark.parametrize(
    ("call", "said"),
    [
        ("everstep.keep(optimizer, 'own')", "takes the run's name, and a module or modules by name"),
        ("everstep.keep('own', [network])", "takes the run's name, and a module or modules by name"),
        (
            "os.environ.update(WORLD_SIZE='2'), everstep.keep('own', network)",
            "this training has 2. Nothing was started.",
        ),
    ],
)
def test_what_cannot_be_kept_is_said_before_anything_is_made(tmp_path: Path, call: str, said: str) -> None:
    path = script(tmp_path, call)
    ended = subprocess.run([sys.executable, str(path), "1", "0"], cwd=tmp_path, capture_output=True, text=True)
    assert ended.returncode == 1
    assert said in ended.stderr
    assert not (tmp_path / "runs").exists()
