"""The formulas against the figures that their papers print, and against what they claim: that nothing is better."""

import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from everstep.keeping.intervals import (
    DAY_S,
    LONGEST_S,
    LONGEST_SNAPSHOT_S,
    SHORTEST_S,
    Cost,
    Economy,
    daly,
    snapshot_interval,
    useful_share,
    version_interval,
    young,
)

MINUTE_S, HOUR_S = 60.0, 3600.0


@pytest.mark.parametrize(("mtbf_s", "minutes"), [(24 * HOUR_S, 117), (6 * HOUR_S, 57), (15 * MINUTE_S, 9.1)])
def test_dalys_estimate_is_what_his_figures_say(mtbf_s: float, minutes: float) -> None:
    """Daly 2006, figures 3 to 5: a copy takes 5 minutes."""
    assert float(f"{daly(5 * MINUTE_S, mtbf_s) / MINUTE_S:.{0 if minutes > 10 else 1}f}") == minutes


def test_youngs_is_dalys_where_a_copy_is_short() -> None:
    assert young(2.0, 100.0) == 20.0
    assert daly(0.02, 30 * DAY_S) == pytest.approx(young(0.02, 30 * DAY_S), rel=0.001)
    assert daly(5.0, 2.0) == 2.0  # more copying than running: once in the time that there is


@given(st.floats(0.01, 300), st.floats(600, 1e7), st.floats(0, 600))
def test_no_interval_is_better_than_the_one_that_is_found(cost_s: float, mtbf_s: float, lost_s: float) -> None:
    """What remains is the third order: a copy that takes half of the time between failures is still within this."""
    best = useful_share(daly(cost_s, mtbf_s), cost_s, lost_s, mtbf_s)
    others = [useful_share(daly(cost_s, mtbf_s) * factor, cost_s, lost_s, mtbf_s) for factor in (0.5, 0.8, 1.25, 2)]
    assert best >= max(others)
    assert 0 < best < 1


def test_the_share_is_what_is_left_after_copies_and_failures() -> None:
    """While both are rare, each costs what one counts by hand: a copy an interval, half an interval and a start a
    failure.
    """
    share = useful_share(600, 1.0, 60, 30 * DAY_S)
    assert 1 - share == pytest.approx(1 / 601 + (300.5 + 60) / (30 * DAY_S), rel=0.01)
    assert useful_share(1e9, 1.0, 60, DAY_S) == 0.0  # nothing gets through


@pytest.mark.parametrize("interval_s", [20.0, 120.0, 900.0])
def test_the_share_is_what_comes_of_lives_whose_length_is_drawn(interval_s: float) -> None:
    cost_s, lost_s, mtbf_s, draws = 3.0, 40.0, 1000.0, random.Random(1)
    lives = [draws.expovariate(1 / mtbf_s) for _ in range(40_000)]
    kept_s = sum(max(0.0, life - lost_s) // (interval_s + cost_s) * interval_s for life in lives)
    assert useful_share(interval_s, cost_s, lost_s, mtbf_s) == pytest.approx(kept_s / sum(lives), rel=0.02)


@pytest.mark.parametrize(
    ("cost", "seconds", "why"),
    [
        (Cost(), SHORTEST_S, "10 s is the least"),
        (Cost(training_s=0.1), daly(0.1, 30 * DAY_S), "a version costs 0.1 s of training, and a failure"),
        (Cost(training_s=30.0), LONGEST_S, "an hour is what may be lost"),
        (Cost(training_s=0.1, commit_s=2000.0), 4000.0, "the disk takes 33 min for a version"),
        (Cost(0.1, 9.0, 4_340_000_000), 0.00868 * DAY_S, "a version is 4.3 GB, and a day may have 500.0 GB"),
        (Cost(0.1, 9.0, 50_000_000_000), 0.1 * DAY_S, "versions.bytes_a_day"),  # what is stated goes before the hour
    ],
)
def test_every_bound_holds_and_the_one_that_decides_is_named(cost: Cost, seconds: float, why: str) -> None:
    found = version_interval(Economy(), cost)
    assert found.seconds == pytest.approx(seconds)
    assert why in found.sentence


def test_many_machines_fail_oftener_and_so_do_trainers() -> None:
    one, many = Economy(), Economy(machines=128)
    cost = Cost(training_s=0.5)
    ratio = version_interval(one, cost).seconds / version_interval(many, cost).seconds
    assert ratio == pytest.approx(math.sqrt(128), rel=0.01)
    assert one.deaths_s == one.failures_s / 3


def test_snapshots_are_a_minute_apart_at_most() -> None:
    assert snapshot_interval(0.001, DAY_S) == pytest.approx(young(0.001, DAY_S), rel=0.01)
    assert snapshot_interval(0.5, 10 * DAY_S) == LONGEST_SNAPSHOT_S
