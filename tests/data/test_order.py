"""Everything random about an example is a function of (seed, number)."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from everstep.data import order

SEEDS = st.integers(0, 2**63 - 1)
NUMBERS = st.integers(0, 2**40)


def test_the_values_never_change() -> None:
    """Pinned: a change here would break the exact resume of every run that exists."""
    assert [order.pair_of(7, i, 10) for i in range(20)] == PAIRS
    assert [order.timestep(7, i, 1000) for i in range(5)] == TIMESTEPS
    assert [order.timestep(7, i, 1000, 1.0) for i in range(5)] == TIMESTEPS
    assert [order.timestep(7, i, 1000, 5.0) for i in range(5)] == SHIFTED_TIMESTEPS
    assert order.noise(7, 3, (2,)).tolist() == NOISE
    assert [order.is_dropped(7, i, 0.5) for i in range(8)] == DROPPED


PAIRS = [6, 3, 9, 1, 2, 0, 5, 7, 8, 4, 5, 8, 3, 9, 0, 2, 7, 1, 4, 6]
TIMESTEPS = [524, 280, 703, 586, 508]
SHIFTED_TIMESTEPS = [823, 772, 966, 40, 830]
NOISE = [-0.1954512894153595, 0.3342186510562897]
DROPPED = [False, False, True, False, False, True, True, False]


@given(SEEDS, st.integers(1, 200), st.integers(0, 1000))
def test_an_epoch_has_every_pair_exactly_once(seed: int, num_pairs: int, epoch: int) -> None:
    first = epoch * num_pairs
    drawn = [order.pair_of(seed, first + i, num_pairs) for i in range(num_pairs)]
    assert sorted(drawn) == list(range(num_pairs))


@given(SEEDS, NUMBERS)
def test_an_example_does_not_depend_on_those_before_it(seed: int, number: int) -> None:
    again = order.noise(seed, number, (4, 2, 2))
    order.noise(seed, number + 1, (4, 2, 2))
    np.testing.assert_array_equal(order.noise(seed, number, (4, 2, 2)), again)


@given(SEEDS, NUMBERS)
def test_streams_and_neighbours_differ(seed: int, number: int) -> None:
    drawn = [order.generator(seed, n, name).random() for n in (number, number + 1) for name in order.STREAMS]
    assert len(set(drawn)) == len(drawn)


def test_noise_is_standard_normal_and_timesteps_are_uniform() -> None:
    noise = np.stack([order.noise(1, i, (64,)) for i in range(500)])
    assert noise.dtype == np.float32
    assert abs(noise.mean()) < 0.02
    assert abs(noise.std() - 1) < 0.02
    counts = np.bincount([order.timestep(1, i, 10) for i in range(5000)], minlength=10)
    assert counts.min() > 400


@pytest.mark.parametrize("shift", [0.5, 3.0, 5.0])
def test_shifted_timesteps_follow_their_density(shift: float) -> None:
    """Shifted back, they are uniform again; so the middle one is where the shift says."""
    drawn = np.array([order.timestep(1, i, 10**9, shift) for i in range(5000)]) / 10**9
    assert abs(np.median(drawn) - shift / (1 + shift)) < 0.02
    counts = np.bincount((drawn / (shift - (shift - 1) * drawn) * 10).astype(int), minlength=10)
    assert counts.min() > 400


@given(SEEDS, NUMBERS, st.sampled_from([1, 2, 1000]), st.floats(0.01, 100))
def test_timesteps_stay_within_the_schedule(seed: int, number: int, count: int, shift: float) -> None:
    assert 0 <= order.timestep(seed, number, count, shift) < count


def test_prompts_are_dropped_as_often_as_asked() -> None:
    assert 450 < sum(order.is_dropped(1, i, 0.5) for i in range(1000)) < 550
    assert not any(order.is_dropped(1, i, 0.0) for i in range(100))
    assert all(order.is_dropped(1, i, 1.0) for i in range(100))
