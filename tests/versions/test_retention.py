"""What stays: readable examples of each policy, and the laws that hold for every history under every policy."""

import math
from dataclasses import replace

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from everstep.versions.retention import Decision, Fate, Held, Policy, plan_prune

NOTHING = Policy(last=0, best=0, every_versions=None)
HOUR, DAY, WEEK = 3600.0, 86_400.0, 7 * 86_400.0
MONDAY = 1_767_571_200.0  # 2026-01-05 00:00 UTC
NOW = MONDAY + 4 * WEEK


def held(number: int, **facts: object) -> Held:
    """A whole version of 30 bytes, of which 10 are left when it is slim; one is made every half hour."""
    known = {"step": 300 * number, "created_s": MONDAY + number * HOUR / 2, "size_bytes": 30, "slim_bytes": 10}
    return Held(**{"number": number, "is_resumable": True, **known, **facts})  # type: ignore[arg-type]


def slim(number: int, **facts: object) -> Held:
    return held(number, **{"size_bytes": 10, "is_resumable": False, **facts})


def fates(decided: list[Decision]) -> str:
    """k, s or d for each version."""
    return "".join(decision.fate.value[0] for decision in decided)


# --- each policy by an example -----------------------------------------------------------------------------

EXAMPLES = {
    "nothing but the newest": (NOTHING, range(6), "dddddk"),
    "the last 3": (replace(NOTHING, last=3), range(6), "dddkkk"),
    "1 in 4": (replace(NOTHING, every_versions=4), range(9), "sdddsdddk"),
    "1 in 4, of those that are left": (replace(NOTHING, every_versions=4), (1, 2, 3, 6, 7, 8), "sddsdk"),
    "every 1,000 steps": (replace(NOTHING, every_steps=1000), range(9), "sdddsddsk"),
    "every 2 hours": (replace(NOTHING, every_s=2 * HOUR), range(9), "sdddsdddk"),
    "2 hours that have any": (replace(NOTHING, hourly=2), range(6), "dddsdk"),
    "3 days": (replace(NOTHING, daily=3), (0, 1, 47, 48, 60, 96, 190), "ddddssk"),
    "2 weeks": (replace(NOTHING, weekly=2), (0, 335, 336, 400, 700), "dddsk"),
    "younger than a day": (replace(NOTHING, within_s=DAY), (0, 1343 - 49, 1343 - 48, 1340), "ddkk"),
    "all together": (Policy(), range(14), "sdddddddddskkk"),
    "everything": (replace(NOTHING, everything=True, budget_bytes=1), range(4), "kkkk"),
}


@pytest.mark.parametrize("name", EXAMPLES)
def test_each_policy_keeps_what_it_says(name: str) -> None:
    policy, numbers, expected = EXAMPLES[name]
    assert fates(plan_prune([held(number) for number in numbers], policy, MONDAY + 1343 * HOUR / 2)) == expected


BUDGETS = {
    200: "kkkkk",  # 5 of 30
    150: "kkkkk",
    149: "skkkk",  # the oldest is made slim first
    110: "sskkk",
    70: "ssssk",  # the newest stays whole
    69: "dsssk",  # then the oldest goes
    40: "dddsk",
    30: "ddddk",
    1: "ddddk",  # what must stay, stays
}


@pytest.mark.parametrize("budget", BUDGETS)
def test_under_a_budget_the_oldest_are_made_slim_then_dropped(budget: int) -> None:
    policy = replace(NOTHING, last=5, budget_bytes=budget)
    assert fates(plan_prune([held(number) for number in range(5)], policy, NOW)) == BUDGETS[budget]


def test_pins_labels_and_what_is_held_stay_as_they_are_under_any_budget() -> None:
    versions = [
        held(0, is_pinned=True),
        held(1, labels=("good hands", "for Ann")),
        held(2, holds=("being read by another process",)),
        held(3, is_damaged=True, is_resumable=False),
        slim(4, is_pinned=True),
        held(5),
        held(6),
    ]
    decided = plan_prune(versions, replace(NOTHING, last=2, budget_bytes=1), NOW)
    assert fates(decided) == "kkkkkdk"
    assert [decision.reasons for decision in decided] == [
        ("pinned",),
        ("labelled good hands, for Ann",),
        ("being read by another process",),
        ("damaged; it is left to be looked at",),
        ("pinned",),
        ("over the budget",),
        ("the newest that can be resumed", "one of the last 2", "the newest of all"),
    ]


def test_what_is_not_mirrored_stays_whole_and_goes_after_all_others_under_a_budget() -> None:
    versions = [held(0, is_awaited=True), held(1), held(2, is_awaited=True), held(3), held(4)]
    assert fates(plan_prune(versions, replace(NOTHING, last=2), NOW)) == "kdkkk"
    for budget, expected in (
        (150, "kdkkk"),
        (119, "kdksk"),
        (99, "sdksk"),
        (79, "sdssk"),
        (50, "sdsdk"),
        (30, "ddddk"),
    ):
        policy = replace(NOTHING, last=2, budget_bytes=budget)
        assert fates(plan_prune(versions, policy, NOW)) == expected, budget


def test_the_best_are_kept_slim_and_go_last() -> None:
    scores = {0: 0.1, 1: 0.9, 2: 0.9, 3: math.nan, 4: None, 5: 0.2}
    versions = [held(number, score=score) for number, score in scores.items()]
    assert fates(plan_prune(versions, replace(NOTHING, best=2), NOW)) == "dssddk"
    everything = replace(NOTHING, best=1, last=6, budget_bytes=55)
    assert fates(plan_prune(versions, everything, NOW)) == "ddsdsk"
    assert fates(plan_prune(versions, replace(everything, budget_bytes=40), NOW)) == "ddsddk"


def test_versions_at_the_jump_stay_as_they_are_and_a_budget_makes_them_slim_at_most() -> None:
    versions = [held(0), held(1, mark="just before the jump"), slim(2, mark="just after the jump"), held(3)]
    decided = plan_prune(versions, NOTHING, NOW)
    assert fates(decided) == "dkkk"
    assert decided[1].reasons == ("just before the jump",)
    assert fates(plan_prune(versions, replace(NOTHING, budget_bytes=1), NOW)) == "dskk"
    assert fates(plan_prune(versions, replace(NOTHING, jump=False), NOW)) == "dddk"
    assert fates(plan_prune(versions, replace(NOTHING, jump=False, last=4, budget_bytes=1), NOW)) == "dddk"


def test_a_damaged_version_counts_for_nothing() -> None:
    """Neither as one of the last nor as the first of ten; the newest that can be resumed is another one."""
    versions = [held(0, is_damaged=True), held(1), held(2), held(3), held(4, is_damaged=True)]
    assert fates(plan_prune(versions, Policy(last=1, best=0), NOW)) == "ksdkk"


def test_where_none_can_be_resumed_the_newest_stays() -> None:
    assert fates(plan_prune([slim(0), slim(1)], replace(NOTHING, budget_bytes=0), NOW)) == "dk"
    assert plan_prune([], Policy(), NOW) == []


def test_what_a_budget_made_slim_does_not_go_at_the_next_prune() -> None:
    policy = replace(NOTHING, last=3, budget_bytes=70)
    first = plan_prune([held(number) for number in range(3)], policy, NOW)
    assert fates(first) == "skk"
    assert fates(plan_prune(after(first), policy, NOW)) == "kkk"


def test_bytes_are_what_is_freed_and_what_is_left() -> None:
    decided = plan_prune([held(number) for number in range(12)], Policy(last=1), NOW)
    assert sum(decision.frees_bytes for decision in decided) == 20 + 9 * 30 + 20
    assert sum(decision.left_bytes for decision in decided) == 12 * 30 - 310


# --- laws --------------------------------------------------------------------------------------------------


def after(decided: list[Decision]) -> list[Held]:
    return [left for decision in decided if (left := decision.carried_out()) is not None]


@st.composite
def histories(draw: st.DrawFn) -> list[Held]:
    """Any versions that a store may hold: clocks jump, steps repeat, some are slim, some have no training files."""
    found = []
    for number in draw(st.lists(st.integers(0, 60), unique=True, max_size=25)):
        slim_bytes = draw(st.integers(1, 50))
        is_slim, training = draw(st.booleans()), draw(st.sampled_from([0, 1, 80]))
        is_damaged = draw(st.integers(0, 9)) == 0
        found.append(
            Held(
                number=number,
                step=draw(st.integers(0, 9000)),
                created_s=NOW - draw(st.floats(-DAY, 40 * DAY)),
                size_bytes=slim_bytes + (0 if is_slim else training),
                slim_bytes=slim_bytes,
                is_resumable=not is_slim and not is_damaged,
                is_pinned=draw(st.integers(0, 7)) == 0,
                labels=draw(st.sampled_from([(), (), (), (), ("a",), ("a", "b")])),
                score=draw(st.none() | st.floats(-1, 1) | st.just(math.nan)),
                mark=draw(st.sampled_from(["", "", "", "", "just before the jump"])),
                holds=draw(st.sampled_from([(), (), (), (), (), ("being read by another process",)])),
                is_awaited=draw(st.integers(0, 5)) == 0,
                is_damaged=is_damaged,
            )
        )
    return found


counts = st.integers(0, 5)
policies = st.builds(
    Policy,
    everything=st.sampled_from([False] * 9 + [True]),
    last=counts,
    best=counts,
    every_versions=st.none() | st.integers(1, 12),
    every_steps=st.none() | st.integers(1, 3000),
    every_s=st.none() | st.floats(60, 5 * DAY),
    hourly=counts,
    daily=counts,
    weekly=counts,
    within_s=st.none() | st.floats(0, 20 * DAY),
    budget_bytes=st.none() | st.integers(0, 1500),
    jump=st.booleans(),
)
LAWS = settings(max_examples=150, deadline=None)


def newest(versions: list[Held]) -> int | None:
    return max((h.number for h in versions if h.is_resumable and not h.is_damaged), default=None)


@LAWS
@given(histories(), policies)
def test_the_newest_resumable_version_stays_whole_and_the_newest_of_all_stays(
    versions: list[Held], policy: Policy
) -> None:
    left = after(plan_prune(versions, policy, NOW))
    assert newest(left) == newest(versions)
    assert max((h.number for h in left), default=None) == max((h.number for h in versions), default=None)


@LAWS
@given(histories(), policies)
def test_carrying_out_in_any_order_and_stopping_anywhere_keeps_one_to_resume_from(
    versions: list[Held], policy: Policy
) -> None:
    decided = plan_prune(versions, policy, NOW)
    todo = [decision for decision in decided if decision.fate is not Fate.KEEP]
    for stop in range(len(todo) + 1):
        undone = {decision.held.number for decision in todo[stop:]}
        left = [d.held if d.held.number in undone else d.carried_out() for d in decided]
        there = [h for h in left if h is not None]
        assert newest(there) == newest(versions)
        # Whoever goes on from there ends with a subset of what was to stay, and with all that must.
        end = {h.number for h in after(plan_prune(there, policy, NOW))}
        assert end >= {h.number for h in versions if h.is_pinned or h.labels or h.holds or h.is_damaged}


@LAWS
@given(histories(), policies)
def test_what_is_protected_is_left_exactly_as_it_is(versions: list[Held], policy: Policy) -> None:
    for decision in plan_prune(versions, policy, NOW):
        found = decision.held
        if found.is_pinned or found.labels or found.holds or found.is_damaged:
            assert decision.fate is Fate.KEEP
        if found.mark and policy.jump:
            assert decision.fate is not Fate.DROP
            assert decision.fate is Fate.KEEP or policy.budget_bytes is not None
        if policy.everything:
            assert decision.fate is Fate.KEEP


@LAWS
@given(histories(), policies)
def test_a_second_prune_does_nothing(versions: list[Held], policy: Policy) -> None:
    left = after(plan_prune(versions, policy, NOW))
    again = plan_prune(left, policy, NOW)
    assert {decision.fate for decision in again} <= {Fate.KEEP}


@LAWS
@given(histories(), policies)
def test_the_budget_is_kept_unless_what_must_stay_alone_exceeds_it(versions: list[Held], policy: Policy) -> None:
    assume(policy.budget_bytes is not None and not policy.everything)
    decided = plan_prune(versions, policy, NOW)
    total = sum(decision.left_bytes for decision in decided)
    if total <= policy.budget_bytes:
        return
    last = max(h.number for h in versions if not h.is_damaged) if any(not h.is_damaged for h in versions) else None
    for decision in decided:
        found = decision.held
        is_bound = (
            found.is_pinned or found.labels or found.holds or found.is_damaged or found.number == newest(versions)
        )
        is_least = (found.mark and policy.jump) or found.number == last
        assert decision.fate is Fate.DROP or is_bound or is_least
        assert is_bound or decision.left_bytes in (0, found.slim_bytes)


@LAWS
@given(histories(), policies, st.randoms())
def test_a_plan_is_complete_reasoned_and_a_function_of_its_input_alone(
    versions: list[Held], policy: Policy, order: object
) -> None:
    before = list(versions)
    decided = plan_prune(versions, policy, NOW)
    assert versions == before
    shuffled = list(versions)
    order.shuffle(shuffled)  # type: ignore[attr-defined]
    assert [d.held.number for d in decided] == sorted(h.number for h in versions)
    assert [(d.held.number, d.fate, d.reasons) for d in plan_prune(shuffled, policy, NOW)] == [
        (d.held.number, d.fate, d.reasons) for d in decided
    ]
    by_number = {h.number: h for h in versions}
    for decision in decided:
        assert decision.held is by_number[decision.held.number]
        assert decision.reasons
        assert all(decision.reasons)
        assert 0 <= decision.frees_bytes <= decision.held.size_bytes
        if decision.fate is Fate.SLIM:
            assert decision.frees_bytes > 0


@LAWS
@given(histories(), policies)
def test_a_longer_list_of_policies_never_removes_more(versions: list[Held], policy: Policy) -> None:
    assume(policy.budget_bytes is None)
    kept = {h.number: h.size_bytes for h in after(plan_prune(versions, policy, NOW))}
    more = replace(policy, last=policy.last + 2, best=policy.best + 1, daily=policy.daily + 3, within_s=30 * DAY)
    kept_then = {h.number: h.size_bytes for h in after(plan_prune(versions, more, NOW))}
    assert all(kept_then.get(number, 0) >= size for number, size in kept.items())


def test_a_score_with_a_minus_in_front_is_better_the_lower_it_is() -> None:
    assert Policy(score="-depth_rmse").rank({"depth_rmse": 0.2}) == -0.2
    assert Policy(score="depth_rmse").rank({"depth_rmse": 0.2}) == 0.2
    assert Policy(score="-depth_rmse").rank({}) is None
