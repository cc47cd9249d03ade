"""Signals as schedulers, service managers, terminals and people send them: each keeps the step that it came at.

The trainings have no version but version_0 until something ends them: all that is kept was in memory before.
"""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from signalled import STOPPED, Training, own_group
from trainers import (
    Together,
    hang,
    in_memory,
    is_running,
    last_whole,
    told,
    wait_for_trainer,
)

from everstep.keeping import stacks
from everstep.versions import Run, read_live
from program import AfterStep, Program

Start = Callable[..., Program]
Words = tuple[object, ...]


class NoMoment:
    """Signals that come one after the other are two, however soon: the test does not wait."""

    def __call__(self) -> None:
        from everstep.keeping import signals
        from everstep.train import stop

        signals.MOMENT_S = stop.MOMENT_S = 0.0


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
def test_timeout_ends_a_training_as_any_signal_does(unending: Words, workplace: Path) -> None:
    command = ["timeout", "--preserve-status", "1000", sys.executable, "-m", "everstep", *map(str, unending)]
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
    start: Start, unending: Words, workplace: Path
) -> None:
    program = start(*unending, prepare=Together((NoMoment(), AfterStep(5, hang))))
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
    again = Training(start(*unending), workplace)
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
def test_a_signal_in_the_last_moments_does_not_change_the_end(unending: Words, workplace: Path) -> None:
    few = [*map(str, unending)]
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


@pytest.mark.fault("the question where it is to {whom}")
@pytest.mark.parametrize("whom", ["the keeper", "the trainer"])
def test_whoever_is_asked_where_it_is_the_trainer_answers(training: Callable[..., Training], whom: str) -> None:
    it = training()
    os.kill(it.keeper if whom == "the keeper" else it.trainer, stacks.ASKED)
    written = Run.open(it.folder / "runs/a").layout.records / stacks.NAME
    it.program.wait_for(lambda: f"Process {it.trainer}:\n" in written.read_text())
    it.goes_on()
    it.program.signal(signal.SIGTERM)
    it.has_stopped_cleanly()


@pytest.mark.fault("SIGUSR1 to the keeper, then kill -9 of the trainer, which is started again")
def test_a_warning_to_one_trainer_makes_no_version_of_the_next(training: Callable[..., Training]) -> None:
    it = training(own_group, "--restarts", 1)
    os.kill(it.keeper, signal.SIGUSR1)
    run = Run.open(it.folder / "runs/a")
    it.program.wait_for(lambda: run.versions()[-1].reason == "asked")
    os.kill(it.trainer, signal.SIGKILL)
    again = wait_for_trainer(it.program, other_than=it.trainer)
    it.program.wait_for(lambda: (live := told(it.folder, again)) is not None and live.step > it.step + 5)
    assert [version.reason for version in run.versions()].count("asked") == 1
    it.program.signal(signal.SIGTERM)
    assert it.program.wait() == STOPPED, it.program.output


@pytest.mark.fault("{name} to every process of a job, again and again")
@pytest.mark.parametrize("name", ["SIGUSR1", "SIGUSR2"])
def test_warnings_again_and_again_end_nothing(training: Callable[..., Training], name: str) -> None:
    it = training()
    for _ in range(100):
        for pid in (it.keeper, it.trainer):
            os.kill(pid, signal.Signals[name])
        time.sleep(0.01)
    it.goes_on()
    it.program.signal(signal.SIGTERM)
    it.has_stopped_cleanly()
