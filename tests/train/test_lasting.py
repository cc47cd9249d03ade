"""What takes long is said while it does: on a terminal, in a log, from a thread while the main one computes."""

import io
import os
import pty
import threading
import time
from collections.abc import Iterator
from types import SimpleNamespace

import pytest
from rich.console import Console

from everstep.train import lasting
from everstep.train.lasting import Lasting
from everstep.train.progress import Progress, Reporter
from everstep.units import size


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Long is what takes a twentieth of a second."""
    monkeypatch.setattr(lasting, "QUIET_S", 0.05)


class Log:
    """A reporter whose output is a file, and what it says."""

    def __init__(self, period_s: float = 0.02) -> None:
        self.file = io.StringIO()
        self.reporter = Reporter(Console(file=self.file, soft_wrap=True, highlight=False))
        self.reporter.period_s = period_s

    @property
    def lines(self) -> list[str]:
        return self.file.getvalue().splitlines()

    def wait_for(self, lines: int) -> None:
        until = time.monotonic() + 20
        while len(self.lines) < lines:
            assert time.monotonic() < until, self.lines
            time.sleep(0.005)


@pytest.fixture
def terminal() -> Iterator[tuple[Reporter, int]]:
    """A reporter on a real terminal, and the other end of it."""
    ours, theirs = pty.openpty()
    with open(theirs, "w") as file:
        yield Reporter(Console(file=file, width=100, highlight=False)), ours
    os.close(ours)


def test_what_is_over_soon_is_not_worth_a_word(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lasting, "QUIET_S", 60.0)
    log = Log()
    with log.reporter.during("Reading the base") as said:
        said(1, 2)
    assert log.lines == []
    assert "everstep-lasting" not in {thread.name for thread in threading.enumerate()}


def test_a_log_has_a_line_when_it_is_long_then_at_a_pace_and_one_when_it_is_done() -> None:
    log = Log()
    with log.reporter.during("Checking the pairs", "pictures") as said:
        said(1200, 12000)
        log.wait_for(3)
    assert log.lines[-1].startswith("Checking the pairs: done after ")
    for line in log.lines[:-1]:
        assert line.startswith("Checking the pairs: 1,200 of 12,000 pictures · ")
        assert line.endswith(" s ...")


def test_bytes_are_counted_as_bytes() -> None:
    log = Log()
    with log.reporter.during("Reading the base", count=size) as said:
        said(1_200_000, 4_300_000_000)
        log.wait_for(1)
    assert log.lines[0].startswith("Reading the base: 1.2 MB of 4.3 GB")


def test_what_fails_is_not_called_done() -> None:
    log = Log()

    def read() -> None:
        with log.reporter.during("Reading the base"):
            log.wait_for(1)
            raise OSError("gone")

    with pytest.raises(OSError, match="gone"):
        read()
    assert not any("done" in line for line in log.lines)


def test_what_is_inside_speaks_and_what_is_around_it_waits() -> None:
    log = Log()
    with log.reporter.during("Writing version_0"), log.reporter.during("Measuring control gain"):
        log.wait_for(4)
    assert {line.split(":")[0] for line in log.lines} == {"Measuring control gain"}


def test_the_rest_is_estimated_from_what_was_counted_here(monkeypatch: pytest.MonkeyPatch) -> None:
    """What was remembered from before took no time, and makes nothing faster."""
    now = [100.0]
    monkeypatch.setattr(lasting, "time", SimpleNamespace(monotonic=lambda: now[0]))
    doing = Lasting("Checking the pairs", "", str, lambda lasting: True, 1.0)
    doing.said(900, 1000)
    now[0] += 10
    assert doing.text() == "Checking the pairs: 900 of 1000 · 10 s"
    doing.said(950, 1000)
    assert doing.text() == "Checking the pairs: 950 of 1000 · 10 s · about 10 s left"


def test_a_terminal_shows_a_line_that_moves_and_goes(terminal: tuple[Reporter, int]) -> None:
    reporter, screen = terminal
    reporter.period_s = 0.02
    with reporter.during("Reading the base", count=size) as said:
        said(1000, 4000)
        seen = read_until(screen, b"Reading the base", 2)
    reporter.say("Next.")
    seen += read_until(screen, b"Next.")
    assert b"1.0 kB of 4.0 kB" in seen
    assert b"\x1b[2K" in seen.split(b"Next.")[0].rsplit(b"Reading the base", 1)[1]  # the line was wiped out
    assert b"Reading the base" not in seen.split(b"Next.")[1]
    assert b"done after" not in seen
    reporter.show(Progress(1, 2, 4, None, None, None, None, 0.0, None))
    reporter.close()
    read_until(screen, b"step 1/2")  # of a training that is over, and stays


def read_until(screen: int, text: bytes, times: int = 1) -> bytes:
    """What a terminal was sent up to this text, which may come in several pieces; it hangs where it never comes."""
    seen = b""
    while seen.count(text) < times:
        seen += os.read(screen, 4096)
    return seen


def test_a_terminal_that_is_gone_ends_nothing() -> None:
    ours, theirs = pty.openpty()
    with open(theirs, "w") as file:
        reporter = Reporter(Console(file=file, width=100))
        reporter.period_s = 0.01
        os.close(ours)
        with reporter.during("Reading the base") as said:
            for done in range(20):
                said(done, 20)
                time.sleep(0.01)


def test_a_fork_that_follows_finds_no_thread_and_no_lock_taken() -> None:
    log = Log(period_s=0.001)
    for _ in range(20):
        with log.reporter.during("Reading the base"):
            log.wait_for(len(log.lines) + 1)
        assert "everstep-lasting" not in {thread.name for thread in threading.enumerate()}
        pid = os.fork()
        if pid == 0:
            with log.reporter.during("In the child"):
                time.sleep(0.06)
            os._exit(0)
        assert os.waitpid(pid, 0)[1] == 0
