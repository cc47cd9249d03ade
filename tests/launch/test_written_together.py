"""Versions that several machines write, and memory of one that outlives another; here all of them are this one."""

import json
import os
import shutil
import signal
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from everstep.versions import Run, verify
from everstep.versions.layout import DIGESTS, MANIFEST
from machines import TRAINING
from program import Program
from ranks import processes_of

VERSIONS = ("--ranks", 1, "--versions.every", 10, "--keep.everything")


class Sharing:
    """Versions of any size are written by all machines, and nobody is waited for long. Can be sent."""

    def __call__(self) -> None:
        from everstep.keeping import extents
        from everstep.launch import answering, calling

        extents.LEAST_BYTES, extents.PATIENCE_S = 1, 2.0
        calling.AGAIN_S = 2.0
        answering.ENDED_S = 5.0


class Halt(Sharing):
    """The same, and this machine's keeper stands still at a moment of its first part of a version, and says so."""

    MOMENTS = ("asked", "written", "answered")

    def __init__(self, moment: str, mark: Path) -> None:
        self.moment, self.mark = moment, mark

    def __call__(self) -> None:
        from everstep.keeping import deputy

        super().__call__()
        name = "write_extents" if self.moment == "asked" else "answer"
        original = getattr(deputy, name)

        def halting(*given: object, **more: object) -> object:
            found = original(*given, **more) if self.moment == "answered" else None
            if not self.mark.exists():
                self.mark.touch()
                os.kill(os.getpid(), signal.SIGSTOP)
            return found if self.moment == "answered" else original(*given, **more)

        setattr(deputy, name, halting)


class HaltFirst(Sharing):
    """The same, and the first machine's keeper or, where it trains, its first rank stands still, and says so."""

    def __init__(self, moment: str, mark: Path) -> None:
        self.moment, self.mark = moment, mark

    def __call__(self) -> None:
        from everstep.keeping.extents import Asked
        from everstep.train.loop import Loop
        from everstep.versions import fsops

        super().__call__()

        def stop() -> None:
            if not self.mark.exists():
                self.mark.touch()
                os.kill(os.getpid(), signal.SIGSTOP)

        asked, written, stepped = Asked.begin, fsops.write_file, Loop._step

        def begin(one: Asked, staging: Path) -> None:
            asked(one, staging)
            stop()

        def write_file(path: Path, *more: object) -> None:
            written(path, *more)  # type: ignore[arg-type]
            if path.name == MANIFEST:
                stop()

        def step(loop: Loop) -> None:
            if loop.state.step == 17:
                stop()
            stepped(loop)

        if self.moment == "asked for parts of a version":
            Asked.begin = begin  # type: ignore[method-assign]
        elif self.moment == "written a manifest":
            fsops.write_file = write_file
        else:
            Loop._step = step  # type: ignore[method-assign]


class Apart(Sharing):
    """A machine whose memory no other one sees; the rest of what is prepared for it."""

    def __init__(self, memory: Path, more: Sharing) -> None:
        self.memory, self.more = memory, more

    def __call__(self) -> None:
        from everstep.keeping import memory

        memory.SHARED_MEMORY = self.memory
        self.more()


@pytest.fixture
def memories() -> Iterator[list[Path]]:
    """Of two machines."""
    made = [Path(tempfile.mkdtemp(prefix="machine-", dir="/dev/shm")) for _ in range(2)]
    yield made
    for folder in made:
        shutil.rmtree(folder)


@pytest.fixture(scope="module")
def straight(tiny_base: Path, pairs_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, object]:
    """Digests of the last version of as many ranks on one machine, which nothing ends."""
    folder = tmp_path_factory.mktemp("straight") / "in"
    folder.mkdir()
    line = ("train", "--base", tiny_base, "--data", pairs_folder, "--run", "a", *TRAINING, *VERSIONS)
    program = Program((*line, "--set", "compute.ranks=2"), folder)
    assert program.wait() == 0, program.output
    return digests(folder)


def digests(workplace: Path) -> dict[str, object]:
    found: dict[str, object] = json.loads((Run.open(workplace / "runs/a").find("latest").path / DIGESTS).read_text())
    return found


def all_are_whole(workplace: Path) -> None:
    versions = Run.open(workplace / "runs/a").versions()
    assert [version.step for version in versions if version.step % 10 == 0] == [0, 10, 20, 30]
    assert [wrong for version in versions for wrong in verify(version)] == []
    assert not list((workplace / "runs/a").glob(".version*"))


@pytest.mark.slow
@pytest.mark.parametrize("parallel", ["ddp", "fsdp"])
def test_machines_of_several_ranks_write_together(
    parallel: str, machine: Callable[..., Program], workplace: Path
) -> None:
    """On each its ranks copy their shares into the memory that its own keeper holds."""
    line = ("--versions.every", 10, "--keep.everything", "--compute.parallel", parallel)
    machines = [machine(node, *line, "--ranks", 2, prepare=Sharing()) for node in (1, 0)]
    assert [one.wait(120) for one in machines] == [0, 0], "".join(one.output for one in machines)
    assert "Versions are written by 2 machines, each its part." in machines[1].output
    assert "alone" not in machines[1].output
    assert "was refused" not in "".join(one.output for one in machines)
    all_are_whole(workplace)


def test_two_machines_write_what_one_does(
    machine: Callable[..., Program], workplace: Path, straight: dict[str, object]
) -> None:
    machines = [machine(node, *VERSIONS, prepare=Sharing()) for node in (1, 0)]
    assert [one.wait() for one in machines] == [0, 0], "".join(one.output for one in machines)
    assert "Versions are written by 2 machines, each its part." in machines[1].output
    assert "alone" not in machines[1].output
    answered = json.loads((workplace / "runs/a/records/nodes/written-1.json").read_text())
    assert answered["pieces"], answered  # of the last one
    all_are_whole(workplace)
    assert digests(workplace) == straight
    assert "is kept in" not in "".join(one.output for one in machines)  # nothing was left in memory


@pytest.mark.fault("a machine that is lost when its part of a version was {moment}")
@pytest.mark.parametrize(
    "moment", [pytest.param(moment, marks=[pytest.mark.slow] * (moment != "written")) for moment in Halt.MOMENTS]
)
def test_a_machine_that_is_lost_while_it_writes_costs_no_version(
    moment: str, machine: Callable[..., Program], workplace: Path, tmp_path: Path
) -> None:
    second = machine(1, *VERSIONS, prepare=Halt(moment, tmp_path / "mark"))
    first = machine(0, *VERSIONS, "--restarts", 1, prepare=Sharing())
    first.wait_for((tmp_path / "mark").exists)
    assert second.process.pid is not None
    for pid in (*processes_of(second.process.pid), second.process.pid):
        os.kill(pid, signal.SIGKILL)
    assert first.wait() == 0, first.output
    assert "1 of 2 go on" in first.output
    all_are_whole(workplace)


@pytest.mark.fault("a machine that stands still when its part of a version was asked for")
def test_a_machine_that_stands_still_while_it_writes_is_not_waited_for_twice(
    machine: Callable[..., Program], workplace: Path, tmp_path: Path, straight: dict[str, object]
) -> None:
    """Its keeper alone: its ranks train on."""
    second = machine(1, *VERSIONS, prepare=Halt("asked", tmp_path / "mark"))
    first = machine(0, *VERSIONS, prepare=Sharing())
    first.wait_for(lambda: "has not written its part" in first.output)
    second.signal(signal.SIGCONT)
    assert [first.wait(), second.wait()] == [0, 0], first.output + second.output
    assert first.output.count("has not written its part") == 1
    all_are_whole(workplace)
    assert digests(workplace) == straight


# --- the first machine is lost -------------------------------------------------------------------------------


@pytest.mark.fault("the first machine, with its memory, when it had {moment}")
@pytest.mark.parametrize(
    "moment",
    [
        pytest.param("asked for parts of a version", marks=pytest.mark.slow),
        pytest.param("written a manifest", marks=pytest.mark.slow),
        "trained a while",
    ],
)
def test_what_the_first_machine_takes_with_it_another_one_holds(
    moment: str,
    machine: Callable[..., Program],
    workplace: Path,
    tmp_path: Path,
    memories: list[Path],
    straight: dict[str, object],
) -> None:
    """A new start calls that one, which makes a version of it."""
    more = (*VERSIONS, "--keeper.snapshots", 1)
    second = machine(1, *more, prepare=Apart(memories[1], Sharing()))
    first = machine(0, *more, prepare=Apart(memories[0], HaltFirst(moment, tmp_path / "mark")))
    first.wait_for((tmp_path / "mark").exists)
    assert first.process.pid is not None
    for pid in (*processes_of(first.process.pid), first.process.pid):
        os.kill(pid, signal.SIGKILL)
    assert list(memories[0].iterdir())
    for held in memories[0].iterdir():
        shutil.rmtree(held)
    assert second.wait() == 3, second.output
    assert f"is kept in {memories[1]}" in second.output
    again = [machine(node, *more, job_step=1, prepare=Apart(memories[node], Sharing())) for node in (1, 0)]
    assert [one.wait() for one in again] == [0, 0], "".join(one.output for one in again)
    step = {"trained a while": 17}.get(moment, 0)
    assert f"Machine 1 holds step {step} in its memory" in again[1].output
    assert f"(step {step}) was rescued from memory" in again[0].output
    assert digests(workplace) == straight
    all_are_whole(workplace)
    assert not [held for folder in memories for held in folder.iterdir()]
