"""A condition of another size than its target is cropped at the same place."""

import numpy as np
import pytest
from PIL import Image

from everstep.contracts import Pair
from everstep.data import fit
from everstep.data.transform import have_one_shape


def marked(size: tuple[int, int]) -> Image.Image:
    """Left half black, right half white; with a red band at the top quarter."""
    pixels = np.zeros((size[1], size[0], 3), dtype=np.uint8)
    pixels[:, size[0] // 2 :] = 255
    pixels[: size[1] // 4] = (255, 0, 0)
    return Image.fromarray(pixels)


@pytest.mark.parametrize("crop_at", [(0.0, 0.0), (0.5, 0.5), (1.0, 1.0)])
@pytest.mark.parametrize("scale", [0.5, 0.25, 2])
def test_both_show_the_same_part(scale: float, crop_at: tuple[float, float]) -> None:
    size = (128, 64)
    small = (int(128 * scale), int(64 * scale))
    target, condition = fit(Pair(marked(size), marked(small), ""), 32, "nearest", crop_at, True)
    difference = np.abs(target.astype(int) - condition)
    assert np.mean(difference > 100) < 0.07  # but for the edges
    other, _ = fit(Pair(marked(size), marked(size), ""), 32, "nearest", (1 - crop_at[0], 0.5), True)
    assert crop_at == (0.5, 0.5) or np.mean(np.abs(other.astype(int) - condition) > 100) > 0.2


@pytest.mark.parametrize(
    ("one", "other", "are_alike"),
    [
        ((512, 512), (64, 64), True),
        ((512, 767), (64, 96), True),
        ((1023, 768), (127, 96), True),
        ((512, 512), (511, 512), False),
        ((512, 768), (768, 512), False),
        ((512, 512), (512, 513), False),
        ((640, 480), (512, 512), False),
        ((32, 32), (27, 32), False),
    ],
)
def test_shapes_are_alike_as_far_as_rounding_goes(
    one: tuple[int, int], other: tuple[int, int], are_alike: bool
) -> None:
    assert have_one_shape(one, other) is are_alike
    assert have_one_shape(other, one) is are_alike
