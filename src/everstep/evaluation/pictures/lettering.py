"""Words on pictures: a packaged font of many scripts, and for letters that it has not, their numbers.

DejaVu Sans Condensed (fonts/, with its licence) knows Latin, Greek, Cyrillic, Arabic, Hebrew, Armenian, Georgian, Lao
and thousands of signs. What needs tens of thousands of letters, as Chinese does, would weigh more than all else here.
"""

import textwrap
import unicodedata
from functools import cache
from importlib.resources import files
from typing import Any

from PIL import ImageFont

from everstep.letters import whole_letters

FILE = "DejaVuSansCondensed.ttf"


@cache
def font(size_px: int) -> Any:
    """The font that words are drawn with; Arabic and Hebrew run from right to left where Pillow has libraqm."""
    path = str(files("everstep.evaluation.pictures") / "fonts" / FILE)
    return ImageFont.truetype(path, size_px)


def drawable(text: str) -> str:
    """The text in letters that the font has; each other one as its number, [732B]."""
    composed = unicodedata.normalize("NFC", " ".join(whole_letters(text).split()))
    return "".join(letter if _is_known(letter) else _told(letter) for letter in composed)


def wrapped(text: str, width_px: int, size_px: int, lines: int) -> str:
    """The text in at most so many lines of a width, cut with an ellipsis."""
    shown = drawable(text)
    letter_px = max(1.0, font(size_px).getlength(shown) / max(1, len(shown)))
    most = max(1, int(width_px / letter_px))
    return "\n".join(textwrap.wrap(shown, most, max_lines=lines, placeholder=" \N{HORIZONTAL ELLIPSIS}"))


def _told(letter: str) -> str:
    """What joins or marks other letters and cannot be seen itself is left out."""
    return "" if unicodedata.category(letter) in ("Cf", "Mn", "Me") else f"[{ord(letter):04X}]"


@cache
def _is_known(letter: str) -> bool:
    """Whether the font has a shape for it, other than the box that stands for all it has not."""
    if letter == " ":
        return True
    shape = font(32).getmask(letter)
    unknown = font(32).getmask("\U0010ffff")
    return bool(letter.isprintable() and (shape.size != unknown.size or bytes(shape) != bytes(unknown)))
