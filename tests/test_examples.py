"""The examples do what the documents say of them."""

import random
import subprocess
import sys
import time
from pathlib import Path

import pytest

from everstep.versions import Run, read_live, verify

EXAMPLES = Path(__file__).parents[1] / "examples"
LOOP = [sys.executable, str(EXAMPLES / "own_loop.py")]
KEEP = [sys.executable, "-c", "from everstep.cli.main import main; main()", "keep", "--"]
STEPS = 2000


@pytest.fixture(scope="module")
def last_line(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Of the loop that nobody disturbs."""
    folder = tmp_path_factory.mktemp("straight")
    return subprocess.run(LOOP, cwd=folder, capture_output=True, text=True, check=True).stdout.splitlines()[-1]


@pytest.mark.parametrize("way", ["beside", pytest.param("under", marks=pytest.mark.slow)])
@pytest.mark.fault("kill -9 of a loop of somebody's own")
def test_a_plain_loop_killed_at_a_random_moment_ends_with_the_same_line(
    workplace: Path, way: str, last_line: str
) -> None:
    words = [*KEEP, *LOOP] if way == "under" else LOOP
    folder = workplace / "runs/own_loop"
    moment = random.randrange(1, STEPS - 300)
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as program:
        trainer = wait_for_step(folder, moment, program)
        subprocess.run(["kill", "-9", str(trainer)], check=True)
        program.communicate()
    wait_until_free(folder)
    killed_at = Run(folder).find("latest").step
    assert killed_at >= (moment // 100) * 100 - 100

    ended = subprocess.run(words, capture_output=True, text=True, check=True)
    assert ended.stdout.splitlines()[-1] == last_line
    run = Run(folder)
    assert (run.find("latest").step, run.find("latest").reason) == (STEPS, "final")
    assert [fault for version in run.versions() for fault in verify(version)] == []


def wait_for_step(folder: Path, step: int, program: "subprocess.Popen[bytes]") -> int:
    """Returns the process that trains."""
    until = time.monotonic() + 60
    while True:
        live = read_live(Run(folder).layout)
        if live is not None and live.step >= step:
            return live.pid
        assert program.poll() is None
        assert time.monotonic() < until
        time.sleep(0.005)


def wait_until_free(folder: Path) -> None:
    """The keeper has made a version of what was in memory, and has let the run go."""
    until = time.monotonic() + 60
    while Run(folder).holder() is not None:
        assert time.monotonic() < until
        time.sleep(0.01)
