"""Shapes that pictures are trained in where not all are squares, and which picture is trained in which.

Knows sizes alone: nothing of files, order or networks.
"""

from bisect import bisect_left
from collections.abc import Sequence
from itertools import pairwise

import numpy as np

from everstep.contracts import Int64Array

Size = tuple[int, int]  # width and height, in pixels

MOST_OBLONG = 4  # the longer side, of the shorter: what is longer still is cropped
USUAL_STEP = 64  # of pictures for Stable Diffusion
STEPS_ACROSS = 16  # of the square's side; finer steps would only make more shapes with fewer pictures each


def shapes_of(resolution: int, base_step: int) -> tuple[Size, ...]:
    """The shapes of a resolution, from the narrowest to the widest: no larger than its square, and none much smaller.

    Args:
        base_step: what both sides of a picture have to be multiples of; the resolution is one.
    """
    step = _step(resolution, base_step)
    found = set[Size]()
    for long in range(resolution, 2 * resolution + 1, step):
        short = resolution * resolution // long // step * step
        if short and long <= MOST_OBLONG * short:
            found |= {(long, short), (short, long)}
    return tuple(sorted(found, key=lambda size: (size[0] / size[1], size)))


def _step(resolution: int, base_step: int) -> int:
    """The largest that the base allows, that divides the square's side, and of which there are enough in it."""
    steps = range(base_step, resolution // STEPS_ACROSS + 1, base_step)
    return max((step for step in steps if resolution % step == 0), default=base_step)


def nearest(sizes: Int64Array, shapes: Sequence[Size]) -> Int64Array:
    """Which of the shapes, ordered by ratio, each picture is nearest to in ratio, as a logarithm tells distance.

    Shapes: sizes [N,2], width and height -> [N]. Told in whole numbers, so that it is the same on every machine.
    """
    joined, which = np.unique(sizes[:, 0] << 32 | sizes[:, 1], return_inverse=True)
    # Half-way between two ratios a and b is the root of a b.
    middles = [(a[0] * b[0], a[1] * b[1]) for a, b in pairwise(shapes)]
    found = [_place(width, height, middles) for width, height in map(_apart, joined.tolist())]
    return np.array(found, dtype=np.int64)[which]


def _apart(joined: int) -> Size:
    return joined >> 32, joined & 0xFFFFFFFF


def _place(width: int, height: int, middles: Sequence[Size]) -> int:
    """How many of the squares of ratios are passed by the picture's."""

    def reaches(middle: Size) -> bool:
        return width * width * middle[1] <= height * height * middle[0]

    return bisect_left(middles, True, key=reaches)


def filled(shapes: Sequence[Size], which: Int64Array) -> list[tuple[Size, int]]:
    """The shapes that there are pictures of, and of how many. Shapes: which as `nearest` finds it."""
    counts = np.bincount(which, minlength=len(shapes)).tolist()
    return [(shape, count) for shape, count in zip(shapes, counts, strict=True) if count]


def in_words(filled: Sequence[tuple[Size, int]]) -> str:
    """How many shapes there are, from the narrowest to the widest."""
    (width, height), (widest, lowest) = filled[0][0], filled[-1][0]
    if len(filled) == 1:
        return f"Pictures are all trained in one shape, {width}x{height}."
    return f"Pictures are trained in {len(filled)} shapes from {width}x{height} to {widest}x{lowest}."
