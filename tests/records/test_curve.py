"""The picture of a training shows the jump where there is one."""

import numpy as np
import pytest

from everstep.records.curve import BENEFIT, BENEFIT_BAND, GAIN, GAIN_BAND, HEIGHT, JUMP, LOSS, WIDTH, _ticks, draw_curve
from everstep.records.verdict import Gain, Point, verdict


def measured(gain, benefit=None):
    known = {} if benefit is None else {"benefit": benefit, "benefit_low": benefit - 0.1, "benefit_high": benefit + 0.1}
    return Gain(gain, gain - 0.02, gain + 0.02, (gain,) * 4, 64, 64, 0.0001 if gain > 0.02 else 0.5, **known)


def drawn(*gains, benefits=None, losses=None):
    found = map(measured, gains, benefits or [None] * len(gains))
    points = [Point(place, place * 300, gain) for place, gain in enumerate(found)]
    return np.asarray(draw_curve("a", points, losses or {}, verdict(points, 4)))


def amount(picture, colour):
    return (np.abs(picture.astype(int) - colour).sum(axis=-1) < 40).sum()


def test_gain_interval_jump_and_loss_are_there_and_only_where_there_is_something_to_show():
    whole = drawn(0.0, 0.0, 0.2, 0.3, losses={0: 0.2, 1: 0.2, 3: 0.2})
    assert all(amount(whole, colour) > 40 for colour in (GAIN, GAIN_BAND, JUMP, LOSS))
    flat = drawn(0.0, 0.0, 0.001)
    assert amount(flat, GAIN) > 40
    assert amount(flat, JUMP) == 0
    assert amount(drawn(0.0, 0.0, 0.001, losses={0: 0.2, 2: 0.2}), LOSS) > amount(flat, LOSS) + 500


def test_the_benefit_is_a_curve_of_its_own_and_what_ruins_the_base_does_not_flatten_the_rest():
    both = drawn(0.0, 0.0, 0.2, 0.3, benefits=(0.0, -0.3, 0.1, 0.2))
    assert all(amount(both, colour) > 40 for colour in (GAIN, GAIN_BAND, BENEFIT, BENEFIT_BAND))
    assert amount(drawn(0.0, 0.0, 0.2, 0.3), BENEFIT) == 0
    ruined, gains = drawn(0.0, 0.0, 0.2, 0.3, benefits=(0.0, -30, -20, -20)), drawn(0.0, 0.0, 0.2, 0.3)
    assert amount(ruined[80:], GAIN) > amount(gains[80:], GAIN) / 2


@pytest.mark.parametrize("gains", [(), (0.0,), (-0.3, -0.2), tuple(np.linspace(0, 0.9, 200))])
def test_any_line_can_be_drawn(gains):
    assert drawn(*gains).shape == (HEIGHT, WIDTH, 3)


@pytest.mark.parametrize(("low", "high"), [(0, 0.1), (-0.02, 0.6), (0, 5), (0, 1800), (0, 123_456)])
def test_ticks_are_round_and_neither_few_nor_many(low, high):
    ticks = _ticks(low, high)
    assert 2 <= len(ticks) <= 8
    assert all(low - 1e-9 <= tick <= high + 1e-9 for tick in ticks)
