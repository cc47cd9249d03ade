"""The policy played forward: what is told beforehand is what a run that is really pruned comes to."""

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from everstep.versions.forecast import PLAYED, Coming, Footprint, forecast, versions_to_come
from everstep.versions.retention import Fate, Held, Policy, plan_prune

WEIGHTS, OPTIMIZER = 100, 200
FOOTPRINT = Footprint({"controlnet/w": WEIGHTS, "training/o": OPTIMIZER})
WHOLE = WEIGHTS + OPTIMIZER


def coming(count: int | None, first: int = 0) -> Coming:
    return Coming(FOOTPRINT, count, first, first * 10, 10, 60.0)


def test_a_version_is_split_into_what_slim_leaves_and_the_rest() -> None:
    assert (FOOTPRINT.whole_bytes, FOOTPRINT.slim_bytes) == (WHOLE, WEIGHTS)


def test_the_default_policy_holds_three_whole_ones_one_that_comes_and_every_tenth_slim() -> None:
    found = forecast([], coming(101), Policy(), 0.0)
    assert found.peak_bytes == 3 * WHOLE + WHOLE + 10 * WEIGHTS
    assert found.next_two_bytes == 2 * WHOLE
    assert found.growth_bytes == pytest.approx(WEIGHTS / 10, rel=0.1)


def test_without_a_policy_everything_stays() -> None:
    found = forecast([], coming(50), None, 0.0)
    assert found.peak_bytes == 50 * WHOLE
    assert found.fills_at(10 * WHOLE) == 11
    assert found.fills_at(50 * WHOLE) is None


@pytest.mark.parametrize("count", [PLAYED - 1, PLAYED, PLAYED + 1, 10 * PLAYED])
def test_what_lies_beyond_the_versions_that_are_played_is_close(count: int) -> None:
    found = forecast([], coming(count), Policy(), 0.0)
    exact = 4 * WHOLE + WEIGHTS * ((count + 5) // 10)
    assert found.peak_bytes == pytest.approx(exact, rel=0.02)
    room = exact // 2
    at = found.fills_at(room)
    assert at is not None
    assert 4 * WHOLE + WEIGHTS * at / 10 == pytest.approx(room, rel=0.05)


def test_a_budget_never_fills_the_disk() -> None:
    found = forecast([], coming(None), Policy(budget_bytes=5 * WHOLE), 0.0)
    assert found.peak_bytes <= 6 * WHOLE
    assert found.growth_bytes == 0
    assert found.fills_at(6 * WHOLE) is None
    assert forecast([], coming(None), Policy(), 0.0).fills_at(6 * WHOLE) is not None


def test_what_is_there_counts_and_may_make_room() -> None:
    there = [Held(number, number * 10, 0.0, WHOLE, WEIGHTS, True) for number in range(9)]
    found = forecast(there, coming(5, first=9), Policy(every_versions=None), 0.0)
    assert found.now_bytes == 9 * WHOLE
    assert found.next_two_bytes == WHOLE  # once the first is there, the older ones go
    assert found.peaks_bytes[1] == 4 * WHOLE


def test_nothing_to_come_needs_nothing() -> None:
    found = forecast([], coming(0), Policy(), 0.0)
    assert (found.next_two_bytes, found.peak_bytes, found.fills_at(0)) == (0, 0, None)


POLICIES = st.builds(
    Policy,
    last=st.integers(0, 5),
    every_versions=st.none() | st.integers(1, 12),
    every_steps=st.none() | st.integers(1, 200),
    hourly=st.integers(0, 3),
    within_s=st.none() | st.floats(1, 3000),
    budget_bytes=st.none() | st.integers(WHOLE, 20 * WHOLE),
)


@settings(max_examples=60, deadline=None)
@given(POLICIES, st.integers(1, 60))
def test_it_is_what_pruning_after_each_version_comes_to(policy: Policy, count: int) -> None:
    held: list[Held] = []
    peak = 0
    for number in range(count):
        held.append(Held(number, number * 10, number * 60.0, WHOLE, WEIGHTS, True))
        peak = max(peak, sum(version.size_bytes for version in held))
        decided = {decision.held.number: decision.fate for decision in plan_prune(held, policy, number * 60.0)}
        held = [version for version in held if decided[version.number] is not Fate.DROP]
        held = [
            replace(version, size_bytes=WEIGHTS, is_resumable=False)
            if decided[version.number] is Fate.SLIM
            else version
            for version in held
        ]
    assert forecast([], coming(count), policy, 0.0).peak_bytes == peak


@pytest.mark.parametrize(
    ("step", "max_steps", "every", "count"),
    [(0, 10, 5, 2), (0, 11, 5, 3), (5, 10, 5, 1), (6, 10, 5, 1), (10, 10, 5, 0), (11, 11, 5, 0), (10, 11, 5, 1)],
)
def test_versions_to_come_are_those_at_multiples_and_the_last(
    step: int, max_steps: int, every: int, count: int
) -> None:
    assert versions_to_come(step, max_steps, every) == count
