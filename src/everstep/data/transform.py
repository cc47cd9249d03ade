"""A pair as it is on disk, made into two pictures of the size that is trained on, both with the same geometry."""

from typing import Literal

import numpy as np
from PIL import Image

from everstep.contracts import Pair, Uint8Array

CENTRE = (0.5, 0.5)
Trained = int | tuple[int, int]  # side of a square, or width and height, in pixels
Box = tuple[int, int, int, int]  # left, top, right, bottom, in pixels
Part = tuple[float, float, float, float]  # the same, where a picture has another size
FILTERS = {  # but for area
    "bilinear": Image.Resampling.BILINEAR,
    "nearest": Image.Resampling.NEAREST,
    "lanczos": Image.Resampling.LANCZOS,
}
Filter = Literal["bilinear", "nearest", "area", "lanczos"]


def fit(
    pair: Pair,
    trained: Trained,
    condition_resize: Literal["bilinear", "nearest", "area"] = "bilinear",
    crop_at: tuple[float, float] = CENTRE,
    is_flipped: bool = False,
    resize: Literal["area", "lanczos"] = "lanczos",
) -> tuple[Uint8Array, Uint8Array]:
    """Crop the largest box of the shape that is trained on at `crop_at`, resize it, mirror it.

    Shapes: a pair of any size -> target, condition, each [H,W,3] uint8 with H and W as trained.
    """
    assert pair.condition is not None, "a pair whose condition is made has none to be cropped"
    size = _size(trained)
    target = fit_target(pair.target, trained, crop_at, is_flipped, resize)
    box = _box_in(pair.condition.size, pair.target.size, _box(pair.target.size, size, crop_at))
    condition = _resized(pair.condition, box, size, condition_resize)
    return target, np.ascontiguousarray(condition[:, ::-1]) if is_flipped else condition


def fit_target(
    image: Image.Image,
    trained: Trained,
    crop_at: tuple[float, float] = CENTRE,
    is_flipped: bool = False,
    resize: Literal["area", "lanczos"] = "lanczos",
) -> Uint8Array:
    """The target alone, as `fit` makes it."""
    size = _size(trained)
    target = _resized(image, _box(image.size, size, crop_at), size, resize)
    return np.ascontiguousarray(target[:, ::-1]) if is_flipped else target


def frame(
    size: tuple[int, int], trained: Trained, crop_at: tuple[float, float] = CENTRE, is_flipped: bool = False
) -> tuple[int, int, int, int, int, int]:
    """Where `fit` finds its box, as contracts.Batch has it; a mirrored box is of the mirrored picture."""
    (width, height), (across, down) = size, _size(trained)
    left, top, right, bottom = _box(size, (across, down), crop_at)
    beside = width - right if is_flipped else left
    return height, width, round(top * (down / (bottom - top))), round(beside * (across / (right - left))), down, across


def have_one_shape(one: tuple[int, int], other: tuple[int, int]) -> bool:
    """Whether one size is the other scaled, as far as rounding to whole pixels leaves it so."""
    (width, height), (small_width, small_height) = max(one, other), min(one, other)
    if width == small_width or height == small_height:
        return one == other
    return abs(small_width * height - small_height * width) < max(width, height)


def _size(trained: Trained) -> tuple[int, int]:
    return (trained, trained) if isinstance(trained, int) else trained


def _box(size: tuple[int, int], shape: tuple[int, int], crop_at: tuple[float, float]) -> Box:
    """The largest of a shape that lies in a picture of a size."""
    (width, height), (across, down) = size, shape
    if width * down >= height * across:
        inside = min(width, max(1, round(height * across / down))), height
    else:
        inside = width, min(height, max(1, round(width * down / across)))
    left, top = round((width - inside[0]) * crop_at[0]), round((height - inside[1]) * crop_at[1])
    return left, top, left + inside[0], top + inside[1]


def _box_in(size: tuple[int, int], of: tuple[int, int], box: Box) -> Part:
    """The same part of a picture of another size."""
    if size == of:
        return box
    across, down = size[0] / of[0], size[1] / of[1]
    left, top, right, bottom = box
    return left * across, top * down, min(right * across, size[0]), min(bottom * down, size[1])


def _resized(image: Image.Image, box: Part, size: tuple[int, int], filter_: Filter) -> Uint8Array:
    whole: Part = (0, 0, image.width, image.height)
    if box == whole and image.size == size:
        return np.array(image)
    if filter_ == "area":
        return _mean(image, box, size)
    return np.array(image.resize(size, FILTERS[filter_], box=box))


def _mean(image: Image.Image, box: Part, size: tuple[int, int]) -> Uint8Array:
    """Each pixel the mean of those that it covers: whole ones at first, which takes a tenth of the time; of what is
    left a triangle is truer than Pillow's box, which takes a pixel whole or not at all. Where a picture has fewer
    pixels than are asked for there is nothing to take the mean of.
    """
    (across, down), inside = size, (box[2] - box[0], box[3] - box[1])
    if across > inside[0] or down > inside[1]:
        return np.array(image.resize(size, Image.Resampling.LANCZOS, box=box))
    factor = int(inside[0] // across), int(inside[1] // down)
    left, top, right, bottom = map(round, box)
    is_whole = all(float(edge).is_integer() for edge in box)
    if factor != (1, 1) and is_whole:
        image, box = (
            image.reduce(factor, box=(left, top, right, bottom)),
            (0.0, 0.0, inside[0] / factor[0], inside[1] / factor[1]),
        )
        if image.size == size:
            return np.array(image)
    return np.array(image.resize(size, Image.Resampling.BILINEAR, box=box))
