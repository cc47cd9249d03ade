"""How often the interval of a mean over pictures holds the true mean, against plain percentiles of the same bootstrap.

    python bench/intervals.py

Populations whose mean is known stand for scores of pictures. A minute; no model is loaded.
"""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from everstep.evaluation.pictures.measures import middle, resamples
from machine import record

ROUNDS, PICTURES = 1000, (4, 8, 16, 32, 64)
Draw = Callable[[np.random.Generator, int], NDArray[np.float64]]
POPULATIONS: dict[str, tuple[Draw, float]] = {
    "normal": (lambda draws, n: draws.normal(size=n), 0.0),
    "near 1 with a tail, beta(5, 1)": (lambda draws, n: draws.beta(5, 1, n), 5 / 6),
    "30 % do not obey, beta(2, 8), 70 % do, beta(20, 3)": (
        lambda draws, n: np.where(draws.random(n) < 0.3, draws.beta(2, 8, n), draws.beta(20, 3, n)),
        0.3 * 0.2 + 0.7 * 20 / 23,
    ),
}


def main() -> None:
    """Measure and write RESULTS.md."""
    rows = []
    for pictures in PICTURES:
        shares = {name: coverage(draw, mean, pictures) for name, (draw, mean) in POPULATIONS.items()}
        rows.append(
            f"| {pictures} | " + " | ".join(f"{own:.1%} / {plain:.1%}" for own, plain in shares.values()) + " |"
        )
    record(
        "How sure scores of pictures are (bench/intervals.py)",
        f"Of {ROUNDS} samples, those whose 95 % interval holds the true mean: of scores / of plain percentiles.\n\n"
        f"| pictures | {' | '.join(POPULATIONS)} |\n| --- | {' | '.join('---' for _ in POPULATIONS)} |\n"
        + "\n".join(rows),
    )


def coverage(draw: Draw, mean: float, pictures: int) -> tuple[float, float]:
    """Share of samples whose interval holds the mean: the one that scores have, and the plain one."""
    draws, times, held = np.random.default_rng(1), resamples(pictures), np.zeros(2)
    for _ in range(ROUNDS):
        resampled = times @ draw(draws, pictures) / pictures
        plain = np.percentile(resampled, (2.5, 97.5))
        held += [low <= mean <= high for low, high in (middle(resampled, pictures), plain)]
    own, other = held / ROUNDS
    return float(own), float(other)


if __name__ == "__main__":
    main()
