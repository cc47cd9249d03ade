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
    condition = _resized(pair.condition, box, resolution, FILTERS[condition_resize])
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
