"""Streams that do not take a line cost the line and nothing else."""

import io
import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from rich.console import Console

from disks import fill, small_disk
from everstep.telling import Outlet, Told
from everstep.train.progress import Progress, Reporter

PROGRESS = Progress(3, 10, 12, 0.5, 1.0, 7.0, "version_1", 1.0, 4)


@pytest.fixture
def full_disk(tmp_path: Path) -> Iterator[Path]:
    """Small enough to be filled; not full yet."""
    with small_disk(tmp_path / "disk", "size=1m") as folder:
        yield folder


def test_a_pipe_that_nobody_reads_takes_nothing_and_raises_nothing() -> None:
    reading, writing = os.pipe()
    with os.fdopen(writing, "w") as stream:
        outlet = Outlet(stream)
        print("heard", file=outlet)
        assert os.read(reading, 100) == b"heard\n"
        os.close(reading)
        print("lost", file=outlet)
        assert isinstance(outlet.refused, BrokenPipeError)


def test_what_was_lost_is_counted_and_said_once_when_lines_are_taken_again(full_disk: Path) -> None:
    log = full_disk / "log"
    ballast = fill(full_disk)
    with log.open("w") as stream:
        outlet = Outlet(stream)
        for number in range(1200):
            print(f"line {number}", file=outlet)
        ballast.unlink()
        print("after", file=outlet)
        print("and on", file=outlet)
    assert log.read_text() == "1,200 lines could not be written meanwhile.\nafter\nand on\n"


def test_a_line_that_was_cut_is_ended_before_the_next_one(full_disk: Path) -> None:
    log = full_disk / "log"
    ballast = fill(full_disk, left_bytes=4096)
    with log.open("w") as stream:
        outlet = Outlet(stream)
        print("x" * 5000, file=outlet)
        ballast.unlink()
        print("after", file=outlet)
    assert log.read_text() == "x" * 4096 + "\n1 line could not be written meanwhile.\nafter\n"


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
def test_a_letter_that_the_encoding_lacks_costs_the_letter(encoding: str, tmp_path: Path) -> None:
    with (tmp_path / "log").open("w", encoding=encoding) as stream:
        print("step 3 · half a smile: \ud83d, fin", file=Outlet(stream))
    written = (tmp_path / "log").read_text(encoding)
    assert written.startswith("step 3 ")
    assert written.endswith("half a smile: ?, fin\n")


def test_threads_write_whole_lines(tmp_path: Path) -> None:
    with (tmp_path / "log").open("w") as stream:
        outlet = Outlet(stream)
        threads = [threading.Thread(target=print, args=("a", i, "b"), kwargs={"file": outlet}) for i in range(50)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert sorted((tmp_path / "log").read_text().splitlines()) == sorted(f"a {i} b" for i in range(50))


def closed_file(folder: Path) -> io.TextIOWrapper:
    file = (folder / "closed").open("w")
    file.close()
    return file


def dead_terminal(folder: Path) -> io.TextIOWrapper:
    master, slave = os.openpty()
    os.close(master)
    return os.fdopen(slave, "w")


def closed_pipe(folder: Path) -> io.TextIOWrapper:
    reading, writing = os.pipe()
    os.close(reading)
    return os.fdopen(writing, "w")


def full_device(folder: Path) -> io.TextIOWrapper:
    return Path("/dev/full").open("w")


@pytest.mark.parametrize("is_terminal", [False, True])
@pytest.mark.parametrize("make", [closed_file, dead_terminal, closed_pipe, full_device])
def test_a_reporter_never_raises(make: object, is_terminal: bool, tmp_path: Path) -> None:
    stream = make(tmp_path)  # type: ignore[operator]
    reporter = Reporter(Console(file=stream, force_terminal=is_terminal))
    for second in range(3):
        reporter.say("a sentence with a [bracket] and an accent: é")
        reporter.show(PROGRESS, now=1000.0 * (second + 1))
    reporter.close()
    stream.close()


def test_a_terminal_that_dies_under_the_moving_line(tmp_path: Path) -> None:
    master, slave = os.openpty()
    with os.fdopen(slave, "w") as stream:
        reporter = Reporter(Console(file=stream))
        reporter.show(PROGRESS, now=1000.0)
        shown = b""
        while b"step 3/10" not in shown:
            shown += os.read(master, 4096)
        os.close(master)
        reporter.show(PROGRESS, now=2000.0)
        reporter.say("still here")
        reporter.close()


def test_what_fails_is_said_once_and_what_works_again_too() -> None:
    said: list[str] = []
    told = Told("The board", said.append)

    def fail() -> None:
        raise OSError(28, "No space left\n on device")

    assert [told.attempt(act) for act in (list, fail, fail)] == [True, False, False]
    while not told.attempt(list):  # it waits as long as the failure took, and some
        pass
    assert told.attempt(list)
    assert said == [
        "The board failed ([Errno 28] No space left on device); training goes on without it, and it is tried again.",
        "The board: works again.",
    ]


def test_an_attempt_comes_no_sooner_than_it_was_told() -> None:
    tried: list[int] = []

    def fail() -> None:
        tried.append(1)
        raise ValueError

    told = Told("The board", lambda sentence: None, retry_s=3600)
    assert [told.attempt(fail) for _ in range(3)] == [False] * 3
    assert len(tried) == 1
    assert told.attempt(list, at_once=True)
