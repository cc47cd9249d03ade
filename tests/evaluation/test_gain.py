"""Control gain: the arithmetic, and the measure on real networks."""

import numpy as np
import pytest

from everstep.evaluation.gain import BANDS, BLANK, SHUFFLED, TRUE, control_gain, design, num_examples


def errors(true, shuffled, blank=None):
    return {TRUE: true, SHUFFLED: shuffled, BLANK: shuffled if blank is None else blank}


@pytest.mark.parametrize("pairs", [1, 3, 16, 64])
@pytest.mark.parametrize("examples", [16, 64, 96])
def test_every_band_gets_as_many_examples_and_its_own_timesteps(pairs, examples):
    made = design(pairs, examples, 1000)
    counts = np.bincount(made.bands, minlength=BANDS)
    assert counts.sum() == examples
    assert set(counts) == {examples // BANDS}
    assert (made.timesteps * BANDS // 1000 == made.bands).all()
    assert made.places.max() == min(pairs, examples) - 1
    for band in range(BANDS):
        steps = np.sort(made.timesteps[made.bands == band])
        assert (np.diff(steps) > 0).all()


def test_a_pair_that_comes_again_comes_in_another_band():
    made = design(16, 64, 1000)
    for place in range(16):
        assert len(set(made.bands[made.places == place])) == BANDS


def test_the_gain_is_the_share_of_the_error_that_is_gone_whatever_its_scale_in_a_band():
    made = design(16, 64, 1000)
    shuffled = np.random.default_rng(0).uniform(0.5, 2, 64)
    scale = np.array([1e-4, 1.0, 30.0, 1e3])[made.bands]
    found = control_gain(errors(0.75 * shuffled * scale, shuffled * scale, 0.9 * shuffled * scale), made)
    assert found.value == pytest.approx(0.25)
    assert found.by_band == pytest.approx((0.25,) * BANDS)
    assert (found.low, found.high) == pytest.approx((0.25, 0.25))
    assert found.over_blank == pytest.approx(1 - 0.75 / 0.9)


def test_a_band_counts_as_much_as_every_other():
    made = design(16, 64, 1000)
    true = np.where(made.bands == 3, 0.0, 1.0)
    assert control_gain(errors(true, np.ones(64)), made).value == pytest.approx(1 / BANDS)


def test_the_interval_holds_what_chance_alone_does():
    """Conditions that tell nothing: in 95 of 100 measurements 0 lies inside, give or take."""
    made, inside = design(64, 96, 1000), 0
    for seed in range(100):
        random = np.random.default_rng(seed)
        hard = random.lognormal(0, 0.5, 96)
        true, shuffled = (hard * random.lognormal(0, 0.1, 96) for _ in range(2))
        found = control_gain(errors(true, shuffled), made)
        inside += found.low <= 0 <= found.high
    assert 85 <= inside <= 100


def test_it_rests_on_as_many_examples_as_may_be_afforded():
    assert num_examples(0.02, 300 * 16) == 80
    assert num_examples(0.02, 300 * 4) == 20
    assert num_examples(0.02, 10) == 16  # never on nothing
    assert num_examples(1.0, 10**6) == 256
