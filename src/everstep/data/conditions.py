"""Conditions made from pictures: every kind as a pure function of the picture and, where it draws, of a generator.

Pictures and conditions are [H,W,3] uint8 RGB. Each is made at the size that is trained on, as programs that draw make
it at the size of the drawing. What is random follows from the example, or from the pair's name where pairs are judged.
"""

import math
from collections.abc import Callable, Mapping

import numpy as np
import xxhash
from PIL import Image, ImageDraw, ImageFilter

from everstep.contracts import Float32Array, Uint8Array
from everstep.data import order
from everstep.data.recipe import Recipe
from everstep.errors import DataUnreadable, EverstepError

Draws = np.random.Generator
Make = Callable[[Uint8Array, Draws | None], Uint8Array]

CANNY_LOW, CANNY_HIGH = 100, 200  # ControlNet's and ControlNet++'s
LOW_RANGE, MARGIN_RANGE = (50, 151), (50, 151)  # of random thresholds: the lower, and what the higher is above it
SIDE_PX = 512  # at which the numbers below are meant; at other sizes they are in proportion
BLUR_PX, BLUR_RANGE_PX = 9.0, (3.0, 27.0)  # standard deviation; 9 is what programs that draw begin with
TILE_FACTOR, TILE_RANGE = 8, (2.0, 16.0)
EDGE_SMOOTHING_PX, EDGE_GAIN = 1.5, 4.0  # a step of 64 levels is white
LINE_WIDTH_PX, LINE_GAIN = 6.0, 4.0
SHAPES, STROKES = (1, 4), (3, 7)  # of a mask: how many shapes, and corners of a stroke
BOX_RANGE, BRUSH_RANGE = (0.15, 0.55), (0.06, 0.16)  # of the side
OF_A_NAME = 0xC0DE  # with a hash of the pair's name, the key of what is drawn for a pair that is judged


class Maker:
    """Makes the condition of a framed target. Any threads may ask at once."""

    def __init__(self, recipe: Recipe, seed: int, make: Make, is_drawn: bool | None = None) -> None:
        """
        Args:
            is_drawn: whether something of it is drawn for each example, so that it is another each time; left out, as
                the recipe has it.
        """
        self.recipe, self._seed, self._make = recipe, seed, make
        self.is_drawn = recipe.is_drawn if is_drawn is None else is_drawn

    def __call__(self, target_HWC: Uint8Array, name: str, example: int | None) -> Uint8Array:
        """
        Args:
            name: of the pair.
            example: that it is for; None for what is the same at every look.

        Raises: DataUnreadable naming the pair where a function or model of the user's own fails.
        """
        try:
            made = self._make(target_HWC, self._draws(name, example))
            if (fault := wrong_with(made, target_HWC)) is None:
                return made
        except EverstepError:
            raise
        except Exception as error:  # the user's own code raises what it likes
            fault = f"raised {type(error).__name__}: {' '.join(str(error).split())}"
        raise DataUnreadable(f"The condition of {name} could not be made: {self.recipe.description}: it {fault}.")

    def _draws(self, name: str, example: int | None) -> Draws | None:
        if example is not None:
            return order.generator(self._seed, example, "condition")
        if self.recipe.kind in ("inpaint", "function"):
            key = [xxhash.xxh3_64_intdigest(name.encode(errors="surrogatepass")), OF_A_NAME]
            return np.random.Generator(np.random.Philox(key=key))
        return None


def wrong_with(made: object, target_HWC: Uint8Array) -> str | None:
    """Why something is no condition of this target, in words that follow "it"."""
    if not isinstance(made, np.ndarray):
        return f"returned {type(made).__name__}, not an array"
    if made.dtype != np.uint8 or made.shape != target_HWC.shape:
        wanted = f"uint8 {list(target_HWC.shape)}"
        return f"returned {made.dtype} {list(made.shape)}, but {wanted} is wanted, as the picture is"
    return None


def plain(recipe: Recipe) -> Make:
    """Of a kind that needs no model. Whether it draws is decided here."""
    make = KINDS[recipe.kind]
    if recipe.is_drawn:
        return make
    return lambda picture_HWC, draws: make(picture_HWC, None)


# --- the kinds ---------------------------------------------------------------------------------------------


def canny_edges(picture_HWC: Uint8Array, low: int = CANNY_LOW, high: int = CANNY_HIGH) -> Uint8Array:
    """Shapes: [H,W,3] uint8 -> [H,W] uint8, 255 where there is an edge."""
    import cv2

    cv2.setNumThreads(0)  # its own threads do not survive the keeper's fork; the loader has others
    edges: Uint8Array = cv2.Canny(np.ascontiguousarray(picture_HWC), low, high)
    return edges


def canny(picture_HWC: Uint8Array, draws: Draws | None) -> Uint8Array:
    """White edges on black."""
    if draws is None:
        return as_rgb(canny_edges(picture_HWC))
    low = int(draws.integers(*LOW_RANGE))
    return as_rgb(canny_edges(picture_HWC, low, low + int(draws.integers(*MARGIN_RANGE))))


def softedge(picture_HWC: Uint8Array, draws: Draws | None) -> Uint8Array:
    """Bright where it changes: the gradient (Scharr) of the smoothed luminance, on black."""
    smooth = _blurred(_grey(picture_HWC), _scaled(EDGE_SMOOTHING_PX, picture_HWC))
    v = np.pad(np.asarray(smooth, np.float32), 1, mode="edge")
    down = 3 * (v[2:, :-2] - v[:-2, :-2]) + 10 * (v[2:, 1:-1] - v[:-2, 1:-1]) + 3 * (v[2:, 2:] - v[:-2, 2:])
    across = 3 * (v[:-2, 2:] - v[:-2, :-2]) + 10 * (v[1:-1, 2:] - v[1:-1, :-2]) + 3 * (v[2:, 2:] - v[2:, :-2])
    # Per pixel; at the middle of a step smoothed by s it is the step's height over s * sqrt(2 pi).
    slope = np.sqrt(down * down + across * across) / np.float32(32)
    width = np.float32(max(1.0, _scaled(EDGE_SMOOTHING_PX, picture_HWC)) * (2 * np.pi) ** 0.5)
    return as_rgb(_levels(slope * width * np.float32(EDGE_GAIN)))


def lineart(picture_HWC: Uint8Array, draws: Draws | None) -> Uint8Array:
    """White lines on black: how much darker than its surroundings a pixel is, in the channel where that is most."""
    image = Image.fromarray(picture_HWC)
    around = np.asarray(_blurred(image, _scaled(LINE_WIDTH_PX, picture_HWC)), np.float32)
    darker = (around - picture_HWC).max(axis=2)
    return as_rgb(_levels(darker * np.float32(LINE_GAIN)))


def grey(picture_HWC: Uint8Array, draws: Draws | None) -> Uint8Array:
    """Luminance (ITU-R 601)."""
    return as_rgb(np.asarray(_grey(picture_HWC)))


def blur(picture_HWC: Uint8Array, draws: Draws | None) -> Uint8Array:
    """Gaussian."""
    deviation_px = BLUR_PX if draws is None else _between(draws, *BLUR_RANGE_PX)
    return np.array(_blurred(Image.fromarray(picture_HWC), _scaled(deviation_px, picture_HWC)))


def tile(picture_HWC: Uint8Array, draws: Draws | None) -> Uint8Array:
    """Made smaller, each pixel the mean of what it covers, and as large as it was again."""
    factor = TILE_FACTOR if draws is None else _between(draws, *TILE_RANGE)
    image = Image.fromarray(picture_HWC)
    small = (max(1, round(image.width / factor)), max(1, round(image.height / factor)))
    return np.array(image.resize(small, Image.Resampling.BOX).resize(image.size, Image.Resampling.BICUBIC))


def inpaint(picture_HWC: Uint8Array, draws: Draws | None) -> Uint8Array:
    """Black where a mask lies, the picture elsewhere; see docs/data.md for whom that is."""
    assert draws is not None, "a mask is always drawn"
    masked = picture_HWC.copy()
    masked[_mask(picture_HWC.shape[1], picture_HWC.shape[0], draws)] = 0
    return masked


KINDS: Mapping[str, Make] = {
    "canny": canny,
    "softedge": softedge,
    "lineart": lineart,
    "grey": grey,
    "blur": blur,
    "tile": tile,
    "inpaint": inpaint,
}


def _mask(width: int, height: int, draws: Draws) -> np.ndarray[tuple[int, ...], np.dtype[np.bool_]]:
    """Some boxes and strokes of a round brush. Shapes: [H,W] bool, True in places that are to be drawn anew."""
    mask, side = Image.new("1", (width, height)), min(width, height)
    pen = ImageDraw.Draw(mask)
    for _ in range(int(draws.integers(*SHAPES))):
        if draws.random() < 0.5:
            across, down = (draws.uniform(*BOX_RANGE, 2) * (width, height)).tolist()
            left, top = (draws.random(2) * (width - across, height - down)).tolist()
            pen.rectangle((left, top, left + max(1, across), top + max(1, down)), fill=1)
            continue
        points = draws.random((int(draws.integers(*STROKES)), 2)) * (width, height)
        radius = max(0.5, float(draws.uniform(*BRUSH_RANGE)) * side / 2)
        pen.line([(x, y) for x, y in points.tolist()], fill=1, width=max(1, round(2 * radius)))
        for x, y in points.tolist():
            pen.ellipse((x - radius, y - radius, x + radius, y + radius), fill=1)
    return np.array(mask)


# --- what they share ---------------------------------------------------------------------------------------


def as_rgb(map_HW: Uint8Array) -> Uint8Array:
    """Shapes: [H,W] uint8 -> [H,W,3], three times the same."""
    return np.repeat(map_HW[:, :, None], 3, axis=2)


def _levels(values: Float32Array) -> Uint8Array:
    return np.clip(np.rint(values), 0, 255).astype(np.uint8)


def _grey(picture_HWC: Uint8Array) -> Image.Image:
    return Image.fromarray(picture_HWC).convert("L")


def _blurred(image: Image.Image, deviation_px: float) -> Image.Image:
    return image.filter(ImageFilter.GaussianBlur(deviation_px))


def _scaled(length_px: float, picture_HWC: Uint8Array) -> float:
    side_px: int = min(picture_HWC.shape[:2])
    return length_px * side_px / SIDE_PX


def _between(draws: Draws, low: float, high: float) -> float:
    """Each doubling alike often."""
    share: float = draws.random()
    return low * math.exp(share * math.log(high / low))
