"""Signals as schedulers, service managers, terminals and people send them: each keeps the step that it came at.

The trainings have no version but version_0 until something ends them: all that is kept was in memory before.
"""

import os
import signal
import subprocess
import sys
import termios
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from trainers import (
    Together,
    hang,
    in_memory,
    is_running,
    last_whole,
    state_of,
    told,
    wait_for_trainer,
    wait_until,
    wait_until_it_tells,
)

from everstep.versions import Run, read_live
from law import UNSEEN
from program import AfterStep, Program

Start = Callable[..., Program]
Words = tuple[object, ...]
STOPPED = 3


@pytest.fixture
def words(tiny_base: Path, pairs_folder: Path) -> Words:
    small = ("--optim.max-steps", 10**6, "--versions.every", 10**6, "--optim.batch-size", 2, *UNSEEN)
    return ("train", "--run", "a", "--base", tiny_base, "--data", pairs_folder, *small, "--keeper.snapshots", 1)


def own_group() -> None:
    """As a shell or a service manager starts it, so that all of it can be signalled."""
    os.setpgid(0, 0)


class NoMoment:
    """Signals that come one after the other are two, however soon: the test does not wait."""

    def __call__(self) -> None:
        from everstep.keeping import signals
        from everstep.train import stop

        signals.MOMENT_S = stop.MOMENT_S = 0.0


class Training:
    """A program that trains, with the process number of its trainer."""

    def __init__(self, program: Program, folder: Path) -> None:
        self.program, self.folder = program, folder
        trainer = wait_for_trainer(program)
        assert trainer is not None, program.output
        assert wait_until_it_tells(program, trainer, folder), program.output
        assert program.process.pid is not None
        self.trainer, self.keeper = trainer, program.process.pid

    @property
    def step(self) -> int:
        live = told(self.folder, self.trainer)
        return -1 if live is None else live.step

    def goes_on(self) -> None:
        """Until it has made more steps than one that was asked to stop would make."""
        before = self.step
        self.program.wait_for(lambda: self.step > before + 5)

    def has_stopped_cleanly(self, reason: str = "signal") -> None:
        """By its own hand, with its very last step on the disk and nothing left in memory."""
        assert self.program.wait() == STOPPED, self.program.output
        last = last_whole(self.folder)
        assert (last.step, last.reason) == (self.step, reason), self.program.output
        assert last.step > 0
        assert in_memory(self.folder) == []
        assert "Traceback" not in self.program.output


@pytest.fixture
def training(start: Start, words: Words, workplace: Path) -> Callable[..., Training]:
    def call(prepare: Callable[[], None] = own_group, *more: object) -> Training:
        return Training(start(*words, *more, prepare=prepare), workplace)

    return call


# --- to stop -----------------------------------------------------------------------------------------------

# Two numbers where two are meant: of several that are the same and wait, the kernel delivers one.
SENT: dict[str, Callable[[Training], object]] = {
    "SIGTERM to the groups of keeper and trainer": lambda it: [os.killpg(pid, 15) for pid in (it.keeper, it.trainer)],
    "SIGTERM to the trainer alone": lambda it: os.kill(it.trainer, signal.SIGTERM),
    "SIGINT to both": lambda it: [os.kill(pid, signal.SIGINT) for pid in (it.keeper, it.trainer)],
    "SIGXCPU to the keeper": lambda it: os.kill(it.keeper, signal.SIGXCPU),
    "SIGTERM to the trainer, then to the keeper": lambda it: [os.kill(pid, 15) for pid in (it.trainer, it.keeper)],
    "SIGINT and SIGTERM to the keeper at once": lambda it: [os.kill(it.keeper, number) for number in (2, 15)],
    "SIGTERM and SIGINT to the trainer alone, again": lambda it: [os.kill(it.trainer, number) for number in (15, 2)],
    "SIGXCPU to the trainer": lambda it: os.kill(it.trainer, signal.SIGXCPU),
    "SIGHUP to the keeper": lambda it: os.kill(it.keeper, signal.SIGHUP),
}


RARE = list(SENT)[4:]  # in make crash


@pytest.mark.fault("{sent}")
@pytest.mark.parametrize("sent", [pytest.param(one, marks=pytest.mark.slow) if one in RARE else one for one in SENT])
def test_whoever_gets_the_signal_the_step_is_finished_and_kept(training: Callable[..., Training], sent: str) -> None:
    prepare = Together((own_group, NoMoment())) if "again" in sent else own_group
    it = training(prepare, "--restarts", 3)
    SENT[sent](it)
    it.has_stopped_cleanly()


@pytest.mark.fault("GNU timeout, which signals its child and then the group")
def test_timeout_ends_a_training_as_any_signal_does(words: Words, workplace: Path) -> None:
    command = ["timeout", "--preserve-status", "1000", sys.executable, "-m", "everstep", *map(str, words)]
    ended = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    layout = Run(workplace / "runs/a").layout
    while (live := read_live(layout)) is None or live.snapshot_step is None:
        assert ended.poll() is None
    ended.send_signal(signal.SIGALRM)  # what tells it that the time is over
    out = ended.communicate(timeout=60)[0]
    assert ended.returncode == STOPPED, out
    last, live = last_whole(workplace), read_live(layout)
    assert live is not None
    assert (last.step, last.reason) == (live.step, "signal")
    assert "leaving" not in out


@pytest.mark.fault("SIGINT twice, with a pause, while the trainer hangs")
def test_a_second_signal_leaves_at_once_and_what_is_in_memory_is_gone_on_from(
    start: Start, words: Words, workplace: Path
) -> None:
    program = start(*words, prepare=Together((NoMoment(), AfterStep(5, hang))))
    trainer = wait_for_trainer(program)
    program.wait_for(lambda: [found.step for found in in_memory(workplace)] == [4])
    program.signal(signal.SIGINT)
    program.wait_for(lambda: "Once more leaves at once" in program.output)
    program.signal(signal.SIGINT)
    assert program.wait() == STOPPED, program.output
    assert trainer is not None
    assert not is_running(trainer)
    assert "Step 4 is kept in /dev/shm/everstep-" in program.output
    assert "To drop it: rm -r /dev/shm/everstep-" in program.output
    assert [version.step for version in Run(workplace / "runs/a").versions()] == [0]
    again = Training(start(*words), workplace)
    assert "(step 4) from memory" in again.program.output
    assert told(workplace, again.trainer).resumed_from == 1  # type: ignore[union-attr]
    again.program.signal(signal.SIGTERM)
    again.has_stopped_cleanly()


class SlowToLeave:
    """The keeper stands still between its last word and its exit, until it is let go."""

    def __init__(self, gate: Path) -> None:
        self.gate = gate

    def __call__(self) -> None:
        import time

        from everstep.keeping.keeper import Keeper

        original = Keeper.leave

        def leave(keeper: Keeper, *arguments: object) -> int:
            code = original(keeper, *arguments)  # type: ignore[arg-type]
            print("leaving now", flush=True)
            while not self.gate.exists():
                time.sleep(0.005)
            return code

        Keeper.leave = leave  # type: ignore[method-assign]


@pytest.mark.fault("a second {name} while the keeper leaves")
@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT", "SIGHUP"])
def test_a_second_signal_while_leaving_does_not_change_the_end(
    training: Callable[..., Training], name: str, tmp_path: Path
) -> None:
    it = training(Together((NoMoment(), SlowToLeave(tmp_path / "gate"))))
    it.program.signal(signal.SIGTERM)
    it.program.wait_for(lambda: "leaving now" in it.program.output)
    it.program.signal(signal.Signals[name])
    (tmp_path / "gate").touch()
    it.has_stopped_cleanly()


# In the last moments of an interpreter, when it has given back all signals that Python code handled.
LATE = """
import os, signal
class Late:
    def __del__(self, kill=os.kill, me=os.getpid(), pid=os.getpid): pid() != me or kill(me, signal.SIGTERM)
late = Late()
from everstep.cli.main import main
main({words!r})
"""


@pytest.mark.fault("SIGTERM in the last moments of the process, after Complete")
def test_a_signal_in_the_last_moments_does_not_change_the_end(words: Words, workplace: Path) -> None:
    few = [*map(str, words)]
    few[few.index("--optim.max-steps") + 1] = "2"
    ended = subprocess.run([sys.executable, "-c", LATE.format(words=few)], capture_output=True, text=True, timeout=100)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert "Complete after 2 steps" in ended.stdout


# --- to save, to pause --------------------------------------------------------------------------------------


@pytest.mark.fault("{name} to {whom}: what schedulers send some time before the end")
@pytest.mark.parametrize("name", ["SIGUSR1", "SIGUSR2"])
@pytest.mark.parametrize("whom", ["the keeper", "keeper and trainer"])
def test_a_warning_makes_a_version_and_training_goes_on(
    training: Callable[..., Training], name: str, whom: str
) -> None:
    it = training()
    for pid in (it.keeper, it.trainer)[: 1 + (whom != "the keeper")]:
        os.kill(pid, signal.Signals[name])
    run = Run.open(it.folder / "runs/a")
    it.program.wait_for(lambda: run.versions()[-1].reason == "asked")
    it.goes_on()
    it.program.signal(signal.SIGTERM)
    it.has_stopped_cleanly()


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
