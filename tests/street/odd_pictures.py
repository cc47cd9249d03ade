"""Contents of files that are pictures in an odd way, or nearly are."""

import io
import zlib

import numpy as np
from PIL import Image


def encoded(image: Image.Image, format: str, **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, format, **options)
    return file.getvalue()


def outline() -> Image.Image:
    pixels = np.zeros((20, 20), dtype=np.uint8)
    pixels[5:15, 5:15] = 200
    return Image.fromarray(pixels)


def floats(highest: float, odd: float | None = None) -> bytes:
    values = np.asarray(outline(), dtype=np.float32) / 200 * highest
    if odd is not None:
        values[0, 0] = odd
    return encoded(Image.fromarray(values), "TIFF")


def bomb() -> bytes:
    """A picture of a few bytes that says it is 60,000 by 60,000."""
    small = bytearray(encoded(Image.new("1", (1, 1)), "PNG"))
    small[16:24] = (60_000).to_bytes(4, "big") * 2
    small[29:33] = zlib.crc32(small[12:29]).to_bytes(4, "big")
    return bytes(small)


def with_exif(exif: bytes) -> bytes:
    return encoded(outline().convert("RGB"), "JPEG", exif=exif)
