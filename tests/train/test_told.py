"""What is only told ends no training: real pipes, closed terminals, full disks, a locale without letters."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from disks import fill, remount, small_disk
from everstep.versions import Run, read_live, verify
from program import Program

Start = Callable[..., Program]
STEPS = 12
ENDLESS = 10**6


@pytest.fixture
def endless(tiny_base: Path, pairs_folder: Path) -> tuple[str, ...]:
    small = ("--optim.batch-size", 2, "--versions.every", 4, "--sampling.pairs", 0, "--keep.last", 2)
    data = ("--base", tiny_base, "--data", pairs_folder)
    return tuple(map(str, ("train", "--run", "a", *data, *small, "--optim.max-steps", ENDLESS)))


@pytest.fixture
def words(endless: tuple[str, ...]) -> tuple[str, ...]:
    return (*endless[:-1], str(STEPS))


@pytest.fixture
def small_log(tmp_path: Path) -> Iterator[Path]:
    """A disk for the log alone; all of it is taken."""
    with small_disk(tmp_path / "log", "size=64k") as folder:
        fill(folder)
        yield folder


def assert_complete(workplace: Path) -> None:
    last = Run.open(workplace / "runs/a").find("latest")
    assert (last.step, verify(last)) == (STEPS, [])


def step_of(workplace: Path) -> int:
    live = read_live(Run(workplace / "runs/a").layout)
    return 0 if live is None else live.step


# --- stdout and stderr -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("end", "surroundings"),
    [
        ("2>&1 | head -1", {}),
        ("2>&1 | true", {}),
        ("> /dev/full 2>&1", {}),
        (">&- 2>&-", {}),
        ("", {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "PYTHONIOENCODING": "ascii:strict"}),
    ],
)
def test_a_training_whose_lines_are_not_taken_is_trained_to_its_end(
    words: tuple[str, ...], end: str, surroundings: dict[str, str], workplace: Path
) -> None:
    line = f"{sys.executable} -m everstep {' '.join(words)} {end}; exit ${{PIPESTATUS[0]}}"
    ended = subprocess.run(["bash", "-c", line], capture_output=True, env={**os.environ, **surroundings}, timeout=120)
    assert (ended.returncode, ended.stderr) == (0, b"")
    assert_complete(workplace)


def test_a_terminal_that_is_closed_ends_nothing(words: tuple[str, ...], workplace: Path) -> None:
    master, slave = os.openpty()
    command = [sys.executable, "-m", "everstep", *words]
    training = subprocess.Popen(command, stdin=slave, stdout=slave, stderr=slave, start_new_session=True)
    os.close(slave)
    assert os.read(master, 1)  # its first line is on its way
    os.close(master)
    assert training.wait(120) == 0
    assert_complete(workplace)


class WriteTo:
    """All that the program prints goes into another file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __call__(self) -> None:
        descriptor = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(descriptor, 1)
        os.dup2(descriptor, 2)


def test_a_log_on_a_full_disk_goes_on_when_there_is_room(
    start: Start, endless: tuple[str, ...], small_log: Path, workplace: Path
) -> None:
    log = small_log / "log"
    program = start(*endless, prepare=WriteTo(log))
    program.wait_for(lambda: step_of(workplace) > 4)
    assert log.read_bytes() == b""
    remount(small_log, "size=10m")
    program.wait_for(lambda: log.stat().st_size)
    program.signal(signal.SIGTERM)
    assert program.wait() == 3
    lines = log.read_text().splitlines()
    assert lines[0].endswith("lines could not be written meanwhile.")
    assert sum("could not be written" in line for line in lines) == 1  # the keeper's, too, if it lost any
