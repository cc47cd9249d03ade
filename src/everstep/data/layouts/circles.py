"""Circle pairs, drawn by rule instead of read from a disk: the data of the ControlNet tutorial, without limit.

A pair is a filled circle on a plain background, its outline, and "COLOUR circle with COLOUR background". Everything
about pair k is a pure function of k. Source of the rule: lllyasviel/ControlNet, docs/train.md (fill50k).
"""

import math
from dataclasses import dataclass
from functools import cache

import numpy as np
import numpy.typing as npt
import xxhash
from PIL import Image

from everstep.contracts import Contents, Int64Array, Pair, Smaller, Which
from everstep.data.framing import FIRST
from everstep.data.layouts.listing import Listed

Colour = tuple[int, int, int]
Box = tuple[slice, slice]
EVERYTHING = (slice(None), slice(None))
Cover = npt.NDArray[np.float32]
PALETTE: dict[str, Colour] = {
    "black": (0, 0, 0),
    "gray": (128, 128, 128),
    "white": (255, 255, 255),
    "red": (225, 25, 30),
    "maroon": (110, 0, 20),
    "pink": (255, 170, 195),
    "orange": (255, 130, 0),
    "brown": (140, 80, 30),
    "beige": (235, 215, 165),
    "yellow": (255, 230, 20),
    "olive": (125, 125, 0),
    "lime": (160, 240, 30),
    "green": (30, 150, 50),
    "mint": (165, 245, 200),
    "teal": (0, 125, 130),
    "cyan": (50, 225, 245),
    "blue": (25, 70, 230),
    "navy": (10, 15, 110),
    "purple": (130, 25, 175),
    "magenta": (240, 40, 215),
}
SMALLEST_RADIUS, LARGEST_RADIUS, MARGIN = 0.12, 0.32, 0.03  # of the side
HELD_OUT_COUNT = 100
NUM_CIRCLES = 50_000
LINE_WIDTH = 2 / 64  # of the side


@dataclass(frozen=True, slots=True)
class Circle:
    """One pair's content. Units: centre and radius in fractions of the side."""

    colour: str
    background: str
    centre_x: float
    centre_y: float
    radius: float

    @property
    def caption(self) -> str:
        return f"{self.colour} circle with {self.background} background"


@cache
def combinations() -> tuple[tuple[str, str], ...]:
    """All (circle, background) colour pairs, in an order that is a hash's and has nothing to do with colours."""
    pairs = [(a, b) for a in PALETTE for b in PALETTE if a != b]
    return tuple(sorted(pairs, key=lambda pair: xxhash.xxh3_64_intdigest("/".join(pair).encode())))


def held_out_combinations() -> tuple[tuple[str, str], ...]:
    """The 100 colour combinations that the built-in base never saw: what its score is measured on."""
    return combinations()[:HELD_OUT_COUNT]


def circle(number: int, colours: tuple[tuple[str, str], ...] | None = None) -> Circle:
    """The circle of pair `number`: colours from all combinations unless others are given, size and place at random."""
    draws = np.random.Generator(np.random.Philox(key=[number, 0xC12C1E]))
    choice = colours or combinations()
    colour, background = choice[int(draws.integers(len(choice)))]
    radius = float(draws.uniform(SMALLEST_RADIUS, LARGEST_RADIUS))
    low, high = MARGIN + radius, 1 - MARGIN - radius
    return Circle(colour, background, float(draws.uniform(low, high)), float(draws.uniform(low, high)), radius)


def pictures(drawn: Circle, side_px: int) -> tuple[Image.Image, Image.Image]:
    """Target, the filled circle, and condition, its white outline on black; both antialiased RGB."""
    half = LINE_WIDTH / 2 * side_px
    box = _around(drawn, side_px, half + 1)
    inner = drawn.radius * side_px - _distance(drawn, side_px, box)  # how far inside of the edge, in pixels
    corner = (box[1].start, box[0].start)
    filled = Image.new("RGB", (side_px, side_px), PALETTE[drawn.background])
    filled.paste(PALETTE[drawn.colour], corner, _mask(_cover(inner)))
    outlined = Image.new("RGB", (side_px, side_px))
    outlined.paste((255, 255, 255), corner, _mask(_cover(inner + half) - _cover(inner - half)))
    return filled, outlined


def _mask(cover: Cover) -> Image.Image:
    return Image.fromarray((cover * np.float32(255) + np.float32(0.5)).astype(np.uint8))


def target(drawn: Circle, side_px: int) -> Image.Image:
    """The filled circle alone."""
    return pictures(drawn, side_px)[0]


def condition(drawn: Circle, side_px: int) -> Image.Image:
    """The outline alone."""
    return pictures(drawn, side_px)[1]


def disk_mask(drawn: Circle, side_px: int) -> npt.NDArray[np.bool_]:
    """Pixels whose centre lies inside of the outline, [H,W] bool."""
    return _distance(drawn, side_px) <= drawn.radius * side_px


def _around(drawn: Circle, side_px: int, margin_px: float) -> Box:
    """Rows and columns outside of which nothing of the circle or its line is seen."""
    reach = drawn.radius * side_px + margin_px
    rows, columns = (
        slice(max(0, math.floor(centre * side_px - reach)), min(side_px, math.ceil(centre * side_px + reach)))
        for centre in (drawn.centre_y, drawn.centre_x)
    )
    return rows, columns


def _cover(inner_px: Cover) -> Cover:
    """Share of each pixel inside of an edge, from its distance to it: exact to a tenth for a circle's curve."""
    cover: Cover = np.minimum(np.maximum(inner_px + np.float32(0.5), np.float32(0)), np.float32(1))
    return cover


def _distance(drawn: Circle, side_px: int, box: Box = EVERYTHING) -> Cover:
    """Of each pixel's centre from the circle's, in pixels, [H,W] float32; of the pixels in the box."""
    centres = _centres(side_px)
    down = centres[box[0]] - np.float32(drawn.centre_y * side_px)
    across = centres[box[1]] - np.float32(drawn.centre_x * side_px)
    distance: Cover = np.sqrt((down * down)[:, None] + (across * across)[None, :])
    return distance


@cache
def _centres(side_px: int) -> Cover:
    return np.arange(side_px, dtype=np.float32) + np.float32(0.5)


# --- as a source of pairs -----------------------------------------------------------------------------------


class CircleSource:
    """builtin:circles; nothing on disk, every pair a function of its number."""

    recipe = None

    def __init__(self, resolution: int) -> None:
        self.skipped: dict[str, str] = {}
        self.captioned: tuple[Listed, ...] = ()
        self.resolution = resolution
        self.description = f"{NUM_CIRCLES:,} circles drawn at {resolution} px"

    def looks(self) -> None:
        """Each is drawn by itself."""
        return None

    def sizes(self) -> Int64Array:
        return np.full((NUM_CIRCLES, 2), self.resolution, dtype=np.int64)

    def __len__(self) -> int:
        return NUM_CIRCLES

    def name(self, pair: int) -> str:
        return f"circle-{pair:06d}"

    def load(self, pair: int, which: Which = FIRST, smaller: Smaller | None = None) -> Pair:
        drawn = circle(pair)
        return Pair(*pictures(drawn, self.resolution), drawn.caption)

    def contents(self, pair: int) -> Contents:
        drawn = f"circle-1:{pair}:{self.resolution}"
        return Contents(drawn, (f"outline-{drawn}",), (circle(pair).caption,))

    def is_as_checked(self, pair: int, condition: int) -> bool:
        return True

    def fingerprint(self) -> str:
        return f"builtin:circles:1:{NUM_CIRCLES}:{self.resolution}"


# --- what a picture shows ----------------------------------------------------------------------------------


def shows_named_colours(picture_HWC: npt.NDArray[np.uint8], drawn: Circle) -> bool:
    """Whether background and circle have the two named colours, in these roles.

    Each pixel counts for the palette colour nearest in RGB: the most frequent must be the named background, the next
    the named circle colour, on at least 2 % of the picture.
    """
    names = list(PALETTE)
    palette = np.array(list(PALETTE.values()), dtype=np.int32)
    squared = ((picture_HWC[:, :, None, :].astype(np.int32) - palette) ** 2).sum(axis=-1)
    counts = np.bincount(squared.argmin(axis=-1).ravel(), minlength=len(names))
    first, second = np.argsort(-counts, kind="stable")[:2]
    has_names = names[first] == drawn.background and names[second] == drawn.colour
    return bool(has_names and counts[second] >= 0.02 * counts.sum())


def circle_iou(picture_HWC: npt.NDArray[np.uint8], drawn: Circle) -> float:
    """Intersection over union, 0..1, of the drawn circle and the disk inside the outline.

    The drawn circle is every pixel nearer in RGB to the named circle colour than to the named background.
    """
    pixels = picture_HWC.astype(np.int32)
    to_circle = ((pixels - np.array(PALETTE[drawn.colour])) ** 2).sum(axis=-1)
    to_background = ((pixels - np.array(PALETTE[drawn.background])) ** 2).sum(axis=-1)
    found, wanted = to_circle < to_background, disk_mask(drawn, picture_HWC.shape[0])
    return float((found & wanted).sum() / (found | wanted).sum())
