"""Image files to RGB: orientation, palettes, transparency, greyscale, 16 bits and floats, as a person would expect."""

import io
import math
import warnings
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import Image, UnidentifiedImageError

from everstep.plain_files import open_plain

MOST_PIXELS = 1 << 28  # 16,384 by 16,384: what decodes to gigabytes is no picture to train on
Image.MAX_IMAGE_PIXELS = MOST_PIXELS
# Once, here: catch_warnings in one thread leaves those of another ignored for ever, or loud.
warnings.filterwarnings("ignore", module=r"PIL\.")
WHITE, BLACK = (255, 255, 255), (0, 0, 0)
ORIENTATION = 0x0112
SIDEWAYS = 5  # from here on height and width change places
Size = tuple[int, int]  # width and height
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
# TIFF's smallest and largest value, of floats and of whole numbers.
SMALLEST_TAGS, LARGEST_TAGS = (340, 280), (341, 281)
# How other files begin that lie where a picture should, and what they are.
OTHERS = (
    (b"version https://git-lfs", "is a git-lfs pointer, not the picture itself; git lfs pull gets it"),
    (b"<!doctype html", "is a web page, not a picture: its download went wrong"),
    (b"<html", "is a web page, not a picture: its download went wrong"),
    (b"<svg", "is an SVG drawing, which has no pixels; save it as PNG"),
    (b"<?xml", "is an XML text, not a picture"),
    (b"{", "is a JSON text, not a picture: its download went wrong"),
    (b"\x93numpy", "is a numpy array; save it as PNG or TIFF"),
    (b"pk\x03\x04", "is an archive; unpack it"),
    (b"%pdf", "is a PDF; save its picture as PNG"),
)


def read_rgb(path: Path, paper: tuple[int, int, int]) -> Image.Image:
    """Decode a whole file; what is transparent shows `paper`. Raises: OSError, ValueError, SyntaxError from Pillow."""
    with open_plain(path) as file:
        return decode(file, paper)


def read_sized(path: Path, paper: tuple[int, int, int], at_least: Size | None) -> tuple[Image.Image, Size]:
    """As `decode`, with width and height that the picture has on the disk."""
    with open_plain(path) as file:
        return decode_sized(file, paper, at_least)


def decode(file: BinaryIO, paper: tuple[int, int, int]) -> Image.Image:
    """Decode an open file: of an animated one, the first picture. Raises: as `read_rgb`."""
    return decode_sized(file, paper, None)[0]


def decode_sized(file: BinaryIO, paper: tuple[int, int, int], at_least: Size | None) -> tuple[Image.Image, Size]:
    """The same, with the size that the picture has in the file.

    Args:
        at_least: what is cut out of it: a JPEG is decoded at the half, quarter or eighth of its size of which the
            largest part of this shape is no smaller. That is the mean of its pixels, in less than half the time.

    Raises: as `read_rgb`.
    """
    try:
        opened = Image.open(file)
    except UnidentifiedImageError:
        raise ValueError("Pillow knows no format that begins as it does") from None  # its own text shows an address
    except Image.DecompressionBombError:
        raise ValueError(f"it says that it has more than {MOST_PIXELS:,} pixels") from None
    with opened:
        if opened.width * opened.height > MOST_PIXELS:
            raise ValueError(f"it says that it has more than {MOST_PIXELS:,} pixels")
        size = opened.size if _orientation(opened) < SIDEWAYS else opened.size[::-1]
        if at_least is not None:
            _decode_smaller(opened, at_least)
        opened.load()
        turned = _turned(opened)
        if turned.mode.startswith("I") or turned.mode == "F":
            return _from_wide(turned, _range_told(opened)).convert("RGB"), size
        return to_rgb(turned, paper), size


def _decode_smaller(image: Image.Image, at_least: Size) -> None:
    """Has an effect on JPEGs alone, which hold the mean of 8x8 pixels and what differs from it."""
    if image.format not in ("JPEG", "MPO"):
        return
    width, height = at_least if _orientation(image) < SIDEWAYS else at_least[::-1]
    scale = max(width / image.width, height / image.height)
    if scale < 1:
        image.draft(image.mode, (math.ceil(image.width * scale), math.ceil(image.height * scale)))


def what_else(content: bytes) -> str | None:
    """What a file is that is no picture, where its beginning tells."""
    if not content:
        return "is empty"
    if not content.strip(b"\0"):
        return "holds nothing but zeros: a copy of it was cut short"
    head = content[:512].removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    if head[4:12] in (b"ftypheic", b"ftypheix", b"ftypmif1"):
        return "is HEIC, which is not read; save it as PNG or JPEG"
    return next((what for begin, what in OTHERS if head.startswith(begin)), None)


def to_rgb(image: Image.Image, paper: tuple[int, int, int]) -> Image.Image:
    """The same picture as 8-bit RGB."""
    if image.mode.startswith("I") or image.mode == "F":
        return _from_wide(image).convert("RGB")
    if image.mode in ("RGBA", "RGBa", "LA", "La", "PA") or "transparency" in image.info:
        cut = image.convert("RGBA")
        sheet = Image.new("RGB", cut.size, paper)
        sheet.paste(cut, mask=cut.getchannel("A"))
        return sheet
    return image.convert("RGB")


def decode_content(content: bytes, paper: tuple[int, int, int]) -> Image.Image:
    """As `read_rgb`, of a content that was read already."""
    return decode(io.BytesIO(content), paper)


def _turned(image: Image.Image) -> Image.Image:
    """As the camera was held; a picture whose EXIF is broken is taken as it lies."""
    turn = TURNS.get(_orientation(image))
    return image if turn is None else image.transpose(turn)


def _orientation(image: Image.Image) -> int:
    try:
        return int(image.getexif().get(ORIENTATION, 1))
    except Exception:  # whatever reading a broken table of tags leads to
        return 1


def _range_told(image: Image.Image) -> tuple[float, float] | None:
    """The smallest and largest value that a TIFF says its floats can have."""
    tags = getattr(image, "tag_v2", {})
    try:
        smallest, largest = (
            next((float(np.ravel(tags[tag])[0]) for tag in names if tag in tags), None)
            for names in (SMALLEST_TAGS, LARGEST_TAGS)
        )
    except (TypeError, ValueError, IndexError):
        return None
    if largest is None or not np.isfinite(largest) or largest <= (smallest or 0.0):
        return None
    return smallest or 0.0, largest


def _from_wide(image: Image.Image, told: tuple[float, float] | None = None) -> Image.Image:
    """16-bit values are scaled to 8 bits, others that fit into 8 bits are kept, and floats up to 1 are shares of white.

    Args:
        told: the range of floats that the file itself tells.
    """
    values = np.asarray(image, dtype=np.float64)
    finite = values[np.isfinite(values)]
    largest, smallest = float(finite.max(initial=0)), 0.0
    if image.mode != "F":
        white = 65535.0 if largest > 255 else 255.0
    elif told is not None:
        smallest, white = told
    else:
        white = 1.0 if largest <= 1 else 255.0 if largest <= 255 else 65535.0
    whole = np.nan_to_num(values, nan=smallest, posinf=white, neginf=smallest).clip(smallest, white)
    return Image.fromarray(((whole - smallest) * (255 / (white - smallest))).round().astype(np.uint8))
