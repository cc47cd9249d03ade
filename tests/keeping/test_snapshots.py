"""The trainer's side of the arena: what is copied is the state at one step, or it is refused."""

import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from everstep.config.schema import Keeper
from everstep.contracts import Draft, TensorFile
from everstep.keeping.arena import Arena, PlannedFile, SlotState, plan_arena
from everstep.keeping.channel import Channel
from everstep.keeping.sealed import commit_slot
from everstep.train.pace import TRIALS, Pace
from everstep.train.snapshots import Snapshots
from everstep.versions import Run, read_tensors
from everstep.versions.tensorfile import TensorImage
from everstep.versions.torch import TorchTensor

FILE = "weights.safetensors"
Make = Callable[..., "Training"]


class Training:
    """A small network, its optimizer, an arena of its own, and the snapshots between them."""

    def __init__(self, copying: str = "blocking", slots: int = 3, **settings: object) -> None:
        torch.manual_seed(0)
        self.network = torch.nn.Sequential(torch.nn.Linear(40, 300), torch.nn.Linear(300, 7))
        self.optimizer = torch.optim.AdamW(self.network.parameters(), fused=True)
        self.live = {FILE: self.network.state_dict()}
        files = [TensorFile(FILE, {name: TorchTensor(tensor) for name, tensor in self.live[FILE].items()})]
        plan = plan_arena(Path("/nowhere"), [PlannedFile(FILE, TensorImage(files[0]).size_bytes)], 1 << 14, slots)
        descriptor = os.memfd_create("test")
        os.ftruncate(descriptor, plan.size_bytes)
        self.arena = Arena.create(descriptor, plan)
        self.keeper, self.trainer = Channel.pair()
        self.said: list[str] = []
        self.snapshots = Snapshots(
            self.arena,
            files,
            self.live,
            self.optimizer,
            self.trainer,
            Keeper(copying=copying, **settings),  # type: ignore[arg-type]
            self.said.append,
        )
        self.step = 0

    def close(self) -> None:
        self.snapshots.close()
        self.keeper.close()
        self.trainer.close()
        self.arena.close()

    def train(self) -> None:
        """One step."""
        self.network(torch.randn(8, 40)).square().mean().backward()
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.step += 1

    def take(self, claimed: bool = False) -> None:
        self.snapshots.take(Draft(self.step, self.step, "interval", None, (), {"a.json": b"{}"}, {}), claimed)

    def weights(self) -> dict[str, np.ndarray]:
        return {name: tensor.numpy().copy() for name, tensor in self.live[FILE].items()}


@pytest.fixture
def make() -> Iterator[Callable[..., Training]]:
    made: list[Training] = []

    def call(*arguments: Any, **named: Any) -> Training:
        made.append(Training(*arguments, **named))
        return made[-1]

    yield call
    for training in made:
        training.close()


@pytest.mark.parametrize("copying", ["blocking", "background"])
def test_what_is_committed_is_the_state_of_its_step_though_training_goes_on(
    make: Make, copying: str, tmp_path: Path
) -> None:
    training = make(copying)
    run = Run.create(tmp_path / "r", "a: 1\n")
    for _ in range(12):
        training.train()
        before = training.weights()
        training.take(claimed=True)
        training.train()  # waits for the copy before it changes anything
        slot = training.arena.slots[training.keeper.receive()["slot"]]
        assert slot.state is SlotState.CLAIMED
        version = commit_slot(run, training.arena, slot)
        slot.set_state(SlotState.SEALED)
        loaded = read_tensors(version, FILE)
        assert version.step == training.step - 1
        for name, array in before.items():
            assert bytes(loaded[name].buffer) == array.tobytes()


def test_a_step_during_the_copy_is_noticed_and_the_slot_is_refused(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    training = make("background")
    training.train()
    has_begun, may_copy, real = threading.Event(), threading.Event(), np.copyto

    def late(target: np.ndarray, source: np.ndarray) -> None:
        has_begun.set()
        may_copy.wait(10)
        real(target, source)

    monkeypatch.setattr(np, "copyto", late)
    training.take()
    assert has_begun.wait(10)
    with torch.no_grad():  # what a careless user's hook might do
        next(iter(training.network.parameters())).mul_(2)
    may_copy.set()
    training.snapshots.wait()
    assert [slot.state for slot in training.arena.slots].count(SlotState.SEALED) == 0
    assert training.said == ["The snapshot of step 1 was refused: the state changed while it was copied."]
    training.take()
    training.snapshots.wait()
    assert training.arena.newest() is not None  # copied while training waits, from now on


@pytest.mark.parametrize("sick", [float("nan"), float("inf"), float("-inf")])
def test_weights_that_are_no_numbers_are_never_sealed(make: Make, sick: float) -> None:
    training = make()
    training.train()
    training.take()
    training.snapshots.wait()
    with torch.no_grad():
        training.network[1].weight[3, 5] = sick
    training.step += 1
    training.take(claimed=True)
    training.snapshots.wait()
    assert "1.weight in weights.safetensors is not finite after step 2" in str(training.snapshots.fault)
    newest = training.arena.newest()
    assert newest is not None
    assert newest.notes()["step"] == 1
    assert not training.keeper.is_waiting()


@pytest.mark.parametrize("slots", [2, 3])
def test_the_newest_whole_state_is_not_overwritten_while_there_is_another_slot(make: Make, slots: int) -> None:
    training = make(slots=slots)
    for expected in range(1, 8):
        training.train()
        before = training.arena.newest()
        slot = training.snapshots._slot()
        assert slot is not before
        training.take()
        training.snapshots.wait()
        newest = training.arena.newest()
        assert newest is not None
        assert newest.notes()["step"] == expected


def test_a_claimed_slot_is_never_taken(make: Make) -> None:
    training = make(slots=2)
    training.train()
    training.take(claimed=True)
    training.snapshots.wait()
    claimed = training.arena.slots[training.keeper.receive()["slot"]]
    assert training.snapshots.is_full
    for _ in range(5):
        training.train()
        training.take()
        training.snapshots.wait()
        assert claimed.notes()["step"] == 1
    claimed.set_state(SlotState.SEALED)
    assert not training.snapshots.is_full


def test_an_optimizer_within_the_backward_pass_is_copied_while_training_waits() -> None:
    network = torch.nn.Linear(3, 3)
    network.weight.register_post_accumulate_grad_hook(lambda parameter: None)
    from everstep.train.snapshots import _why_not_beside

    assert _why_not_beside(torch.optim.SGD(network.parameters())) == "the optimizer steps within the backward pass"
    captured = torch.optim.AdamW(torch.nn.Linear(3, 3).parameters(), capturable=True)
    assert "captured" in str(_why_not_beside(captured))


# --- how often, and in which way ---------------------------------------------------------------------------


def test_the_cheaper_way_is_kept_after_some_of_each() -> None:
    pace = Pace(Keeper(), ("blocking", "background"))
    for number in range(2 * TRIALS):
        cost = pace.begin()
        assert cost.mode == ("blocking" if number < TRIALS else "background")
        cost.stall_s = 0.5 if cost.mode == "blocking" else 0.1
        pace.ended()
    assert pace.mode == "background"


def test_the_interval_keeps_to_the_stated_overhead(monkeypatch: pytest.MonkeyPatch) -> None:
    pace, now = Pace(Keeper(overhead=0.01), ("blocking",)), 0.0
    monkeypatch.setattr("everstep.train.pace.time.perf_counter", lambda: now)
    for _ in range(40):
        pace.is_due(0)
        now += 0.1  # seconds a step
    cost = pace.begin()
    cost.stall_s = 0.02
    pace.ended()
    assert pace.interval == 20  # 0.02 s in 20 steps of 0.1 s is 1 %


def test_snapshots_can_be_off_or_every_so_many_steps() -> None:
    assert not Pace(Keeper(snapshots="off"), ("blocking",)).is_due(1000)
    every = Pace(Keeper(snapshots=7), ("blocking",))
    assert not every.is_due(6)
    assert every.is_due(7)
