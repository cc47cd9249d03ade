"""What is only told ends no training: real pipes, closed terminals, full disks, a locale without letters."""

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from disks import fill, remount, small_disk
from everstep.records.steps import read_metrics
from everstep.versions import Run, is_waiting, read_live, verify, write_request
from program import Ended, Program

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
    return having(endless, "--optim.max-steps", STEPS)


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


ASCII = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "PYTHONIOENCODING": "ascii:strict"}


@pytest.mark.parametrize(
    ("end", "surroundings"),
    [
        pytest.param("2>&1 | head -1", {}, marks=pytest.mark.slow),
        pytest.param("2>&1 | true", {}, marks=pytest.mark.slow),
        ("> /dev/full 2>&1", {}),
        pytest.param(">&- 2>&-", {}, marks=pytest.mark.slow),
        pytest.param("", ASCII, marks=pytest.mark.slow),
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
    assert sum("could not be written" in line for line in lines) in (1, 2)  # the keeper's, too, if it lost any


# --- records -----------------------------------------------------------------------------------------------


@pytest.fixture
def runs_disk(workplace: Path) -> Iterator[Path]:
    """runs/ is a disk of its own."""
    with small_disk(workplace / "runs", "size=20m") as folder:
        yield folder


def test_curves_and_measured_steps_on_a_full_disk_end_no_training(
    start: Start, endless: tuple[str, ...], runs_disk: Path, workplace: Path
) -> None:
    program = start(*endless, "--unattended", 10, "--keeper.snapshots", 1)
    program.wait_for(lambda: step_of(workplace) > 0)
    ballast = fill(runs_disk)
    program.wait_for(lambda: "Writing records/metrics.jsonl failed" in program.output)
    program.wait_for(lambda: "TensorBoard failed" in program.output)
    ballast.unlink()
    program.wait_for(lambda: "Writing records/metrics.jsonl: works again." in program.output)
    program.signal(signal.SIGTERM)
    assert program.wait() == 3, program.output
    last = Run.open(runs_disk / "a").find("latest")
    assert [line["step"] for line in read_metrics(runs_disk / "a/records")] == list(range(1, last.step + 1))
    assert "Traceback" not in program.output


def test_records_that_are_read_only_end_no_training(start: Start, words: tuple[str, ...], workplace: Path) -> None:
    assert start(*having(words, "--optim.max-steps", 4)).wait(120) == 0
    with small_disk(workplace / "runs/a/records", "size=1m") as records:
        remount(records, "ro")
        again = start("resume", "a", "--set", f"optim.max_steps={STEPS}")
        assert again.wait(120) == 0, again.output
    assert_complete(workplace)
    for name in ("TensorBoard", "Writing records/metrics.jsonl", "Writing notes on versions"):
        assert again.output.count(f"{name} failed (") == 1, again.output
    assert "Traceback" not in again.output


# --- data --------------------------------------------------------------------------------------------------


@pytest.fixture
def own_pairs(pairs_folder: Path, tmp_path: Path) -> Path:
    return shutil.copytree(pairs_folder, tmp_path / "own")


def hide(folder: Path) -> Path:
    """A network disk that is away: the folder is empty."""
    return folder.rename(folder.with_name("hidden"))


def test_data_that_are_away_for_a_moment_are_waited_for(
    start: Start, words: tuple[str, ...], own_pairs: Path, straight_steps: object, workplace: Path
) -> None:
    program = start(*having(words, "--data", own_pairs), prepare=HideAfter(3, own_pairs))
    program.wait_for(lambda: "Training waits for it" in program.output)
    hidden = own_pairs.with_name("hidden")
    hidden.rename(own_pairs)
    assert program.wait() == 0, program.output
    assert program.output.count("Training waits for it") == program.output.count("s for the data.") == 1
    assert_complete(workplace)
    assert losses(workplace) == straight_steps


def having(words: tuple[str, ...], flag: str, value: object) -> tuple[str, ...]:
    at = words.index(flag) + 1
    return (*words[:at], str(value), *words[at + 1 :])


def losses(workplace: Path) -> list[object]:
    return [(line["step"], line["loss"]) for line in read_metrics(workplace / "runs/a/records")]


@pytest.fixture
def straight_steps(words: tuple[str, ...], tmp_path: Path) -> object:
    (tmp_path / "straight").mkdir()
    program = Program(words, tmp_path / "straight")
    assert program.wait(120) == 0, program.output
    return losses(tmp_path / "straight")


class HideAfter:
    """The folder of pairs goes away after a step, with all that was read ahead."""

    def __init__(self, step: int, folder: Path, patience_s: float = 60) -> None:
        self.step, self.folder, self.patience_s = step, folder, patience_s

    def __call__(self) -> None:
        from everstep.data import patience
        from everstep.train.loop import Loop

        patience.PatientSource.__init__.__defaults__ = (lambda: False, self.patience_s)
        original = Loop._step

        def step(loop: Loop) -> None:
            original(loop)
            if loop.state.step == self.step:
                hide(self.folder)

        Loop._step = step  # type: ignore[method-assign]


def test_a_stop_is_heard_while_data_are_waited_for(
    start: Start, endless: tuple[str, ...], own_pairs: Path, everstep: Callable[..., Ended], workplace: Path
) -> None:
    program = start(*having(endless, "--data", own_pairs), prepare=HideAfter(3, own_pairs, patience_s=10**6))
    program.wait_for(lambda: "Training waits for it" in program.output)
    ended = everstep("stop", "a")
    assert ended.code == 0, ended.out
    assert program.wait() == 3, program.output
    last = Run.open(workplace / "runs/a").find("latest")
    assert (last.step, verify(last)) == (step_of(workplace), [])
    assert last.step >= 3


def test_data_that_stay_away_end_it_with_4_and_nothing_is_lost(
    start: Start, words: tuple[str, ...], own_pairs: Path, straight_steps: object, workplace: Path
) -> None:
    program = start(*having(words, "--data", own_pairs), prepare=HideAfter(3, own_pairs, patience_s=0.5))
    assert program.wait() == 4, program.output
    assert "No such file" in program.output
    assert "Go on: everstep resume" in program.output
    run = Run.open(workplace / "runs/a")
    assert run.find("latest").step == step_of(workplace)
    own_pairs.with_name("hidden").rename(own_pairs)
    again = start(*having(words, "--data", own_pairs))
    assert again.wait() == 0, again.output
    assert_complete(workplace)
    assert losses(workplace) == straight_steps


# --- everstep save and stop --------------------------------------------------------------------------------


class TryAgainSoon:
    """The test does not wait as long as people do."""

    def __call__(self) -> None:
        from everstep.keeping import committer

        committer.RETRY_S = 0.3


def test_whoever_asks_for_a_version_on_a_full_disk_is_answered_and_training_goes_on(
    start: Start, endless: tuple[str, ...], runs_disk: Path, everstep: Callable[..., Ended], workplace: Path
) -> None:
    words = (*having(endless, "--versions.every", 10**6), "--keeper.snapshots", 1)
    program = start(*words, prepare=TryAgainSoon())
    program.wait_for(lambda: step_of(workplace) > 0)
    ballast = fill(runs_disk, left_bytes=100_000)
    for _ in range(4):  # more than there are slots
        ended = everstep("save", "a", "--label", "kept")
        assert ended.code == 4, ended.out
        assert "is not committed: it needs" in ended.out
        assert "free" in ended.out
    assert [version.step for version in Run.open(runs_disk / "a").versions()] == [0]
    ballast.unlink()
    program.wait_for(lambda: everstep("save", "a").code == 0)  # the first ones are tried again before
    assert Run.open(runs_disk / "a").find("kept").reason == "asked"
    assert list((runs_disk / "a/.requests").iterdir()) == []
    program.signal(signal.SIGTERM)
    assert program.wait() == 3, program.output


def test_two_who_ask_at_once_are_both_served(
    start: Start, endless: tuple[str, ...], everstep: Callable[..., Ended], workplace: Path
) -> None:
    program = start(*endless)
    program.wait_for(lambda: step_of(workplace) > 0)
    run = Run.open(workplace / "runs/a")
    asked = [write_request(run.layout, "save", label=label) for label in ("one", "two")]
    program.wait_for(lambda: not any(is_waiting(run.layout, request) for request in asked))
    program.wait_for(lambda: run.find("one").reason == run.find("two").reason == "asked")
    program.signal(signal.SIGTERM)
    assert program.wait() == 3, program.output
