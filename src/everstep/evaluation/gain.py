"""The arithmetic of control gain: which examples are denoised, and what their errors say. Never imports torch.

Legend: N examples, P pairs; a band is a part of the timesteps, band 0 the least noisy.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from everstep.records.verdict import Gain

BANDS = 4
RESAMPLES = 1000
SEED = 0x9A1
TRUE, SHUFFLED, BLANK = "true", "shuffled", "blank"
CONDITIONS = (TRUE, SHUFFLED, BLANK)
FORWARDS_PER_TRAINED_IMAGE = 2.5  # forward and backward of one trained image cost at least so many forwards
FEWEST_EXAMPLES, MOST_EXAMPLES = 4 * BANDS, 64 * BANDS
Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Design:
    """The fixed examples. Shapes: all [N] int64; places index the held-out pairs, rounds count how often each came."""

    places: Ints
    rounds: Ints
    bands: Ints
    timesteps: Ints


def num_examples(overhead: float, images_per_version: int) -> int:
    """As many examples, each denoised three times, as cost this share of the training between two versions."""
    affordable = overhead * images_per_version * FORWARDS_PER_TRAINED_IMAGE / len(CONDITIONS)
    return int(min(MOST_EXAMPLES, max(FEWEST_EXAMPLES, affordable // BANDS * BANDS)))


def design(num_pairs: int, examples: int, num_train_timesteps: int) -> Design:
    """Bands in turn, pairs in turn, each pair in all bands; in a band, timesteps evenly spread. No chance in it."""
    number = np.arange(examples)
    bands = number % BANDS
    places = (number + number // math.lcm(num_pairs, BANDS)) % num_pairs
    rounds = number // num_pairs
    timesteps = np.empty(examples, dtype=np.int64)
    for band in range(BANDS):
        of_band = np.flatnonzero(bands == band)
        within = (np.arange(len(of_band)) + 0.5) / max(1, len(of_band))
        timesteps[of_band] = ((band + within) / BANDS * num_train_timesteps).astype(np.int64)
    return Design(places, rounds, bands, timesteps)


def control_gain(errors: Mapping[str, Floats], examples: Design) -> Gain:
    """From the squared errors of the examples, [N] under each condition, to the gain.

        gain = mean over bands b of  1 - sum_{k in b} true_k / sum_{k in b} shuffled_k

    Range: 1 where the true condition tells everything, 0 where it tells nothing, below 0 where it misleads. Errors of
    one band are compared with errors of the same band only, so the gain does not depend on the scale of the loss, on
    loss weights that differ from band to band, nor, much, on whether noise, velocity or the picture is predicted; and
    examples whose error is large whatever is done do not drown those at which layout is decided. The interval is a
    bootstrap over pairs, 2.5 to 97.5 %.
    """
    num_pairs = int(examples.places.max()) + 1
    sums = {name: _sums(values, examples, num_pairs) for name, values in errors.items()}
    draws = np.random.Generator(np.random.Philox(key=[SEED, 0]))
    counts = draws.multinomial(num_pairs, np.full(num_pairs, 1 / num_pairs), RESAMPLES).astype(np.float64)
    resampled = _relative(sums[TRUE] @ counts.T, sums[SHUFFLED] @ counts.T)
    low, high = np.nanpercentile(np.nanmean(resampled, axis=0), (2.5, 97.5))
    whole = {name: found.sum(axis=1) for name, found in sums.items()}
    by_band = _relative(whole[TRUE], whole[SHUFFLED])
    return Gain(
        value=float(by_band.mean()),
        low=float(low),
        high=float(high),
        by_band=tuple(map(float, by_band)),
        over_blank=float(_relative(whole[TRUE], whole[BLANK]).mean()),
        examples=len(examples.places),
        pairs=num_pairs,
    )


def _sums(values: Floats, examples: Design, num_pairs: int) -> Floats:
    """Errors added up by band and pair, [BANDS,P]."""
    cells = examples.bands * num_pairs + examples.places
    flat: Floats = np.bincount(cells, values, BANDS * num_pairs).astype(np.float64)
    return flat.reshape(BANDS, num_pairs)


def _relative(true: Floats, other: Floats) -> Floats:
    """1 - true / other; not a number where a resample has nothing of a band."""
    return 1 - np.divide(true, other, out=np.full_like(true, np.nan), where=other > 0)
