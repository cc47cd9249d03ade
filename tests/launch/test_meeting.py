"""Several machines train one run; here all of them are this one, and what they share is a folder."""

import contextlib
import os
import signal
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from everstep.errors import UnreachableDisk
from everstep.launch import answering, calling
from everstep.launch.answering import Held, Listener
from everstep.launch.calling import Caller, Launch
from everstep.launch.meeting import Stopped
from everstep.records.steps import read_metrics
from everstep.telling import untold
from everstep.versions import Run
from everstep.versions.layout import RunLayout
from machines import TRAINING, Impatient, is_at
from program import Ended, Program
from ranks import KillRank, processes_of

NAME = "{}-{}-0-0"  # of the launch: job, step, how often it was put back
Start = Callable[..., Program]


@pytest.mark.parametrize("parallel", ["fsdp", pytest.param("ddp", marks=pytest.mark.slow)])
def test_two_machines_are_one_training(parallel: str, machine: Callable[..., Program], workplace: Path) -> None:
    more = ("--ranks", 1, "--compute.parallel", parallel)
    machines = [machine(node, *more) for node in (1, 0)]
    assert [one.wait() for one in machines] == [0, 0], "".join(one.output for one in machines)
    last = Run.open(workplace / "runs/a").find("latest")
    assert (last.step, last.manifest["machine"]["ranks"]) == (30, 2)
    assert [line["first_example"] for line in read_metrics(workplace / "runs/a/records")] == [
        4 * at for at in range(30)
    ]


@pytest.mark.slow  # test_written_together.py has one that goes while it writes
@pytest.mark.fault("a machine of two")
def test_a_machine_that_is_gone_is_gone_on_without(machine: Callable[..., Program], workplace: Path) -> None:
    more = ("--ranks", 1, "--set", "optim.max_steps=300")
    second = machine(1, *more)
    first = machine(0, *more, "--restarts", 1, prepare=Impatient())
    first.wait_for(lambda: is_at(workplace / "runs/a", 5))
    assert second.process.pid is not None
    for pid in (second.process.pid, *processes_of(second.process.pid)):
        os.kill(pid, signal.SIGKILL)
    assert first.wait() == 0, first.output
    assert "Ranks of another machine are gone" in first.output
    assert "0 steps back" in first.output  # the first machine holds all that was done
    assert "1 of 2 go on" in first.output
    last = Run.open(workplace / "runs/a").find("latest")
    assert last.step == 300
    assert "ranks" not in last.manifest["machine"]


@pytest.mark.slow
def test_a_machine_whose_rank_died_comes_again(machine: Callable[..., Program], workplace: Path) -> None:
    second = machine(1, "--ranks", 1, prepare=KillRank(1, "a step", 20))
    first = machine(0, "--ranks", 1, "--restarts", 1)
    assert [first.wait(), second.wait()] == [0, 0], first.output
    last = Run.open(workplace / "runs/a").find("latest")
    assert (last.step, last.manifest["machine"]["ranks"]) == (30, 2)
    assert "Rank 1 of 2 was ended by SIGKILL" in second.output


@pytest.mark.fault("SIGTERM at one machine of two")
def test_a_machine_that_is_taken_away_asks_all_to_stop(machine: Callable[..., Program], workplace: Path) -> None:
    machines = [machine(node, "--ranks", 1, "--set", "optim.max_steps=10000") for node in (1, 0)]
    machines[1].wait_for(lambda: is_at(workplace / "runs/a", 2))
    machines[0].signal(signal.SIGTERM)
    assert [one.wait() for one in machines] == [3, 3]
    assert Run.open(workplace / "runs/a").find("latest").reason == "asked"


def test_other_data_on_a_machine_are_refused(
    machine: Callable[..., Program], workplace: Path, pairs_folder: Path, tmp_path: Path
) -> None:
    """The first one says it, and leaves nothing behind."""

    def answer(listener: Listener) -> None:
        call = listener.await_call()
        assert isinstance(call, dict)
        listener.refuse("the data here is not the first machine's: its content is another.")

    first = machine(0, "--ranks", 1)
    answer(Listener(workplace / "runs/a", NAME.format(os.getpid(), workplace.name), 1, lambda: False))
    assert first.wait() == 2, first.output
    assert "Machine 1: the data here is not the first machine's" in first.output
    assert not (workplace / "runs/a").exists()


# --- how they meet -------------------------------------------------------------------------------------------


def caller(folder: Path, nodes: int, is_stopped: Callable[[], bool] = lambda: False) -> Caller:
    return Caller(RunLayout(folder), Launch("7-0-0", nodes), 2, print, untold, is_stopped)


def test_an_old_call_is_not_answered_for_ever(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calling, "FIRST_S", 0.5)
    assert caller(tmp_path, 2).call({"version": None}).nodes == 1  # nobody answers
    listener = Listener(tmp_path, "7-0-0", 1, lambda: False)
    call = listener.await_call()
    assert isinstance(call, dict)
    assert listener.answer(2) is None  # too late for this one
    Launch("7-0-0", 2).tell_end(tmp_path, 4)
    assert listener.await_call() == 4


def test_what_a_launch_before_has_left_is_not_taken_for_a_call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calling, "FIRST_S", 0.5)
    caller(tmp_path, 2).call({"version": None})
    Launch("7-0-0", 2).tell_end(tmp_path, 3)
    monkeypatch.setattr(answering, "SILENT_S", 0.5)
    with pytest.raises(Stopped, match="has not been heard of"):
        Listener(tmp_path, "7-0-1", 1, lambda: False).await_call()


def test_a_launch_of_the_same_name_is_not_taken_for_this_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """torchrun's launches have one name where nobody gives them another."""
    monkeypatch.setattr(calling, "FIRST_S", 0.5)
    caller(tmp_path, 2).call({"version": None})
    Launch("7-0-0", 2).tell_end(tmp_path, 3)  # and the same line again
    listener = Listener(tmp_path, "7-0-0", 1, lambda: False, is_repeated=True)
    monkeypatch.setattr(answering, "SILENT_S", 0.5)
    with pytest.raises(Stopped, match="has not been heard of"):
        listener.await_call()
    launch = Launch("7-0-0", 2)
    launch.forget_older(tmp_path)
    Caller(RunLayout(tmp_path), launch, 2, print, untold, lambda: False).call({"version": 5})
    call = listener.await_call()
    assert isinstance(call, dict)
    assert call["version"] == 5
    launch.tell_end(tmp_path, 4)
    assert listener.await_call() == 4


def test_an_end_that_stays_is_this_launchs_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first machine has refused its input before this one began to listen."""
    Launch("7-0-0", 2).tell_end(Run.create(tmp_path / "a", "a: 1\n").path, 2)
    monkeypatch.setattr(answering, "LEFT_S", 0.5)
    assert Listener(tmp_path / "a", "7-0-0", 1, lambda: False, is_repeated=True).await_call() == 2


def test_a_run_that_is_complete_ends_at_once_on_all_machines(
    machine: Callable[..., Program],
    everstep: Callable[..., Ended],
    workplace: Path,
    tiny_base: Path,
    pairs_folder: Path,
) -> None:
    words = ("train", "--base", tiny_base, "--data", pairs_folder, "--run", "a", *TRAINING)
    assert everstep(*words).code == 0
    machines = [machine(node, "--ranks", 1) for node in (1, 0)]
    assert [one.wait() for one in machines] == [0, 0]
    assert "already complete" in machines[1].output


def test_a_stop_is_heard_while_others_are_waited_for(tmp_path: Path) -> None:
    with pytest.raises(Stopped):
        caller(tmp_path, 2, lambda: True).call({})
    with pytest.raises(Stopped):
        Listener(tmp_path / "nothing", "7-0-0", 1, lambda: True).await_call()


@pytest.mark.parametrize(
    ("rescue", "goes_on"), [(lambda: 3, None), (lambda: "the disk is full", True), (lambda: time.sleep(2) or 3, False)]
)
def test_what_another_machine_holds_is_waited_for(
    rescue: Callable[[], int | str], goes_on: bool | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A version: another call goes on from it. None: this one does. No word: nobody may write the run meanwhile."""
    monkeypatch.setattr(calling, "RESCUE_S", 1.0)
    run = Run.create(tmp_path / "a", "a: 1\n")

    def answered() -> None:
        listener = Listener(run.path, "7-0-0", 1, lambda: False)
        assert isinstance(listener.await_call(), dict)
        with contextlib.suppress(Stopped):
            listener.answer(1, 2.0, Held(9, rescue))

    with ThreadPoolExecutor(1) as apart:
        apart.submit(answered)
        if goes_on is False:
            with pytest.raises(UnreachableDisk, match="asks it again"):
                caller(run.path, 2).call({"version": 1, "step": 5})
        else:
            meeting = caller(run.path, 2).call({"version": 1, "step": 5})
            assert (meeting is not None) == bool(goes_on)
