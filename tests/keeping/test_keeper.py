"""A keeper by itself, without a trainer: what it answers, and what it does not lose, when its disk answers badly."""

import signal
from collections.abc import Iterator

import pytest
from drafts import draft
from memory_of import arena, fill, plan_for

from everstep.errors import ExitCode, UnreachableDisk
from everstep.keeping import memory
from everstep.keeping.arena import Arena
from everstep.keeping.channel import Channel
from everstep.keeping.ending import Settled
from everstep.keeping.keeper import Keeper
from everstep.keeping.origin import Keeping, Origin
from everstep.keeping.settings import Settings
from everstep.keeping.signals import PAUSE, SAVE, STOP
from everstep.versions import Run, fsops, verify


@pytest.fixture
def keeper(run: Run) -> Iterator[Keeper]:
    """Its signals are this process's, which gets its own back."""
    before = {number: signal.getsignal(number) for number in (*STOP, *SAVE, *PAUSE)}
    said: list[str] = []
    yield Keeper(Keeping(run, Settings(), said.append, lambda run, in_use: ""), Origin(None, None))
    signal.set_wakeup_fd(-1)
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture
def ends() -> Iterator[tuple[Channel, Channel]]:
    """The keeper's side, and the trainer's."""
    pair = Channel.pair()
    yield pair
    for end in pair:
        end.close()


def plan_of(held: Arena) -> dict[str, object]:
    files = [[file.path, file.size_bytes] for file in held.plan.files]
    return {"kind": "plan", "files": files, "notes_bytes": held.plan.notes_bytes}


@pytest.mark.fault("disk that answers badly while memory is asked for")
def test_a_trainer_that_asks_for_memory_is_answered_though_the_disk_is_away(
    keeper: Keeper, run: Run, ends: tuple[Channel, Channel], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It waits for the answer, and can write its versions without memory."""

    def away() -> int:
        raise UnreachableDisk("runs/r cannot be read: Stale file handle.")

    ours, theirs = ends
    monkeypatch.setattr(run, "next_number", away)
    keeper.give_arena(ours, plan_of(arena(run.path.parent)))
    assert theirs.is_waiting()
    answer = theirs.receive()
    assert "descriptor" not in answer
    assert "Stale file handle" in answer["where"]


@pytest.mark.fault("state without a name in memory, of another shape, that no disk takes")
def test_memory_of_a_shape_that_the_state_had_is_kept_until_a_disk_takes_it(
    keeper: Keeper, run: Run, ends: tuple[Channel, Channel], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory, "shelters", lambda: ())
    held = arena(run.path)  # nameless
    fill(held.slots[0], draft(50), 1)
    keeper._arena = held
    with monkeypatch.context() as patched:
        patched.setattr(fsops, "free_bytes", lambda path: 100)
        keeper._put_away(ends[0])
    assert run.find("latest").step == 20
    assert keeper.leave(ExitCode.DONE, Settled()) == ExitCode.DONE
    assert run.find("latest").step == 50
    assert verify(run.find("latest")) == []


def test_another_shape_gets_other_memory_and_the_same_one_the_same(
    keeper: Keeper, run: Run, ends: tuple[Channel, Channel], shared: object
) -> None:
    ours, theirs = ends
    for slots, where in ((3, "outlives this program"), (3, "the same memory as before")):
        plan = plan_for(run.path, slots)
        files = [[file.path, file.size_bytes] for file in plan.files]
        keeper.give_arena(ours, {"files": files, "notes_bytes": plan.notes_bytes})
        assert where in theirs.receive()["where"]
    keeper.give_arena(ours, {"files": files[:1], "notes_bytes": plan.notes_bytes})
    assert "outlives this program" in theirs.receive()["where"]
    keeper.leave(ExitCode.DONE, Settled())
