"""The saver between a live state and a keeper that this test plays: what it waits for, and what it does alone."""

import threading
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from test_snapshots import Held
from training import WEIGHTS, State, Training

from everstep.contracts import Reason
from everstep.keeping.arena import SlotState
from everstep.keeping.claims import Claim, Making
from everstep.keeping.due import AGAIN, Due
from everstep.keeping.link import KeeperGone
from everstep.keeping.saver import Saver
from everstep.keeping.sealed import Filling, commit_slot
from everstep.keeping.settings import Settings
from everstep.versions import Run, read_tensors, verify

Make = Callable[..., Training]


def saver_of(training: Training, run: Run, **terms: object) -> Saver:
    making = Making(run, {}, {}, Settings(), training.said.append, **terms)  # type: ignore[arg-type]
    last = run.find("latest")
    return Saver(making, training.state, last, run.ref(last), training.link, training.snapshots)


class Keeper(threading.Thread):
    """Commits what is claimed, as soon as it is sealed."""

    def __init__(self, training: Training, run: Run, claims: int) -> None:
        super().__init__()
        self.training, self.run_, self.claims = training, run, claims

    def run(self) -> None:
        slots: dict[int, int] = {}
        while self.claims:
            message = self.training.keeper.receive()
            if message["kind"] == "claim":
                slots[message["generation"]] = message["slot"]
            elif message["kind"] == "sealed":
                generation, arena = message["generation"], self.training.arena
                version = commit_slot(self.run_, arena, Filling.of_sealed(arena.slots[slots[generation]]))
                facts = {"generation": generation, "number": version.number, "manifest": version.manifest}
                self.training.keeper.send("committed", None, seconds=0.1, **facts)
                self.claims -= 1


@pytest.mark.fault("disk that was full some time before the last version, and is not any more")
def test_what_the_disk_said_before_does_not_end_a_training_that_it_has_room_for(make: Make, run: Run) -> None:
    training = make()
    saver = saver_of(training, run)
    earlier = {"generation": 99, "why": "version_3 is not committed.", "is_tried_again": True, "retry_s": 15}
    training.keeper.send("refused", None, **earlier)
    assert saver.hear() == []
    assert "training goes on" in training.said[-1]
    keeper = Keeper(training, run, claims=1)
    keeper.start()
    saver.save(Reason.SIGNAL)  # nobody is there to make room, and none need be made
    saver.finish()
    keeper.join()
    assert (run.find("latest").step, run.find("latest").reason) == (training.state.step, "signal")


@pytest.mark.fault("keeper that dies while memory of another shape is asked for")
def test_a_keeper_that_dies_while_the_state_takes_another_shape_costs_nothing(make: Make, run: Run) -> None:
    network = torch.nn.Linear(40, 3)
    training = make(state=State(network, torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9)))
    saver = saver_of(training, run)
    training.train()  # its moments are made now
    training.keeper.close()
    with pytest.raises(KeeperGone):
        saver.save(Reason.INTERVAL)
    saver.go_alone()
    version = run.find("latest")
    assert (version.step, version.reason) == (training.state.step, "rescue")
    assert verify(version) == []
    weight = read_tensors(version, WEIGHTS)["weight"]
    assert bytes(weight.buffer) == network.weight.detach().numpy().tobytes()


def test_the_last_version_says_so_whatever_else_was_due(make: Make, run: Run, tmp_path: Path) -> None:
    training = make()
    saver = saver_of(training, run, every_steps=1, max_steps=training.state.step)
    assert not saver.is_due(training.state.step)
    keeper = Keeper(training, run, claims=1)
    keeper.start()
    saver.save(Reason.ASKED, label="mine")
    keeper.join()
    assert run.find("latest").reason == "final"


@pytest.mark.fault("change of the state that is not told of, during the copy of a version")
def test_a_version_whose_copy_was_spoilt_is_made_at_the_next_step(
    make: Make, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    training, held = make("background"), Held(monkeypatch)
    saver = saver_of(training, run, every_steps=1000)
    training.state.step, saver.due.last_step = 1000, 0
    assert saver.is_due(training.state.step)
    saver.save(Reason.INTERVAL)
    assert held.has_begun.wait(10)
    with torch.no_grad():  # as a BatchNorm does in its forward pass
        training.state.average[next(iter(training.state.average))].add_(1)
    held.may_go_on.set()
    training.snapshots.wait()
    training.train()
    assert saver.hear() == []
    assert "was refused: the state is not whole" in training.said[-1]
    assert training.said[-1].endswith(" Another one takes its place.")
    assert saver.is_due(training.state.step)
    keeper = Keeper(training, run, claims=1)
    keeper.start()
    saver.save(Reason.INTERVAL)
    saver.finish()
    keeper.join()
    assert not saver.is_due(training.state.step)
    assert (run.find("latest").step, run.find("latest").reason) == (training.state.step, "interval")


@pytest.mark.fault("memory in which every copy rots")
def test_where_every_copy_is_spoilt_not_every_step_makes_one(make: Make, run: Run) -> None:
    training = make()
    saver = saver_of(training, run, every_steps=1000)
    training.state.step = saver.due.last_step = 999
    made = 0
    for _ in range(10):
        training.train()
        if saver.is_due(training.state.step):
            saver.save(Reason.INTERVAL)
            training.snapshots.wait()
            generation, made = training.snapshots.generation, made + 1
            for slot in training.arena.slots:  # the keeper gives it back
                slot.set_state(SlotState.FREE)
            training.keeper.send("refused", None, generation=generation, why="is torn.", is_tried_again=False)
        saver.hear()
    assert made == 1 + AGAIN


def test_an_older_version_that_is_spoilt_afterwards_takes_nothing_back(run: Run) -> None:
    due, making = Due(None), Making(run, {}, {}, Settings(), print, every_steps=1000)
    older, newer = (Claim(step, Reason.INTERVAL) for step in (1000, 2000))
    due.made(older.step)
    due.made(newer.step)
    assert due.spoilt(newer)
    assert not due.spoilt(older)
    assert due.is_due(2001, making, None)
