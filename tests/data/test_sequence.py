"""Which pairs come when: in buckets every batch is of one shape, and every pair has its turn in each epoch."""

from collections import Counter
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from everstep.data import order
from everstep.data.buckets import MOST_OBLONG, nearest, shapes_of
from everstep.data.sequence import BucketOrder, SquareOrder, Turn

SIDES = st.integers(1, 3000)
SIZES = st.lists(st.tuples(SIDES, SIDES), min_size=1, max_size=60)
SHAPES = shapes_of(512, 64)


@st.composite
def orders(draw: st.DrawFn) -> tuple[BucketOrder, tuple[int, ...], int]:
    """An order, the pairs that are trained on, and the batch size; some pairs are held out."""
    sizes, batch_size = draw(SIZES), draw(st.integers(1, 9))
    training = tuple(sorted(draw(st.sets(st.integers(0, len(sizes) - 1), min_size=1))))
    made = BucketOrder(training, np.array(sizes), SHAPES, draw(st.integers(0, 2**63 - 1)), batch_size)
    return made, training, batch_size


def epoch(made: BucketOrder, number: int, batch_size: int) -> list[list[Turn]]:
    first = number * made.epoch_examples
    return [made.batch(at) for at in range(first, first + made.epoch_examples, batch_size)]


# --- the plan of an epoch ----------------------------------------------------------------------------------


@given(orders(), st.integers(0, 1000))
def test_every_pair_has_its_turn_in_every_epoch_and_none_that_is_held_out(
    given_: tuple[BucketOrder, tuple[int, ...], int], number: int
) -> None:
    made, training, batch_size = given_
    assert {turn.pair for batch in epoch(made, number, batch_size) for turn in batch} == set(training)


@given(orders(), st.integers(0, 1000))
def test_every_batch_is_full_and_of_one_shape_the_nearest_of_all_that_are_in_it(
    given_: tuple[BucketOrder, tuple[int, ...], int], number: int
) -> None:
    made, _, batch_size = given_
    shape_of = dict(zip(made._training.tolist(), made._shape_of.tolist(), strict=True))
    for batch in epoch(made, number, batch_size):
        assert len(batch) == batch_size
        [size] = {turn.size for turn in batch}
        assert {SHAPES[shape_of[turn.pair]] for turn in batch} == {size}


@given(orders(), st.integers(0, 1000))
def test_none_comes_twice_in_a_batch_where_there_are_enough_and_thrice_in_an_epoch_never(
    given_: tuple[BucketOrder, tuple[int, ...], int], number: int
) -> None:
    made, _, batch_size = given_
    enough = {SHAPES[shape] for shape, count in enumerate(made.counts) if count >= batch_size}
    batches = epoch(made, number, batch_size)
    for batch in batches:
        if batch[0].size in enough:
            assert len({turn.pair for turn in batch}) == batch_size
    times = Counter(turn.pair for batch in batches for turn in batch if turn.size in enough)
    assert max(times.values(), default=1) <= 2


@given(orders(), st.lists(st.integers(0, 10**9), min_size=1, max_size=20))
def test_a_batch_follows_from_its_first_example_alone(
    given_: tuple[BucketOrder, tuple[int, ...], int], places: list[int]
) -> None:
    made, _, batch_size = given_
    firsts = [made.first(place) for place in places]
    straight = {first: made.batch(first) for first in sorted(firsts)}
    assert [made.batch(first) for first in firsts] == [straight[first] for first in firsts]
    assert all([turn.number for turn in made.batch(at)] == list(range(at, at + batch_size)) for at in firsts)


@given(orders(), st.integers(0, 2**50))
def test_a_run_goes_on_at_the_next_batch_wherever_another_batch_size_left_it(
    given_: tuple[BucketOrder, tuple[int, ...], int], images_seen: int
) -> None:
    made, _, batch_size = given_
    first = made.first(images_seen)
    assert images_seen <= first < images_seen + batch_size
    assert first % batch_size == 0
    assert made.first(first) == first
    assert made.first(images_seen + batch_size) == first + batch_size  # stopped there, or gone on without


def test_epochs_are_mixed_anew_and_by_seed_and_small_batches_come_between_others() -> None:
    sizes = np.array([(512, 512)] * 40 + [(768, 512)] * 40)
    one, other = (BucketOrder(range(80), sizes, SHAPES, seed, 4) for seed in (1, 2))
    plans = [epoch(one, 0, 4), epoch(one, 1, 4), epoch(other, 0, 4)]
    pairs = [[turn.pair for batch in plan for turn in batch] for plan in plans]
    assert pairs[0] != pairs[1] != pairs[2] != pairs[0]
    shapes = [batch[0].size for batch in plans[0]]
    assert sum(a != b for a, b in pairwise(shapes)) > 4


def test_the_plan_never_changes() -> None:
    """Pinned: a change here would break the exact resume of every run in buckets that exists."""
    sizes = np.array([(512, 512), (768, 512), (300, 400), (512, 500), (1920, 1080), (511, 512), (10, 900)])
    made = BucketOrder(range(7), sizes, SHAPES, 7, 2)
    assert [[turn.pair for turn in made.batch(first)] for first in range(0, 20, 2)] == PLAN
    assert made.batch(4)[0].size == SIZE


PLAN = [[1, 4], [2, 2], [0, 3], [3, 5], [6, 6], [5, 3], [3, 0], [2, 2], [6, 6], [1, 4]]
SIZE = (512, 512)


def test_a_lone_picture_of_its_shape_fills_a_batch_and_is_told_of() -> None:
    made = BucketOrder(range(9), np.array([(512, 512)] * 8 + [(900, 300)]), SHAPES, 0, 4)
    assert made.epoch_examples == 12
    assert sorted(tuple(turn.pair for turn in batch) for batch in epoch(made, 0, 4))[-1] == (8, 8, 8, 8)
    assert made.sentence() == (
        "Pictures are trained in 2 shapes from 512x512 to 832x256. 1 shape has fewer than a batch of 4 and repeats "
        "them to fill it: 832x256 (1)."
    )


def test_pictures_of_one_shape_are_each_seen_once_and_smaller_ones_are_told_of() -> None:
    made = BucketOrder(range(8), np.array([(400, 400)] * 8), SHAPES, 0, 4)
    assert Counter(turn.pair for batch in epoch(made, 3, 4) for turn in batch) == Counter(range(8))
    assert made.sentence() == (
        "Pictures are all trained in one shape, 512x512. 8 of them are smaller than their shape and are enlarged."
    )


def test_squares_are_what_they_were() -> None:
    made = SquareOrder((5, 6, 7), 3, 4)
    assert made.batch(made.first(2)) == [Turn(n, (5, 6, 7)[order.pair_of(3, n, 3)]) for n in range(2, 6)]
    assert (made.epoch_examples, made.sentence()) == (3, None)


# --- shapes ------------------------------------------------------------------------------------------------


@settings(max_examples=200)
@given(st.integers(1, 16).map(lambda n: 4 * n), st.integers(1, 40))
def test_shapes_are_of_the_bases_step_no_larger_than_the_square_and_mirrored(step: int, steps: int) -> None:
    resolution = step * steps
    shapes = shapes_of(resolution, step)
    assert (resolution, resolution) in shapes
    assert {(height, width) for width, height in shapes} == set(shapes)
    assert list(shapes) == sorted(shapes, key=lambda size: size[0] / size[1])
    for width, height in shapes:
        assert width % step == height % step == 0
        assert width * height <= resolution**2
        assert max(width, height) <= MOST_OBLONG * min(width, height)


def test_shapes_of_real_bases_are_near_the_square_in_area() -> None:
    assert SHAPES[0] == (256, 1024)
    assert {(448, 576), (576, 448), (640, 384), (768, 320)} <= set(SHAPES)
    assert {(832, 1216), (1152, 896), (1344, 768)} <= set(shapes_of(1024, 32))  # those that SDXL was trained in
    for resolution, step in ((512, 64), (768, 64), (1024, 32)):
        assert all(w * h > 0.8 * resolution**2 for w, h in shapes_of(resolution, step))


@given(SIZES)
def test_a_picture_gets_the_shape_whose_ratio_is_nearest(sizes: list[tuple[int, int]]) -> None:
    found = nearest(np.array(sizes), SHAPES)
    for (width, height), shape in zip(sizes, found, strict=True):
        distances = [abs(np.log(width / height) - np.log(w / h)) for w, h in SHAPES]
        assert distances[shape] <= min(distances) + 1e-12


@pytest.mark.parametrize(
    ("size", "shape"), [((512, 512), (512, 512)), ((1, 9999), (256, 1024)), ((640, 384), (640, 384))]
)
def test_what_has_a_shape_gets_it_and_what_is_too_oblong_the_most_oblong(
    size: tuple[int, int], shape: tuple[int, int]
) -> None:
    assert SHAPES[nearest(np.array([size]), SHAPES)[0]] == shape
