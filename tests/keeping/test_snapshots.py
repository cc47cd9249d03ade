"""The trainer's side of the arena: what is copied is the state at one step, or it is refused."""

import json
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from training import AVERAGED, MOMENTS, WEIGHTS, State, Training

from everstep.keeping.arena import SlotState
from everstep.keeping.copier import _why_not_beside
from everstep.keeping.pace import TRIALS, Pace
from everstep.keeping.sealed import Filling, commit_slot
from everstep.keeping.settings import Settings
from everstep.keeping.stateful import coming_bytes
from everstep.versions import Run, read_tensors

Make = Callable[..., Training]


def holds(run: Run, training: Training, generation: int) -> dict[str, dict[str, bytes]]:
    """What becomes of a claim on the disk."""
    training.snapshots.wait()
    slot = next(slot for slot in training.arena.slots if slot.generation == generation)
    assert slot.state is SlotState.CLAIMED
    version = commit_slot(run, training.arena, Filling.of_sealed(slot))
    slot.set_state(SlotState.SEALED)
    return {
        path: {name: bytes(loaded.buffer) for name, loaded in read_tensors(version, path).items()}
        for path in (WEIGHTS, MOMENTS, AVERAGED)
    }


@pytest.mark.parametrize("copying", ["blocking", "background"])
def test_what_is_committed_is_the_state_of_its_step_though_training_goes_on(
    make: Make, copying: str, tmp_path: Path
) -> None:
    training = make(copying)
    run = Run.create(tmp_path / "r", "a: 1\n")
    for _ in range(12):
        training.train()
        before = training.content()
        generation = training.take(claimed=True)
        training.train()  # waits for the copy before it changes anything
        assert holds(run, training, generation) == before
        assert [message["kind"] for message in training.heard()] == ["claim", "sealed"]


class Held:
    """np.copyto that begins when it is let: a copy beside training takes as long as one likes."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.has_begun, self.may_go_on, real = threading.Event(), threading.Event(), np.copyto

        def late(target: np.ndarray, source: np.ndarray) -> None:
            self.has_begun.set()
            self.may_go_on.wait(20)
            real(target, source)

        monkeypatch.setattr(np, "copyto", late)


@pytest.mark.fault("optimizer's step during a copy")
def test_the_optimizers_step_waits_for_the_copy_beside_it(
    make: Make, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    training, held = make("background"), Held(monkeypatch)
    run, before = Run.create(tmp_path / "r", "a: 1\n"), training.content()
    generation = training.take(claimed=True)
    assert held.has_begun.wait(10)
    threading.Timer(0.3, held.may_go_on.set).start()
    training.train()  # without the barrier its step would come before the copy
    assert training.content() != before
    assert holds(run, training, generation) == before


@pytest.mark.fault("change of the state during a copy, by {writer}")
@pytest.mark.parametrize("writer", ["optimizer", "average", "in place", "exchanged"])
def test_a_change_during_the_copy_is_noticed_whoever_makes_it(
    make: Make, monkeypatch: pytest.MonkeyPatch, writer: str
) -> None:
    training = make("background")
    held, state = Held(monkeypatch), training.state
    generation = training.take(claimed=True)
    assert held.has_begun.wait(10)
    state.revision.before_change = None  # as if nothing waited
    if writer == "optimizer":
        training.train_once(state)  # fused: PyTorch's counters see of it no more than the moments' steps
    elif writer == "average":
        with state.revision.changing():
            state.average["0.weight"].data.lerp_(torch.zeros(()), 0.5)
    else:
        with torch.no_grad():  # what a careless user's hook might do, telling nobody
            next(iter(state.network.parameters())).mul_(2)
    held.may_go_on.set()
    training.snapshots.wait()
    assert not [slot for slot in training.arena.slots if slot.is_whole]
    void = training.snapshots.voided.popleft()
    assert (void.generation, "changed meanwhile" in void.why) == (generation, True)
    assert [message["kind"] for message in training.heard()] == ["claim", "void"]
    state.revision.before_change = training.snapshots._sealing.copier._let_change
    training.take()
    training.snapshots.wait()
    assert training.arena.newest() is not None  # copied while training waits, from now on


@pytest.mark.fault("copy that begins within a change")
def test_a_copy_that_begins_within_a_change_is_refused(make: Make) -> None:
    training = make()
    with training.state.revision.changing():
        training.take(claimed=True)
        training.snapshots.wait()
    assert "being changed when the copy began" in training.snapshots.voided.popleft().why


@pytest.mark.fault("optimizer's step that fails in the middle")
def test_a_step_that_failed_in_the_middle_does_not_pass_for_a_whole_state(make: Make) -> None:
    training = make()
    optimizer, real = training.state.optimizer, training.state.optimizer.state

    class Broken(dict[str, object]):
        def __getitem__(self, key: object) -> object:
            raise RuntimeError("in the middle")

    training.state.network(torch.randn(8, 40)).sum().backward()
    optimizer.state = Broken()  # type: ignore[assignment]
    with pytest.raises(RuntimeError, match="in the middle"):
        optimizer.step()
    optimizer.state = real
    training.take(claimed=True)
    training.snapshots.wait()
    assert training.snapshots.voided
    training.train()  # the next whole step makes it good
    training.take(claimed=True)
    training.snapshots.wait()
    assert training.arena.newest() is not None


@pytest.mark.fault("seal that fails")
def test_a_seal_that_fails_is_said_and_shifts_nobody_elses_claim(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    training = make()
    with monkeypatch.context() as patched:
        patched.setattr("everstep.keeping.snapshots.slot_notes", lambda *_: {"too": "much" * 1_000_000})
        first = training.take(claimed=True)
        training.snapshots.wait()
    second = training.take(claimed=True)
    training.snapshots.wait()
    kinds = [(message["kind"], message["generation"]) for message in training.heard()]
    assert kinds == [("claim", first), ("void", first), ("claim", second), ("sealed", second)]
    assert "could not be sealed" in training.snapshots.voided.popleft().why


@pytest.mark.fault("state that is no numbers: {where}")
@pytest.mark.parametrize("sick", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("where", [WEIGHTS, MOMENTS, AVERAGED])
def test_a_state_that_is_no_numbers_is_never_sealed(make: Make, sick: float, where: str) -> None:
    training = make()
    training.take()
    training.snapshots.wait()
    before = training.state.step
    name, tensor = max(training.state.tensors()[where].items(), key=lambda item: item[1].numel())
    with torch.no_grad():
        tensor.view(-1)[35] = sick
    training.state.step += 1
    training.take(claimed=True)
    training.snapshots.wait()
    void = training.snapshots.voided.popleft()
    assert f"{name} in {where} is not finite after step {before + 1}" in str(void.fault)
    newest = training.arena.newest()
    assert newest is not None
    assert newest.notes()["step"] == before
    assert [message["kind"] for message in training.heard()] == ["claim", "void"]


@pytest.mark.parametrize("slots", [2, 3])
def test_the_newest_whole_state_is_not_overwritten_while_there_is_another_slot(make: Make, slots: int) -> None:
    training = make(slots=slots)
    for _ in range(7):
        training.train()
        before = training.arena.newest()
        slot = training.snapshots._free_slot()
        assert slot is not before
        training.take()
        training.snapshots.wait()
        newest = training.arena.newest()
        assert newest is not None
        assert newest.notes()["step"] == training.state.step


def test_a_claimed_slot_is_never_taken(make: Make) -> None:
    training = make(slots=2)
    generation = training.take(claimed=True)
    training.snapshots.wait()
    claimed = next(slot for slot in training.arena.slots if slot.generation == generation)
    step = training.state.step
    assert training.snapshots.is_full
    for _ in range(5):
        training.train()
        training.take()
        training.snapshots.wait()
        assert claimed.notes()["step"] == step
    claimed.set_state(SlotState.SEALED)
    assert not training.snapshots.is_full


# --- whatever is kept --------------------------------------------------------------------------------------

DTYPES = (
    *(torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.float8_e4m3fn, torch.float8_e5m2),
    *(
        torch.int64,
        torch.int32,
        torch.int16,
        torch.int8,
        torch.uint8,
        torch.uint16,
        torch.uint32,
        torch.uint64,
        torch.bool,
    ),
)


class Anything(State):
    """Tensors of every kind that safetensors has, odd ones among them."""

    def __init__(self) -> None:
        super().__init__(torch.nn.Linear(2, 2), torch.optim.SGD([torch.nn.Parameter(torch.ones(1))], lr=1))
        self.odd = {str(dtype): (torch.arange(77) % 2).to(dtype).reshape(7, 11) for dtype in DTYPES}
        self.odd |= {"none": torch.zeros(0, 3), "scalar": torch.tensor(3.0), "transposed": torch.rand(40, 30).t()}
        self.odd["nhwc"] = torch.rand(2, 3, 4, 5).to(memory_format=torch.channels_last)
        self.odd["half nhwc"] = torch.rand(2, 3, 4, 5).bfloat16().to(memory_format=torch.channels_last)

    def tensors(self) -> dict[str, dict[str, Tensor]]:
        return {WEIGHTS: self.odd, MOMENTS: {"a": torch.zeros(0)}, AVERAGED: self.average}


@pytest.mark.parametrize("copying", ["blocking", "background"])
def test_every_dtype_and_every_layout_in_memory_is_kept_bit_for_bit(make: Make, copying: str, tmp_path: Path) -> None:
    training = make(copying, state=Anything())
    run = Run.create(tmp_path / "r", "a: 1\n")
    assert holds(run, training, training.take(claimed=True)) == training.content()


@pytest.mark.parametrize(
    "dtype", [torch.float64, torch.float16, torch.bfloat16, torch.float8_e4m3fn, torch.float8_e5m2]
)
def test_numbers_of_every_kind_are_looked_at(make: Make, dtype: torch.dtype) -> None:
    state = Anything()
    training = make(state=state)
    state.odd[str(dtype)][3, 3] = float("nan")
    training.take(claimed=True)
    training.snapshots.wait()
    assert f"{dtype} in {WEIGHTS}" in str(training.snapshots.voided.popleft().fault)


def test_what_may_hold_anything_is_not_looked_at(make: Make) -> None:
    state = Anything()
    state.exempt = frozenset(["scalar"])
    state.odd["scalar"].fill_(float("-inf"))
    training = make(state=state)
    training.take()
    training.snapshots.wait()
    assert training.arena.newest() is not None


def test_tensors_that_are_bound_anew_are_taken_from_where_they_are_now(make: Make, tmp_path: Path) -> None:
    training = make("background")
    training.take()
    training.snapshots.wait()
    state = training.state
    for parameter in state.network.parameters():
        parameter.data = parameter.data.clone() + 1
    assert training.snapshots.fits()
    run = Run.create(tmp_path / "r", "a: 1\n")
    assert holds(run, training, training.take(claimed=True)) == training.content()


def test_a_state_that_grows_does_not_fit_any_more(make: Make) -> None:
    network = torch.nn.Linear(40, 3)
    state = State(network, torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9))  # its moments come later
    training = make(state=state)
    assert training.snapshots.fits()
    training.train()
    assert not training.snapshots.fits()


def test_an_optimizer_within_the_backward_pass_is_copied_while_training_waits() -> None:
    network = torch.nn.Linear(3, 3)
    network.weight.register_post_accumulate_grad_hook(lambda parameter: None)
    assert _why_not_beside(torch.optim.SGD(network.parameters())) == "the optimizer steps within the backward pass"
    captured = torch.optim.AdamW(torch.nn.Linear(3, 3).parameters(), capturable=True)
    assert "captured" in str(_why_not_beside(captured))


def test_notes_have_room_for_what_is_noted(make: Make) -> None:
    training = make()
    training.take()
    training.snapshots.wait()
    newest = training.arena.newest()
    assert newest is not None
    assert len(json.dumps(newest.notes())) < training.arena.plan.notes_bytes


# --- how often, and in which way ---------------------------------------------------------------------------


def test_the_cheaper_way_is_kept_after_some_of_each() -> None:
    pace = Pace(Settings(), ("blocking", "background"))
    for number in range(2 * TRIALS):
        cost = pace.begin()
        assert cost.mode == ("blocking" if number < TRIALS else "background")
        cost.stall_s = 0.5 if cost.mode == "blocking" else 0.1
        pace.ended()
    assert pace.mode == "background"


def test_the_interval_keeps_to_the_stated_overhead(monkeypatch: pytest.MonkeyPatch) -> None:
    pace, now = Pace(Settings(overhead=0.01), ("blocking",)), 0.0
    monkeypatch.setattr("everstep.keeping.pace.time.perf_counter", lambda: now)
    for _ in range(40):
        pace.is_due(0)
        now += 0.1  # seconds a step
    cost = pace.begin()
    cost.stall_s = 0.02
    pace.ended()
    assert pace.interval == 20  # 0.02 s in 20 steps of 0.1 s is 1 %
    pace._settings = Settings(overhead=0.01, deaths_s=2500.0)  # sqrt(2 * 0.02 s * 2,500 s) is 10 s
    assert pace.interval == 100
    pace._settings = Settings(overhead=0.001, deaths_s=2500.0)
    assert pace.interval == 200  # what it may cost is stated, and goes before what is cheapest


def test_snapshots_can_be_off_or_every_so_many_steps() -> None:
    assert not Pace(Settings(snapshots="off"), ("blocking",)).is_due(1000)
    every = Pace(Settings(snapshots=7), ("blocking",))
    assert not every.is_due(6)
    assert every.is_due(7)


def test_gradients_that_are_not_there_yet_are_counted_once() -> None:
    network = torch.nn.Sequential(torch.nn.Linear(40, 300), torch.nn.Linear(300, 7))
    state = State(network, torch.optim.AdamW(network.parameters(), fused=True))
    assert coming_bytes(state) == 4 * (40 * 300 + 300 + 300 * 7 + 7)
    network[0](torch.randn(8, 40)).sum().backward()
    assert coming_bytes(state) == 4 * (300 * 7 + 7)
