"""A measure of drawn pictures: one class for what compares them with their conditions, captions or targets.

Owns how sure a mean over pictures is. Knows no single measure. Never imports torch.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from everstep.contracts import Uint8Array
from everstep.errors import UserError

Floats = NDArray[np.float64]
Interval = tuple[float, float]
FEWEST_OF_A_SET = 16  # pictures, below which a distance between sets is all chance
SEED, RESAMPLES = 0x9D8A, 2000


@dataclass(frozen=True, slots=True)
class Drawn:
    """Drawn pictures and what each was drawn from, all in one order, [H,W,3] uint8 of one size."""

    pictures: Sequence[Uint8Array]
    conditions: Sequence[Uint8Array]
    captions: Sequence[str]
    pairs: Sequence[int]  # numbers in their source
    targets: Sequence[Uint8Array | None]


@dataclass(frozen=True, slots=True)
class Measured:
    """A score of all pictures. interval: 95 %, None where it has none. each: one value a picture, if it has any."""

    value: float
    interval: Interval | None = None
    each: tuple[float, ...] = ()


@dataclass(frozen=True, slots=True)
class Measure:
    """A score of pictures, ready to be taken: its model is loaded.

    fewest: pictures that it needs. otherwise: what is measured where there are fewer.
    """

    name: str
    take: Callable[[Drawn], Measured]
    fewest: int = 1
    otherwise: "Measure | None" = None

    def fitting(self, pictures: int) -> "Measure":
        """This one, or what is measured instead of it on so few. Raises: UserError with the number that would do."""
        if pictures >= self.fewest:
            return self
        if self.otherwise is not None:
            return self.otherwise.fitting(pictures)
        raise UserError(
            f"{self.name} needs {self.fewest} drawn pictures, not {pictures}; "
            f"everstep score --pairs {self.fewest} draws them whatever time it takes"
        )

    @property
    def fewest_of_any(self) -> int:
        """Pictures below which nothing is measured."""
        return self.fewest if self.otherwise is None else min(self.fewest, self.otherwise.fewest_of_any)


def mean_of(each: Callable[[Drawn], list[float]]) -> Callable[[Drawn], Measured]:
    """From one value for each picture to their mean, with its interval."""

    def take(drawn: Drawn) -> Measured:
        values = each(drawn)
        return Measured(sum(values) / len(values), interval_of_mean(values), tuple(values))

    return take


def interval_of_mean(values: Sequence[float]) -> Interval | None:
    """95 % of the mean over pictures, by bootstrap; None for fewer than two."""
    if len(values) < 2:
        return None
    return middle(resamples(len(values)) @ np.asarray(values, dtype=np.float64) / len(values), len(values))


def resamples(count: int) -> Floats:
    """How often each of so many pictures is drawn, [RESAMPLES,N]; the same at every call."""
    draws = np.random.Generator(np.random.Philox(key=[SEED, 0]))
    return draws.multinomial(count, np.full(count, 1 / count), RESAMPLES).astype(np.float64)


def middle(resampled: Floats, count: int) -> Interval:
    """What lies between the outer percentiles of a statistic of `count` pictures, resampled.

    The percentiles of 95 % would be too narrow for few: resamples vary by (n - 1) / n too little, and as the normal
    distribution where Student's t does. So they lie further out, at Phi(-t sqrt(n / (n - 1))); for four pictures that
    is as far as the lowest and the highest. Source: Hesterberg 2015, What Teachers Should Know About the Bootstrap.
    """
    tail = NormalDist().cdf(-_student_t(count - 1) * math.sqrt(count / (count - 1)))
    low, high = np.percentile(resampled, (100 * tail, 100 * (1 - tail)))
    return float(low), float(high)


def _student_t(freedom: int) -> float:
    """The 97.5 % point, within 1 % from three degrees of freedom on. Source: Abramowitz and Stegun, 26.7.5."""
    z = NormalDist().inv_cdf(0.975)
    return (
        z
        + (z**3 + z) / (4 * freedom)
        + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * freedom**2)
        + (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / (384 * freedom**3)
    )
