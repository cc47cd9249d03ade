"""A pair as it is on disk, made into two squares of the training resolution, both with the same geometry."""

from typing import Literal

import numpy as np
from PIL import Image

from everstep.contracts import Pair, Uint8Array

CENTRE = (0.5, 0.5)
FILTERS = {
    "bilinear": Image.Resampling.BILINEAR,
    "nearest": Image.Resampling.NEAREST,
    "area": Image.Resampling.BOX,
}


def fit(
    pair: Pair,
    resolution: int,
    condition_resize: Literal["bilinear", "nearest", "area"] = "bilinear",
    crop_at: tuple[float, float] = CENTRE,
    is_flipped: bool = False,
) -> tuple[Uint8Array, Uint8Array]:
    """Crop the largest square at `crop_at`, resize it, mirror it.

    Shapes: a pair of any size -> target, condition, each [H,W,3] uint8 with H = W = resolution.
    """
    assert pair.condition is not None, "a pair whose condition is made has none to be cropped"
    target = fit_target(pair.target, resolution, crop_at, is_flipped)
    box = _square(pair.target.size, crop_at)
    condition = _resized(pair.condition, box, resolution, FILTERS[condition_resize])
    return target, np.ascontiguousarray(condition[:, ::-1]) if is_flipped else condition


def fit_target(
    image: Image.Image, resolution: int, crop_at: tuple[float, float] = CENTRE, is_flipped: bool = False
) -> Uint8Array:
    """The target alone, as `fit` makes it."""
    target = _resized(image, _square(image.size, crop_at), resolution, Image.Resampling.LANCZOS)
    return np.ascontiguousarray(target[:, ::-1]) if is_flipped else target


def frame(
    size: tuple[int, int], resolution: int, crop_at: tuple[float, float] = CENTRE, is_flipped: bool = False
) -> tuple[int, int, int, int, int, int]:
    """Where `fit` finds its square, as contracts.Batch has it; a mirrored square is of the mirrored picture."""
    (width, height), side = size, min(size)
    left, top, right, _ = _square(size, crop_at)
    across = width - right if is_flipped else left
    scale = resolution / side
    return height, width, round(top * scale), round(across * scale), resolution, resolution


def _square(size: tuple[int, int], crop_at: tuple[float, float]) -> tuple[int, int, int, int]:
    width, height = size
    side = min(size)
    left, top = round((width - side) * crop_at[0]), round((height - side) * crop_at[1])
    return left, top, left + side, top + side


def _resized(image: Image.Image, box: tuple[int, int, int, int], side: int, filter_: Image.Resampling) -> Uint8Array:
    whole = (0, 0, *image.size)
    if box == whole and image.size == (side, side):
        return np.array(image)
    return np.array(image.resize((side, side), filter_, box=box))
