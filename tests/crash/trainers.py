"""Keeper and trainer seen from outside, how far they have come, and what a test makes a trainer do at a step."""

import ctypes
import os
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from everstep.keeping.memory import Found, lying_about
from everstep.records.steps import read_metrics
from everstep.versions import LiveStatus, Run, Version, read_live, verify, write_request
from program import Program

STEPS = 12
ENDLESS, SELDOM = 10**6, 10**6

if TYPE_CHECKING:
    from everstep.train.loop import Loop


def trainer_of(program: Program) -> int | None:
    """The keeper's child."""
    pid = program.process.pid
    try:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except FileNotFoundError:
        return None
    return int(children[0]) if children else None


def wait_for_trainer(program: Program, other_than: int | None = None) -> int | None:
    """The trainer's process number, or None once the program has ended."""
    until = time.monotonic() + 60
    while program.process.is_alive():
        trainer = trainer_of(program)
        if trainer is not None and trainer != other_than:
            return trainer
        assert time.monotonic() < until, program.output
        time.sleep(0.002)
    return None


def wait_until_it_tells(program: Program, trainer: int, folder: Path) -> bool:
    """Until this very trainer has told of a state in memory; False if it ended before."""
    until = time.monotonic() + 60
    while trainer_of(program) == trainer:
        if kept_step(told(folder, trainer)) is not None:
            return True
        assert time.monotonic() < until, program.output
        time.sleep(0.005)
    return False


def told(folder: Path, trainer: int | None) -> LiveStatus | None:
    """What this trainer told last; None if what lies there is another's."""
    live = read_live(Run(folder / "runs/a").layout)
    return live if live is not None and live.pid == trainer else None


def kept_step(live: LiveStatus | None) -> int | None:
    """The step of the state that was in memory, by what the trainer said; None if it had said of none."""
    return None if live is None else live.snapshot_step


def latest_step(folder: Path) -> int:
    """Of the version that was made last."""
    versions = Run(folder / "runs/a").versions()
    return versions[-1].step if versions else -1


def kill_both(program: Program, trainer: int) -> None:
    program.process.kill()
    if Path(f"/proc/{trainer}").exists():
        os.kill(trainer, signal.SIGKILL)
    program.process.join()
    wait_until(lambda: not is_running(trainer), program)


def state_of(pid: int) -> str:
    """As the kernel says: R, S, T where it is stopped, Z where it has ended; empty where it is gone."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return ""


def is_running(pid: int) -> bool:
    return state_of(pid) not in ("", "Z")


def wait_until(is_so: Callable[[], object], program: Program, timeout_s: float = 60) -> None:
    """As Program.wait_for, also once it has ended."""
    until = time.monotonic() + timeout_s
    while not is_so():
        assert time.monotonic() < until, program.output
        time.sleep(0.005)


class EndAtOnce:
    """A trainer that does nothing: what its keeper did before it is all that is looked at."""

    def __call__(self) -> None:
        import everstep.train.session

        everstep.train.session.train = lambda *_: 3  # type: ignore[assignment]


def hang(loop: "Loop") -> None:
    time.sleep(1000)


def hang_with_the_lock(loop: "Loop") -> None:
    """Within the interpreter's lock, as a library of somebody's may: no other thread runs."""
    while True:
        ctypes.PyDLL(None).sleep(1000)  # a signal ends it


def die(loop: "Loop") -> None:
    os._exit(99)


def ask_to_save(loop: "Loop") -> None:
    """everstep save comes between two steps, under a label."""
    write_request(loop.saver.making.run.layout, "save", label=f"at {loop.state.step}")


@dataclass(frozen=True)
class Together:
    """Several things that a test prepares."""

    prepared: tuple[Callable[[], None], ...]

    def __call__(self) -> None:
        for prepare in self.prepared:
            prepare()


def words_for(
    base: Path, pairs: Path, steps: int, every: int, *more: object, sheets: int = 0, scores: float = 0
) -> tuple[object, ...]:
    """A training that copies its state after every step."""
    data = ("--base", base, "--data", pairs, "--optim.batch-size", 2)
    amounts = ("--optim.max-steps", steps, "--versions.every", every)
    beside = ("--sampling.pairs", sheets, "--scoring.overhead", scores)
    return ("train", "--run", "a", *data, *amounts, *beside, "--keeper.snapshots", 1, *more)


class RetrySoon:
    """The test does not wait as long as people do."""

    def __call__(self) -> None:
        from everstep.keeping import committer

        committer.RETRY_S = 0.1


# --- what lies in memory and on the disk ---------------------------------------------------------------------


def in_memory(folder: Path) -> list[Found]:
    """Memory of the run."""
    return [found for found in lying_about(None) if found.run == str(folder / "runs/a")]


def last_whole(folder: Path) -> Version:
    """The newest version, read whole."""
    last = Run.open(folder / "runs/a").find("latest")
    assert verify(last) == []
    return last


def trained(program: Program, workplace: Path) -> int:
    """Its trainer, once that has told of a state in memory."""
    trainer = wait_for_trainer(program)
    assert trainer is not None, program.output
    assert wait_until_it_tells(program, trainer, workplace), program.output
    return trainer


def kept(workplace: Path) -> int:
    """The step of the state that lies in memory, unused: what was killed holds it until its last thread is gone."""
    until = time.monotonic() + 10
    (found,) = in_memory(workplace)
    while found.is_used:
        assert time.monotonic() < until
        time.sleep(0.01)
        (found,) = in_memory(workplace)
    assert found.step is not None
    return found.step


def is_complete(workplace: Path, steps: int = STEPS) -> None:
    """Trained to its end: the last version says so, every step is recorded once, and no memory is left."""
    last = last_whole(workplace)
    assert (last.step, last.reason) == (steps, "final")
    assert [line["step"] for line in read_metrics(workplace / "runs/a/records")] == list(range(1, steps + 1))
    assert in_memory(workplace) == []
