"""A pair as it is on disk, made into two squares of the training resolution, both with the same geometry."""

from typing import Literal

import numpy as np
from PIL import Image

from everstep.contracts import Pair, Uint8Array

CENTRE = (0.5, 0.5)
FILTERS = {"bilinear": Image.Resampling.BILINEAR, "nearest": Image.Resampling.NEAREST}


def fit(
    pair: Pair,
    resolution: int,
    condition_resize: Literal["bilinear", "nearest"] = "bilinear",
    crop_at: tuple[float, float] = CENTRE,
    is_flipped: bool = False,
) -> tuple[Uint8Array, Uint8Array]:
    """Crop the largest square at `crop_at`, resize it, mirror it.

    Shapes: a pair of any size -> target, condition, each [H,W,3] uint8 with H = W = resolution.
    """
    box = _square(pair.target.size, crop_at)
    target = _resized(pair.target, box, resolution, Image.Resampling.LANCZOS)
    theirs = _box_in(pair.condition.size, pair.target.size, box)
    condition = _resized(pair.condition, theirs, resolution, FILTERS[condition_resize])
    if is_flipped:
        return np.ascontiguousarray(target[:, ::-1]), np.ascontiguousarray(condition[:, ::-1])
    return target, condition


def frame(
    size: tuple[int, int], resolution: int, crop_at: tuple[float, float] = CENTRE, is_flipped: bool = False
) -> tuple[int, int, int, int, int, int]:
    """Where `fit` finds its square, as contracts.Batch has it; a mirrored square is of the mirrored picture."""
    (width, height), side = size, min(size)
    left, top, right, _ = _square(size, crop_at)
    across = width - right if is_flipped else left
    scale = resolution / side
    return height, width, round(top * scale), round(across * scale), resolution, resolution


def have_one_shape(one: tuple[int, int], other: tuple[int, int]) -> bool:
    """Whether one size is the other scaled, as far as rounding to whole pixels leaves it so."""
    (width, height), (small_width, small_height) = max(one, other), min(one, other)
    if width == small_width or height == small_height:
        return one == other
    return abs(small_width * height - small_height * width) < max(width, height)


def _box_in(
    size: tuple[int, int], of: tuple[int, int], box: tuple[int, int, int, int]
) -> tuple[float, float, float, float]:
    """The same part of a picture of another size."""
    if size == of:
        return box
    across, down = size[0] / of[0], size[1] / of[1]
    left, top, right, bottom = box
    return left * across, top * down, min(right * across, size[0]), min(bottom * down, size[1])


def _square(size: tuple[int, int], crop_at: tuple[float, float]) -> tuple[int, int, int, int]:
    width, height = size
    side = min(size)
    left, top = round((width - side) * crop_at[0]), round((height - side) * crop_at[1])
    return left, top, left + side, top + side


def _resized(
    image: Image.Image, box: tuple[float, float, float, float], side: int, filter_: Image.Resampling
) -> Uint8Array:
    whole: tuple[float, float, float, float] = (0, 0, image.width, image.height)
    if box == whole and image.size == (side, side):
        return np.array(image)
    return np.array(image.resize((side, side), filter_, box=box))
