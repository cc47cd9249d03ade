"""Control gain and benefit: the arithmetic of paired errors."""

import numpy as np
import pytest

from everstep.evaluation.gain import (
    BANDS,
    BASE,
    LEAST_LOG_SNR,
    MOST_LOG_SNR,
    SEEN_BASE,
    SHUFFLED,
    design,
    gain_of,
    log_ratios,
    num_examples,
    paired_p,
)
from everstep.records.verdict import FEWEST_PAIRS, SEEN, SURE, TRUE


def log_snr(begin=0.00085, end=0.012):
    """Of Stable Diffusion's schedule."""
    alphas = np.cumprod(1 - np.linspace(begin**0.5, end**0.5, 1000) ** 2)
    return np.log(alphas) - np.log1p(-alphas)


def made(pairs=64, examples=64):
    return design(pairs, examples, log_snr())


def gain(true, shuffled, base=None, near=None, examples=None):
    base = shuffled if base is None else base
    errors = {TRUE: true, SHUFFLED: shuffled, BASE: base, SEEN: true, SEEN_BASE: base}
    return gain_of(errors, near, examples or made(examples=len(true)), "")


@pytest.mark.parametrize("pairs", [1, 3, 16, 64])
@pytest.mark.parametrize("examples", [64, 96])
def test_every_band_gets_as_many_examples_at_its_own_noise(pairs, examples):
    found = design(pairs, examples, log_snr())
    assert set(np.bincount(found.bands, minlength=BANDS)) == {examples // BANDS}
    assert found.places.max() == min(pairs, examples) - 1
    edges = np.linspace(MOST_LOG_SNR, log_snr().min(), BANDS + 1)
    assert log_snr().min() > LEAST_LOG_SNR
    for band in range(BANDS):
        noise = log_snr()[found.timesteps[found.bands == band]]
        assert (np.diff(noise) < 0).all()
        assert edges[band] + 0.05 > noise.max() > noise.min() > edges[band + 1] - 0.05


def test_a_pair_that_comes_again_comes_in_another_band():
    found = made(16, 64)
    for place in range(16):
        assert len(set(found.bands[found.places == place])) == BANDS


def test_bands_are_of_noise_and_not_of_timesteps():
    """A schedule that ends in pure noise, and one that has hardly any, both give timesteps that exist."""
    terminal = np.append(log_snr(), -np.inf)
    little = np.linspace(9, 3, 10)
    assert terminal[design(8, 64, terminal).timesteps].min() >= LEAST_LOG_SNR
    assert set(design(8, 64, little).timesteps) <= set(range(10))


def test_the_gain_is_the_share_of_the_error_that_is_gone_whatever_its_scale():
    random = np.random.default_rng(0)
    shuffled = random.uniform(0.5, 2, 64) * np.array([1e-4, 1.0, 30.0, 1e3])[made().bands]
    found = gain(0.75 * shuffled, shuffled, base=0.6 * shuffled)
    assert found.value == pytest.approx(0.25)
    assert found.by_band == pytest.approx((0.25,) * BANDS)
    assert (found.low, found.high) == pytest.approx((0.25, 0.25))
    assert found.benefit == pytest.approx(1 - 0.75 / 0.6)
    assert found.benefit_by_band == pytest.approx((-0.25,) * BANDS)


def test_noise_velocity_and_picture_prediction_give_the_same_number():
    """At one timestep their errors differ by a factor: noise to picture by the SNR, picture to velocity by SNR + 1."""
    random, snr = np.random.default_rng(0), np.exp(log_snr()[made().timesteps])
    picture = random.lognormal(0, 1, (2, 64))
    found = [gain(*(errors * factor for errors in picture)) for factor in (1, snr, 1 + snr)]
    assert found[0].value == pytest.approx(found[1].value) == pytest.approx(found[2].value)
    assert found[0].p == found[1].p == found[2].p


def test_a_band_counts_as_much_as_every_other():
    true = np.where(made().bands == 3, 0.5, 1.0)
    assert gain(true, np.ones(64)).value == pytest.approx(1 - 0.5**0.25)


def test_the_interval_holds_what_chance_alone_does():
    """Conditions that tell nothing: in 95 of 100 measurements 0 lies inside, give or take, whatever a band is worth."""
    inside = 0
    levels = np.array([2.0, 0.5, -0.5, -2.0])[made().bands]  # by bands alike on both sides, but not by themselves
    for seed in range(200):
        random = np.random.default_rng(seed)
        true, base = (random.lognormal(0, 0.2, 64) for _ in range(2))
        found = gain(true, true, base=base * np.exp(levels))
        inside += found.benefit_low <= 0 <= found.benefit_high
        assert found.benefit_high - found.benefit_low < 0.3
    assert 182 <= inside <= 198


def test_one_measurement_in_a_thousand_or_fewer_is_clear_by_chance():
    """Conditions that tell nothing: p is as often below a share as that share, and no oftener."""
    found = []
    for seed in range(2000):
        random = np.random.default_rng(seed)
        found.append(paired_p(random.standard_t(3, 64), np.arange(64)))
    assert np.mean(np.array(found) < 0.05) == pytest.approx(0.05, abs=0.012)
    assert np.mean(np.array(found) < SURE) <= 0.003


def test_examples_of_one_pair_are_one_observation():
    """Eight looks at each of eight pairs: the pairs' own errors do not count eightfold."""
    clear = 0
    for seed in range(300):
        random = np.random.default_rng(seed)
        places = np.arange(64) % 8
        clear += paired_p(random.normal(0, 1, 8)[places] + random.normal(0, 0.1, 64), places) < 0.05
    assert clear / 300 == pytest.approx(0.05, abs=0.035)


def test_so_few_pairs_as_may_be_called_sure_can_be():
    assert paired_p(-np.ones(FEWEST_PAIRS), np.arange(FEWEST_PAIRS)) < SURE
    assert paired_p(-np.ones(FEWEST_PAIRS - 1), np.arange(FEWEST_PAIRS - 1)) > SURE


def test_a_help_that_is_only_near_the_lines_is_found_there():
    random = np.random.default_rng(0)
    whole, near = (random.lognormal(0, 0.3, (2, 64)) for _ in range(2))
    near[0] *= 0.7
    found = gain(*whole, near={TRUE: near[0], SHUFFLED: near[1]})
    assert found.p < SURE <= gain(*whole).p
    assert found.near == pytest.approx(0.3, abs=0.12)


def test_what_helps_in_some_pairs_alone_is_found():
    random = np.random.default_rng(0)
    shuffled = random.lognormal(0, 0.5, 64)
    helped = np.arange(64) % 10 < 3
    true = shuffled * random.lognormal(0, 0.05, 64) * np.where(helped, 0.6, 1)
    assert gain(true, shuffled).p < SURE


def test_no_difference_at_all_is_no_sign_of_anything():
    found = gain(np.ones(64), np.ones(64))
    assert (found.value, found.low, found.high, found.p, found.benefit) == (0, 0, 0, 1, 0)


def test_errors_that_are_no_numbers_are_no_measurement():
    with pytest.raises(ValueError, match="no numbers"):
        log_ratios(np.array([1.0, np.nan]), np.ones(2))
    assert (log_ratios(np.zeros(2), np.zeros(2)) == 0).all()


def test_it_rests_on_as_many_examples_as_may_be_afforded_and_on_enough():
    assert num_examples(0.02, 300 * 16) == 80
    assert num_examples(0.02, 300 * 4) == 64
    assert num_examples(0.02, 10) == 64
    assert num_examples(1.0, 10**6) == 256
