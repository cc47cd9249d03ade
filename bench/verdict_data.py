"""Folders of pairs whose conditions tell much, little, nothing, or something of some pairs only: by rule, or real.

Everything about pair k of a kind is a function of k. Kinds:
    circles  the built-in pairs: an outline, and the filled circle
    emoji    line art and the emoji, from examples/emoji/pairs (its README tells how they are made)
    pose     a few thin coloured lines, as pose ControlNets are given, and a thin figure before a circle
    tile     the target, shrunk to a grid of 8 by 8 and enlarged again, as tile ControlNets are given
"""

import json
import math
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from everstep.data.layouts import circles

SIDE_PX, OVERSIZE, TILE_PX = 64, 4, 8
EMOJI = Path(__file__).parent.parent / "examples" / "emoji" / "pairs"
OWN_SHARE = 0.65  # of the pairs whose conditions help only in some
FIGURE_PX, LINE_PX = 1.5, 1.5
OPENPOSE = ((255, 0, 0), (255, 170, 0), (85, 255, 0), (0, 255, 170), (0, 85, 255), (170, 0, 255))
Made = tuple[Image.Image, Image.Image, str]  # target, condition, caption
Place = tuple[float, float]


def write_pairs(kind: str, relation: str, folder: Path, count: int) -> Path:
    """A folder in the metadata.jsonl layout; where it is there already, it is left.

    Args:
        relation: of conditions to targets. own; unrelated, all are other pairs'; partly, 65 % are their own.
    """
    if (folder / "metadata.jsonl").exists():
        return folder
    (folder / "target").mkdir(parents=True, exist_ok=True)
    (folder / "condition").mkdir(exist_ok=True)
    made = list(MAKERS[kind](count))
    lines = []
    for number, (target, _, caption) in enumerate(made):
        names = {"file_name": f"target/{number:05}.png", "conditioning_image": f"condition/{number:05}.png"}
        target.save(folder / names["file_name"])
        made[_lender(number, relation, len(made))][1].save(folder / names["conditioning_image"])
        lines.append(json.dumps({**names, "text": caption}))
    (folder / "metadata.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder


def _lender(number: int, relation: str, count: int) -> int:
    """Whose condition a pair gets."""
    is_own = relation == "own" or (relation == "partly" and _draws(number, 0x0117).random() < OWN_SHARE)
    return number if is_own else (number + count // 3) % count


def _draws(number: int, purpose: int) -> np.random.Generator:
    return np.random.Generator(np.random.Philox(key=[number, purpose]))


# --- kinds -------------------------------------------------------------------------------------------------


def _circles(count: int) -> Iterator[Made]:
    for number in range(count):
        drawn = circles.circle(number)
        yield *circles.pictures(drawn, SIDE_PX), drawn.caption


def _tiles(count: int) -> Iterator[Made]:
    for target, _, caption in _circles(count):
        small = target.resize((TILE_PX, TILE_PX), Image.Resampling.BOX)
        yield target, small.resize((SIDE_PX, SIDE_PX), Image.Resampling.BICUBIC), caption


def _emoji(count: int) -> Iterator[Made]:
    lines = (EMOJI / "metadata.jsonl").read_text(encoding="utf-8").splitlines()
    order = np.random.Generator(np.random.Philox(key=[0, 0xE30]))
    for place in order.permutation(len(lines))[:count]:
        facts = json.loads(lines[place])
        opened = (Image.open(EMOJI / facts[name]).convert("RGB") for name in ("file_name", "conditioning_image"))
        target, condition = opened
        yield target, condition, facts["text"]


def _poses(count: int) -> Iterator[Made]:
    for number in range(count):
        drawn = circles.circle(number)
        behind = circles.target(drawn, SIDE_PX)
        target = behind.resize((SIDE_PX * OVERSIZE,) * 2, Image.Resampling.BICUBIC)
        condition = Image.new("RGB", target.size)
        for (start, end), colour in zip(_limbs(_draws(number, 0x905E)), OPENPOSE, strict=True):
            _line(condition, start, end, colour, LINE_PX)
            _line(target, start, end, circles.PALETTE["black"], FIGURE_PX)
        small = [picture.resize((SIDE_PX, SIDE_PX), Image.Resampling.LANCZOS) for picture in (target, condition)]
        yield small[0], small[1], f"black figure, {drawn.caption}"


def _limbs(draws: np.random.Generator) -> list[tuple[Place, Place]]:
    """Neck and spine, two arms, two legs: ends in fractions of the side."""
    tall = draws.uniform(0.55, 0.8)
    neck = (draws.uniform(0.3, 0.7), draws.uniform(0.1, 0.95 - tall))

    def end(start: Place, degrees: float, length: float) -> Place:
        turned = math.radians(degrees + draws.uniform(-35, 35))
        return start[0] + tall * length * math.sin(turned), start[1] + tall * length * math.cos(turned)

    hip = end(neck, 0, 0.45)
    ends = [(neck, end(neck, 180, 0.2)), (neck, hip)]
    ends += [(neck, end(neck, side * 60, 0.4)) for side in (-1, 1)]
    return ends + [(hip, end(hip, side * 25, 0.5)) for side in (-1, 1)]


def _line(picture: Image.Image, start: Place, end: Place, colour: circles.Colour, width_px: float) -> None:
    side = picture.size[0]
    ends = [(x * side, y * side) for x, y in (start, end)]
    ImageDraw.Draw(picture).line(ends, colour, round(width_px * OVERSIZE))


MAKERS: dict[str, Callable[[int], Iterator[Made]]] = {
    "circles": _circles,
    "emoji": _emoji,
    "pose": _poses,
    "tile": _tiles,
}
