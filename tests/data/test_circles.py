"""The built-in pairs are what they say, and the measures measure."""

import numpy as np
import pytest

from everstep.data.layouts import circles


def test_a_pair_is_a_function_of_its_number() -> None:
    assert circles.circle(17) == circles.circle(17)
    assert len({circles.circle(k) for k in range(500)}) == 500


def test_targets_show_their_caption_and_fill_their_outline() -> None:
    for number in range(100):
        drawn = circles.circle(number)
        target = np.asarray(circles.target(drawn, 64))
        assert circles.shows_named_colours(target, drawn)
        assert circles.circle_iou(target, drawn) > 0.98
        assert drawn.caption == f"{drawn.colour} circle with {drawn.background} background"


def test_the_outline_lies_on_the_edge() -> None:
    drawn = circles.Circle("red", "blue", 0.5, 0.5, 0.25)
    line = np.asarray(circles.condition(drawn, 64))[32, :, 0]
    assert line[[15, 16, 47, 48]].min() > 200
    assert line[[0, 8, 32, 40, 56, 63]].max() == 0


def test_the_measures_tell_wrong_pictures() -> None:
    drawn = circles.Circle("red", "blue", 0.3, 0.3, 0.2)
    elsewhere = circles.Circle("red", "blue", 0.75, 0.75, 0.2)
    swapped = circles.Circle("blue", "red", 0.3, 0.3, 0.2)
    assert circles.circle_iou(np.asarray(circles.target(elsewhere, 64)), drawn) == 0
    assert not circles.shows_named_colours(np.asarray(circles.target(swapped, 64)), drawn)
    plain = np.full((64, 64, 3), circles.PALETTE["blue"], dtype=np.uint8)
    assert circles.circle_iou(plain, drawn) == 0
    assert not circles.shows_named_colours(plain, drawn)


@pytest.mark.parametrize("name", circles.PALETTE)
def test_colours_can_be_told_apart(name: str) -> None:
    mine = np.array(circles.PALETTE[name])
    others = [np.linalg.norm(mine - rgb) for other, rgb in circles.PALETTE.items() if other != name]
    assert min(others) > 50


def test_the_base_is_measured_on_combinations_it_never_saw() -> None:
    held_out = circles.held_out_combinations()
    trained = circles.combinations()[circles.HELD_OUT_COUNT :]
    assert len(held_out) == 100
    assert not set(held_out) & set(trained)
    assert {colour for pair in trained for colour in pair} == set(circles.PALETTE)
