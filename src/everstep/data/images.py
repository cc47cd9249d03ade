"""Image files to RGB: orientation, palettes, transparency, greyscale and 16 bits, each as a person would expect."""

import warnings
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

Image.MAX_IMAGE_PIXELS = 1 << 29
WHITE, BLACK = (255, 255, 255), (0, 0, 0)


def read_rgb(path: Path, paper: tuple[int, int, int]) -> Image.Image:
    """Decode a whole file; what is transparent shows `paper`. Raises: OSError, ValueError, SyntaxError from Pillow."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with Image.open(path) as opened:
            image = ImageOps.exif_transpose(opened)
            image.load()
    return to_rgb(image, paper)


def to_rgb(image: Image.Image, paper: tuple[int, int, int]) -> Image.Image:
    """The same picture as 8-bit RGB."""
    if image.mode.startswith("I") or image.mode == "F":
        return _from_wide(image).convert("RGB")
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        cut = image.convert("RGBA")
        sheet = Image.new("RGB", cut.size, paper)
        sheet.paste(cut, mask=cut.getchannel("A"))
        return sheet
    return image.convert("RGB")


def _from_wide(image: Image.Image) -> Image.Image:
    """16-bit values are scaled to 8 bits; others that fit into 8 bits are kept."""
    values = np.asarray(image, dtype=np.float64)
    largest = 65535 if values.max(initial=0) > 255 else 255
    return Image.fromarray((values.clip(0, largest) * (255 / largest)).round().astype(np.uint8))
