"""Claims on their way to the disk: in their order, each under its own name, again where the disk refused them."""

import threading
import time
from collections.abc import Callable, Iterator

import pytest
from drafts import WEIGHTS, draft
from memory_of import arena, copy

from everstep.errors import DamageFound, NotCommitted
from everstep.keeping import committer as committing
from everstep.keeping.arena import Arena, SlotState
from everstep.keeping.committer import Committer, Outcome
from everstep.keeping.ending import settle
from everstep.keeping.sealed import slot_notes
from everstep.versions import Run, fsops, verify

Make = Callable[..., "Claiming"]


class Claiming:
    """A committer, and a trainer's claims in its arena."""

    def __init__(self, run: Run, retire: Callable[[Run], str] = lambda run: "") -> None:
        self.run, self.news, self.said = run, threading.Event(), list[str]()
        self.arena: Arena = arena(run.path)
        self.committer = Committer(run, self.arena, self.news.set, retire, self.said.append)

    def claim(self, slot: int, generation: int, step: int, label: str | None = None, rots: bool = False) -> None:
        """Claimed, copied and sealed."""
        held, made = self.arena.slots[slot], draft(step)
        held.begin(generation)
        self.committer.claim(slot, generation, step)
        held.seal(slot_notes(made, copy(held, made), label), claimed=True)
        if rots:
            held.image(WEIGHTS)[-3] ^= 1
        self.committer.sealed(generation)

    def until(self, count: int) -> list[Outcome]:
        """So many outcomes, as the keeper hears of them."""
        heard: list[Outcome] = []
        until = time.monotonic() + 30
        while len(heard) < count:
            heard += self.committer.outcomes()
            assert time.monotonic() < until
            self.news.wait(0.01)
        return heard


@pytest.fixture
def make(run: Run) -> Iterator[Make]:
    made: list[Claiming] = []

    def call(**named: Callable[[Run], str]) -> Claiming:
        made.append(Claiming(run, **named))
        return made[-1]

    yield call
    for claiming in made:
        list(claiming.committer.finish())
        claiming.arena.close()


def test_claims_become_versions_in_their_order_and_their_slots_are_given_back(make: Make, run: Run) -> None:
    claiming = make()
    for slot, step in enumerate((30, 40, 50)):
        claiming.claim(slot, slot + 1, step, label=f"at {step}")
    outcomes = claiming.until(3)
    assert [(outcome.generation, outcome.error) for outcome in outcomes] == [(1, None), (2, None), (3, None)]
    versions = [outcome.version for outcome in outcomes if outcome.version is not None]
    assert [(version.step, run.annotation(version.number).labels) for version in versions] == [
        (30, ("at 30",)),
        (40, ("at 40",)),
        (50, ("at 50",)),
    ]
    assert [version.parent.version for version in versions[1:] if version.parent] == [3, 4]
    assert {slot.state for slot in claiming.arena.slots} == {SlotState.SEALED}
    assert claiming.committer.is_idle


@pytest.mark.fault("state that rots in memory before it is written")
def test_a_refused_claim_is_told_by_its_own_name_and_the_next_keeps_its_label(make: Make, run: Run) -> None:
    claiming = make()
    claiming.claim(0, 1, 30, label="rotten", rots=True)
    claiming.claim(1, 2, 40, label="good")
    refused, made = claiming.until(2)
    assert (refused.generation, refused.is_tried_again) == (1, False)
    assert isinstance(refused.error, DamageFound)
    assert (made.generation, made.version and made.version.step) == (2, 40)
    assert run.annotation(run.find("latest").number).labels == ("good",)
    assert run.find("latest").number == 3
    assert [slot.state for slot in claiming.arena.slots[:2]] == [SlotState.FREE, SlotState.SEALED]


def test_what_the_disk_refuses_is_tried_again_and_waits_for_nobody_elses_turn(
    make: Make, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(committing, "RETRY_S", 0.01)
    claiming = make()
    with monkeypatch.context() as patched:
        patched.setattr(fsops, "free_bytes", lambda path: 100)
        claiming.claim(0, 1, 30)
        claiming.claim(1, 2, 40)
        outcomes = claiming.until(3)
        assert {(outcome.generation, type(outcome.error).__mro__[1]) for outcome in outcomes} == {(1, NotCommitted)}
        assert all(outcome.is_tried_again for outcome in outcomes)
        since = claiming.committer.refused_since
        assert since is not None
        assert since <= time.monotonic()
    made = [outcome for outcome in claiming.until(2) if outcome.version is not None]
    while len(made) < 2:
        made += [outcome for outcome in claiming.until(1) if outcome.version is not None]
    assert [outcome.generation for outcome in made] == [1, 2]
    assert claiming.committer.refused_since is None


def test_a_fault_of_ours_while_committing_is_shown_and_tried_again(
    make: Make, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(committing, "RETRY_S", 0.01)
    claiming = make()

    def broken(*arguments: object) -> object:
        raise RuntimeError("in the thread")

    with monkeypatch.context() as patched:
        patched.setattr(committing, "commit_slot", broken)
        claiming.claim(0, 1, 30)
        (outcome,) = claiming.until(1)
    assert outcome.is_tried_again
    assert "this is a bug" in str(outcome.error)
    assert "RuntimeError: in the thread" in claiming.said[0]
    while not (heard := [one for one in claiming.until(1) if one.version is not None]):
        continue
    assert verify(run.find("latest")) == []
    assert heard[0].generation == 1


def test_a_claim_that_comes_to_nothing_is_refused_with_the_reason(make: Make, run: Run) -> None:
    claiming = make()
    claiming.arena.slots[0].begin(1)
    claiming.committer.claim(0, 1, 30)
    claiming.committer.void(1, "the state is not whole")
    (outcome,) = claiming.until(1)
    assert (outcome.generation, str(outcome.error)) == (1, "the state is not whole")
    assert len(run.versions()) == 3


def test_after_the_trainers_end_what_it_sealed_is_committed_and_what_it_did_not_is_not(make: Make, run: Run) -> None:
    claiming = make()
    held, made = claiming.arena.slots[0], draft(30)
    held.begin(1)
    claiming.committer.claim(0, 1, 30)
    held.seal(slot_notes(made, copy(held, made)), claimed=True)  # and died before it could say so
    (outcome,) = claiming.committer.finish()
    assert outcome.version is not None
    half = make()
    half.arena.slots[0].begin(1)
    half.committer.claim(0, 1, 40)
    (refused,) = half.committer.finish()
    assert "was not whole when the trainer ended" in str(refused.error)
    assert [version.step for version in run.versions()] == [0, 10, 20, 30]


def test_claims_that_were_waiting_when_it_ended_are_still_there_to_be_settled(make: Make, run: Run) -> None:
    claiming, held = make(), threading.Event()
    real = committing.commit_slot

    def late(*arguments: object) -> object:
        held.wait(20)
        return real(*arguments)  # type: ignore[arg-type]

    committing.commit_slot = late  # type: ignore[assignment]
    try:
        claiming.claim(0, 1, 30)
        claiming.claim(1, 2, 40)
        threading.Timer(0.05, held.set).start()
        outcomes = list(claiming.committer.finish())
    finally:
        committing.commit_slot = real
    assert [outcome.generation for outcome in outcomes] == [1]
    settled = settle(run, claiming.arena, claiming.said.append)
    assert settled.version is not None
    assert settled.version.step == 40


def test_letting_older_versions_go_that_fails_costs_nothing_and_is_said(make: Make, run: Run) -> None:
    def fails(run: Run) -> str:
        raise OSError(116, "Stale file handle")

    claiming = make(retire=fails)
    claiming.claim(0, 1, 30)
    claiming.until(1)
    until = time.monotonic() + 30
    while not (words := list(claiming.committer.retired())):
        assert time.monotonic() < until
    assert words == ["Older versions stay: [Errno 116] Stale file handle"]
