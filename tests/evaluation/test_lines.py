"""Where conditions have lines."""

import numpy as np

from everstep.evaluation.lines import near_either, near_lines


def page(px=512, colour=0):
    return np.full((px, px, 3), colour, np.uint8)


def test_cells_with_lines_and_those_near_them_are_found_on_any_page():
    for colour in (0, 255, 120):
        condition = page(colour=colour)
        condition[256:258, :, 0] = (colour + 128) % 256
        near = near_lines(condition, 64, 64)
        assert near.any(axis=1).nonzero()[0].tolist() == [30, 31, 32, 33, 34]  # 16 pixels up and down
        assert near[30:35].all()


def test_in_a_small_picture_it_is_the_cells_themselves():
    condition = page(64)
    condition[10, 20] = 255
    assert np.argwhere(near_lines(condition, 8, 8)).tolist() == [[1, 2]]


def test_a_photograph_has_lines_everywhere():
    assert near_lines(np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8), 8, 8).mean() == 1


def test_which_of_two_conditions_is_the_true_one_changes_nothing():
    one, other = page(64), page(64)
    one[10, 20], other[50, 60] = 255, 255
    assert (near_either(one, other, 8, 8) == near_either(other, one, 8, 8)).all()
    assert near_either(one, other, 8, 8).sum() == 2
    assert near_either(page(64), page(64), 8, 8).all()
