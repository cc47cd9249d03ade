"""The arithmetic of control gain and benefit: which examples are denoised, and what their errors say. No torch.

Legend: N examples, P pairs, T training timesteps; a band is a part of the log-SNRs, band 0 the least noisy.
The derivation is in docs/metrics.md.
"""

import itertools
import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache

import numpy as np
import numpy.typing as npt

from everstep.records.verdict import SEEN, TRUE, Gain

BANDS = 4
# Above, noise is under 2 % of the variance, and hides nothing; below, the picture is under 0.3 % of it.
LEAST_LOG_SNR, MOST_LOG_SNR = -6.0, 4.0
RESAMPLES, FLIPS, MOST_PAIRS_FLIPPED_IN_ALL_WAYS = 1000, 9999, 13
SEED = 0x9A1
SHUFFLED, BASE, SEEN_BASE = "shuffled", "base", "seen_base"
CONDITIONS = (TRUE, SHUFFLED, SEEN)  # a forward pass of the network for each, of each example
FORWARDS_PER_TRAINED_IMAGE = 2.5  # forward and backward of one trained image cost at least so many forwards
FEWEST_EXAMPLES, MOST_EXAMPLES = 16 * BANDS, 64 * BANDS
Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Design:
    """The fixed examples. Shapes: all [N] int64; places index the held-out pairs, rounds count how often each came.

    steps: into so many is time divided, of which `timesteps` are some.
    """

    places: Ints
    rounds: Ints
    bands: Ints
    timesteps: Ints
    steps: int

    @property
    def times(self) -> Floats:
        """From picture, 0, to noise, 1, [N]."""
        found: Floats = (self.timesteps + 0.5) / self.steps
        return found

    def told(self) -> dict[str, list[int]]:
        """All that is fixed, for a digest."""
        arrays = {"places": self.places, "rounds": self.rounds, "bands": self.bands, "timesteps": self.timesteps}
        return {name: values.tolist() for name, values in arrays.items()}


@dataclass(frozen=True, slots=True)
class Paired:
    """Errors under one thing against those under another, example by example.

    less: how much smaller they are, 1 - the geometric mean of the ratios; low, high: 95 % over pairs.
    p: of "they are no smaller", one-sided.
    """

    less: float
    low: float
    high: float
    p: float


def num_examples(overhead: float, images_per_version: int) -> int:
    """As many as cost this share of the training between two versions, but enough to tell; then fewer versions are
    measured.
    """
    affordable = overhead * images_per_version * FORWARDS_PER_TRAINED_IMAGE / len(CONDITIONS)
    return int(min(MOST_EXAMPLES, max(FEWEST_EXAMPLES, affordable // BANDS * BANDS)))


def design(num_pairs: int, examples: int, log_snr_T: Floats) -> Design:
    """Bands in turn, pairs in turn, each pair in all bands; in a band, log-SNRs evenly spread. No chance in it.

    Bands are equally wide in log-SNR, which means the same for every schedule and prediction; in timesteps they do not.
    """
    number = np.arange(examples)
    bands = number % BANDS
    places = (number + number // math.lcm(num_pairs, BANDS)) % num_pairs
    within = np.clip(log_snr_T, LEAST_LOG_SNR, MOST_LOG_SNR)
    most, least = within.max(), within.min()
    timesteps = np.empty(examples, dtype=np.int64)
    for band in range(BANDS):
        of_band = np.flatnonzero(bands == band)
        parts = (band + (np.arange(len(of_band)) + 0.5) / len(of_band)) / BANDS
        wanted = most + parts * (least - most)
        timesteps[of_band] = np.abs(log_snr_T[None, :] - wanted[:, None]).argmin(axis=1)
    return Design(places, number // num_pairs, bands, timesteps, len(log_snr_T))


def gain_of(errors: Mapping[str, Floats], near: Mapping[str, Floats] | None, examples: Design, digest: str) -> Gain:
    """From the squared errors of the examples, [N] under each of TRUE, SHUFFLED, BASE, SEEN and SEEN_BASE, to the gain.

    Args:
        near: the errors near the lines of the conditions alone, under TRUE and SHUFFLED; None where there are no lines.

    Raises: ValueError if an error is no number.
    """
    ratios = log_ratios(errors[TRUE], errors[SHUFFLED])
    control = paired(ratios, examples.places, examples.bands)
    over_base = log_ratios(errors[TRUE], errors[BASE])
    benefit = paired(over_base, examples.places, examples.bands)
    by_lines = None if near is None else paired(log_ratios(near[TRUE], near[SHUFFLED]), examples.places, examples.bands)
    return Gain(
        value=control.less,
        low=control.low,
        high=control.high,
        by_band=_by_band(ratios, examples),
        examples=len(examples.places),
        pairs=len(np.unique(examples.places)),
        # Two looks at the same errors: the better of two p-values is worth twice as much.
        p=control.p if by_lines is None else min(1.0, 2 * min(control.p, by_lines.p)),
        near=None if by_lines is None else by_lines.less,
        benefit=benefit.less,
        benefit_low=benefit.low,
        benefit_high=benefit.high,
        benefit_by_band=_by_band(over_base, examples),
        seen_benefit=_less(log_ratios(errors[SEEN], errors[SEEN_BASE])),
        design=digest,
    )


def log_ratios(errors: Floats, others: Floats) -> Floats:
    """log(errors / others), 0 where both are 0. Raises: ValueError if one of them is no number.

    A ratio is the same for noise, velocity and picture prediction, whose errors at one timestep differ by a factor.
    """
    if not (np.isfinite(errors).all() and np.isfinite(others).all()):
        raise ValueError("the network's predictions are no numbers")
    tiny = np.finfo(np.float64).tiny
    found: Floats = np.log(errors + tiny) - np.log(others + tiny)
    return found


def _less(ratios: Floats) -> float:
    """1 - their geometric mean; never -0."""
    return float(-np.expm1(ratios.mean())) + 0.0


def _by_band(ratios: Floats, examples: Design) -> tuple[float, ...]:
    return tuple(_less(ratios[examples.bands == band]) for band in range(BANDS))


def paired(ratios: Floats, places: Ints, bands: Ints) -> Paired:
    """What log ratios of errors say, of the pairs at these places and in these bands, all [N].

    All examples of a pair count as one observation, since they share its picture. The interval is a bootstrap over
    pairs of what is left once each band's mean is taken away, since each band has its fixed share of the examples.
    """
    pairs, place = np.unique(places, return_inverse=True)
    counts = np.bincount(place).astype(np.float64)
    means = np.array([ratios[bands == band].mean() for band in range(BANDS)])
    widened = math.sqrt(len(ratios) / (len(ratios) - BANDS))  # for the means, which are the examples' own
    apart = np.bincount(place, (ratios - means[bands]) * widened)
    drawn = _resamples(len(pairs))
    low, high = -np.expm1(ratios.mean() + np.percentile((drawn @ apart) / (drawn @ counts), (97.5, 2.5)))
    return Paired(_less(ratios), float(low) + 0.0, float(high) + 0.0, paired_p(ratios, places))


def paired_p(ratios: Floats, places: Ints) -> float:
    """One-sided p-value of "the log ratios are not below 0", [N], of the pairs at these places, [N], by a sign-flip
    test: where two things are alike, each pair's sum of log ratios could as well have had the other sign. All examples
    of a pair are flipped together, since they share its picture.
    """
    pairs, place = np.unique(places, return_inverse=True)
    sums = np.bincount(place, ratios)
    # The share of patterns whose sum is as low; the pattern that is there is one of them.
    as_low = _sign_patterns(len(pairs)) @ sums <= sums.sum() + 1e-9 * np.abs(sums).sum()
    return float(as_low.mean())


@cache
def _resamples(num_pairs: int) -> Floats:
    """How often each pair is drawn in each bootstrap sample, [R,P]."""
    draws = np.random.Generator(np.random.Philox(key=[SEED, 0]))
    return draws.multinomial(num_pairs, np.full(num_pairs, 1 / num_pairs), RESAMPLES).astype(np.float64)


@cache
def _sign_patterns(num_pairs: int) -> Floats:
    """All patterns of signs for few pairs, for more the one that is there and so many at random, [F,P]."""
    if num_pairs <= MOST_PAIRS_FLIPPED_IN_ALL_WAYS:
        return np.array(list(itertools.product((1.0, -1.0), repeat=num_pairs)))
    draws = np.random.Generator(np.random.Philox(key=[SEED, 1]))
    return np.vstack([np.ones(num_pairs), draws.integers(0, 2, (FLIPS, num_pairs)) * 2.0 - 1.0])
