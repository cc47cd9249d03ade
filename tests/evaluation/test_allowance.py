"""The account of what measuring may take: seconds in, seconds out, on a clock of its own."""

import pytest

from everstep.evaluation.allowance import START_S, Allowance, Exceeded


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def test_training_fills_it_and_measuring_empties_it(clock: Clock) -> None:
    allowance = Allowance(0.02, clock)
    assert allowance.left_s == START_S
    clock.now += 1000
    assert allowance.left_s == pytest.approx(START_S + 20)
    with allowance.spending():
        clock.now += 12
        assert allowance.left_s == pytest.approx(START_S + 8)  # measuring is no training
    assert allowance.left_s == pytest.approx(START_S + 8)
    with allowance.apart(), allowance.spending():
        clock.now += 1
    with allowance.apart():
        clock.now += 10_000  # drawing pictures, say
    assert allowance.left_s == pytest.approx(START_S + 7)


def test_a_measurement_begins_once_all_that_it_needs_is_there(clock: Clock) -> None:
    allowance = Allowance(0.02, clock)
    assert allowance.is_enough
    with allowance.spending():
        clock.now += 4
        with pytest.raises(Exceeded):
            allowance.expect(400.0, 396.0)
    assert not allowance.is_enough
    assert allowance.trained_until_enough_s == pytest.approx((400 - START_S + 4) / 0.02)
    clock.now += allowance.trained_until_enough_s - 1
    assert not allowance.is_enough
    clock.now += 1.001
    assert allowance.is_enough
    with allowance.spending():
        for rest_s in range(399, -1, -1):
            clock.now += 1
            allowance.expect(400.0, rest_s)
    assert allowance.left_s == pytest.approx(0.0, abs=0.01)


def test_over_any_number_of_versions_no_more_than_the_share_is_spent(clock: Clock) -> None:
    """Versions every minute, each measured in 5 s: with 2 %, one in about four."""
    allowance, spent_s = Allowance(0.02, clock), 0.0
    for _ in range(600):
        clock.now += 60
        if allowance.is_enough:
            with allowance.spending():
                clock.now += 5
                allowance.expect(5.0, 0.0)
            spent_s += 5
    assert spent_s <= START_S + 0.02 * 600 * 60
    assert spent_s >= 0.02 * 600 * 60 - 5


def test_it_may_begin_with_nothing(clock: Clock) -> None:
    allowance = Allowance(0.05, clock, start_s=0.0)
    assert allowance.left_s == 0
    clock.now += 100
    assert allowance.left_s == pytest.approx(5)
