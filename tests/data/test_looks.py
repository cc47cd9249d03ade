"""Copies of a picture look like it; other pictures do not, however few lines they are drawn of."""

import io
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageDraw

from everstep.data.layouts import circles
from everstep.data.looks import LENGTH, TOLERANCE, Looks, look_of


def photo(seed: int) -> Image.Image:
    """Something of large and of small parts."""
    chance = np.random.default_rng(seed)
    large = Image.fromarray(chance.integers(0, 256, (5, 5, 3), dtype=np.uint8)).resize(
        (240, 240), Image.Resampling.BICUBIC
    )
    small = Image.fromarray(chance.integers(0, 256, (120, 120, 3), dtype=np.uint8)).resize((240, 240))
    return Image.blend(large, small, 0.15)


def line_art(seed: int) -> Image.Image:
    chance = np.random.default_rng(seed)
    image = Image.new("RGB", (240, 240), "white")
    for _ in range(6):
        ImageDraw.Draw(image).line([tuple(map(int, chance.integers(0, 240, 2))) for _ in range(4)], "black", 5)
    return image


def circle(seed: int) -> Image.Image:
    return circles.target(circles.circle(seed), 64)


def as_jpeg(image: Image.Image) -> Image.Image:
    held = io.BytesIO()
    image.save(held, "JPEG", quality=50)
    return Image.open(held).convert("RGB")


KINDS = {"photo": photo, "line art": line_art, "circle": circle}
COPIES: dict[str, Callable[[Image.Image], Image.Image]] = {
    "re-encoded": as_jpeg,
    "half the size": lambda image: image.resize((image.width // 2, image.height // 2)),
    "larger": lambda image: image.resize((image.width * 3 // 2, image.height * 3 // 2), Image.Resampling.BICUBIC),
    "a shade lighter": lambda image: image.point(lambda value: min(255, round(value * 1.03))),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("copy", COPIES)
def test_a_copy_looks_like_its_original_and_like_nothing_else(kind: str, copy: str) -> None:
    originals = [KINDS[kind](seed) for seed in range(60)]
    looks = Looks.of(b"".join(map(look_of, [*originals, *map(COPIES[copy], originals)])), 120)
    assert looks is not None
    for number in range(60):
        assert sorted(looks.like(number)) == [number, number + 60]


def test_another_colour_is_another_picture() -> None:
    red, green = (Image.new("RGB", (64, 64), colour) for colour in ((200, 60, 60), (60, 131, 60)))
    assert red.convert("L").getextrema() == green.convert("L").getextrema()  # a grey hash could not tell them apart
    looks = Looks.of(look_of(red) + look_of(green), 2)
    assert looks is not None
    assert looks.like(0) == [0]


@given(st.integers(0, 1 << 30), st.integers(1, 300), st.integers(1, 60))
def test_those_alike_are_found_without_asking_all(seed: int, count: int, spread: int) -> None:
    chance = np.random.default_rng(seed)
    values = chance.integers(0, 256, (4, LENGTH))[chance.integers(0, 4, count)] + chance.integers(
        -spread, spread, (count, 1)
    )
    glances = np.clip(values, 0, 255).astype(np.uint8)
    looks = Looks(glances)
    far = np.abs(glances.astype(int) - glances[0].astype(int)).max(axis=1)
    assert sorted(looks.like(0)) == list(np.flatnonzero(far <= TOLERANCE))


def test_looks_that_are_not_all_known_are_none() -> None:
    assert Looks.of(b"", 0) is None
    assert Looks.of(bytes(LENGTH), 2) is None
