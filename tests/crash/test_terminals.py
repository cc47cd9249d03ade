"""What a terminal does to a training: Ctrl-C, Ctrl-Z, Ctrl-\\, its end."""

import os
import signal
import termios
import threading
from collections.abc import Callable, Iterator

import pytest
from signalled import Training
from trainers import (
    in_memory,
    is_running,
    last_whole,
    state_of,
    wait_until,
)

from program import Program

Start = Callable[..., Program]
Words = tuple[object, ...]


class AtTerminal:
    """The program owns a terminal, as in a session of its own. Optionally its log is there too."""

    def __init__(self, path: str, ignores_hangup: bool = False, is_shown: bool = True) -> None:
        self.path, self.ignores_hangup, self.is_shown = path, ignores_hangup, is_shown

    def __call__(self) -> None:
        os.setsid()
        terminal = os.open(self.path, os.O_RDWR)  # the first that the leader of a session opens is its own
        for descriptor in (0, 1, 2) if self.is_shown else (0,):
            os.dup2(terminal, descriptor)
        if self.ignores_hangup:  # as nohup does
            signal.signal(signal.SIGHUP, signal.SIG_IGN)


class Terminal:
    """A terminal's other end: what is typed there, and whether it is still open."""

    def __init__(self) -> None:
        self.master, self.slave = os.openpty()
        self.path = os.ttyname(self.slave)
        threading.Thread(target=self._show, daemon=True).start()

    def _show(self) -> None:
        try:
            while os.read(self.master, 1 << 16):
                continue
        except OSError:
            return

    def press(self, letter: bytes) -> None:
        os.write(self.master, letter)

    def has_no_line_for_others(self) -> None:
        """stty tostop: whoever is in the background and writes is stopped."""
        attributes = termios.tcgetattr(self.slave)
        attributes[3] |= termios.TOSTOP
        termios.tcsetattr(self.slave, termios.TCSANOW, attributes)

    def close(self) -> None:
        """The window is closed, the line is cut."""
        for descriptor in (self.slave, self.master):
            if descriptor >= 0:
                os.close(descriptor)
        self.master = self.slave = -1


@pytest.fixture
def terminal() -> Iterator[Terminal]:
    made = Terminal()
    yield made
    made.close()


@pytest.mark.fault("Ctrl-C at a terminal")
def test_ctrl_c_stops_cleanly(training: Callable[..., Training], terminal: Terminal) -> None:
    it = training(AtTerminal(terminal.path, is_shown=False))
    terminal.press(b"\x03")
    it.has_stopped_cleanly()


@pytest.mark.fault("Ctrl-Z at a terminal, then SIGCONT")
def test_ctrl_z_pauses_both_and_both_go_on(training: Callable[..., Training], terminal: Terminal) -> None:
    it = training(AtTerminal(terminal.path, is_shown=False))
    for _ in range(2):
        terminal.press(b"\x1a")
        wait_until(lambda: state_of(it.keeper) == state_of(it.trainer) == "T", it.program)
        os.kill(it.keeper, signal.SIGCONT)
        it.goes_on()
    terminal.press(b"\x03")
    it.has_stopped_cleanly()


@pytest.mark.fault("Ctrl-\\ at a terminal: the keeper is gone")
def test_ctrl_backslash_ends_the_keeper_and_the_trainer_saves(
    training: Callable[..., Training], terminal: Terminal
) -> None:
    it = training(AtTerminal(terminal.path, is_shown=False))
    terminal.press(b"\x1c")
    assert it.program.wait() == -signal.SIGQUIT
    wait_until(lambda: not is_running(it.trainer), it.program)
    last = last_whole(it.folder)
    assert (last.step, last.reason) == (it.step, "rescue")
    assert in_memory(it.folder) == []


@pytest.mark.fault("a terminal that is closed under a training")
def test_a_closed_terminal_stops_cleanly(training: Callable[..., Training], terminal: Terminal) -> None:
    it = training(AtTerminal(terminal.path))
    terminal.close()
    it.has_stopped_cleanly()


@pytest.mark.fault("a terminal that is closed under a training that was started with nohup")
def test_a_training_under_nohup_outlives_its_terminal(training: Callable[..., Training], terminal: Terminal) -> None:
    it = training(AtTerminal(terminal.path, ignores_hangup=True))
    terminal.close()
    os.kill(it.keeper, signal.SIGHUP)
    it.goes_on()
    it.program.signal(signal.SIGTERM)
    it.has_stopped_cleanly()


@pytest.mark.fault("a terminal that stops whoever writes from the background (stty tostop)")
def test_a_terminal_with_tostop_stops_no_trainer(training: Callable[..., Training], terminal: Terminal) -> None:
    terminal.has_no_line_for_others()
    it = training(AtTerminal(terminal.path))
    it.goes_on()
    terminal.press(b"\x03")
    it.has_stopped_cleanly()
