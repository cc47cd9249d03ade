"""The picture of a training shows the jump where there is one."""

import numpy as np
import pytest

from everstep.records.curve import BAND, GAIN, JUMP, LOSS, _ticks, draw_curve
from everstep.records.verdict import Point, verdict


def drawn(*gains, losses=None):
    points = [Point(place, place * 300, gain, gain - 0.02, gain + 0.02) for place, gain in enumerate(gains)]
    return np.asarray(draw_curve("a", points, losses or {}, verdict(points, 4)))


def amount(picture, colour):
    return (np.abs(picture.astype(int) - colour).sum(axis=-1) < 40).sum()


def test_gain_interval_jump_and_loss_are_there_and_only_where_there_is_something_to_show():
    whole = drawn(0.0, 0.0, 0.2, 0.3, losses={0: 0.2, 1: 0.2, 3: 0.2})
    assert all(amount(whole, colour) > 40 for colour in (GAIN, BAND, JUMP, LOSS))
    flat = drawn(0.0, 0.0, 0.001)
    assert amount(flat, GAIN) > 40
    assert amount(flat, JUMP) == 0
    assert amount(drawn(0.0, 0.0, 0.001, losses={0: 0.2, 2: 0.2}), LOSS) > amount(flat, LOSS) + 500


@pytest.mark.parametrize("gains", [(), (0.0,), (-0.3, -0.2), tuple(np.linspace(0, 0.9, 200))])
def test_any_line_can_be_drawn(gains):
    assert drawn(*gains).shape == (420, 860, 3)


@pytest.mark.parametrize(("low", "high"), [(0, 0.1), (-0.02, 0.6), (0, 5), (0, 1800), (0, 123_456)])
def test_ticks_are_round_and_neither_few_nor_many(low, high):
    ticks = _ticks(low, high)
    assert 2 <= len(ticks) <= 8
    assert all(low - 1e-9 <= tick <= high + 1e-9 for tick in ticks)
