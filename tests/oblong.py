"""A small real folder of pairs of several shapes; what is in a picture tells where it was cropped."""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

# At 16 px in steps of 4: 20x12, 16x16, 12x20, 24x8, and one alone in 8x32.
SIZES = ((30, 20), (20, 20), (20, 30), (48, 20), (30, 18), (22, 20), (18, 30), (40, 16), (20, 24), (9, 40))
PAIRS = 30


def ramp(size: tuple[int, int], number: int) -> Image.Image:
    """Red says how far across, green how far down, blue which."""
    width, height = size
    pixels = np.zeros((height, width, 3), dtype=np.uint8)
    pixels[:, :, 0], pixels[:, :, 1] = 4 * np.arange(width), 4 * np.arange(height)[:, None]
    pixels[:, :, 2] = 7 * number
    return Image.fromarray(pixels)


def write_oblong(folder: Path, sizes: Sequence[tuple[int, int]] = SIZES, pairs: int = PAIRS) -> Path:
    """Pairs whose two pictures differ in blue alone; the sizes come again and again, the last of them once."""
    folder.mkdir()
    lines = []
    for number in range(pairs):
        size = sizes[-1] if number == pairs - 1 else sizes[number % max(1, len(sizes) - 1)]
        ramp(size, number).save(folder / f"{number}.png")
        ramp(size, number + 1).save(folder / f"{number}_condition.png")
        names = {"file_name": f"{number}.png", "conditioning_image": f"{number}_condition.png"}
        lines.append(json.dumps({**names, "text": f"picture {number}"}))
    (folder / "metadata.jsonl").write_text("\n".join(lines) + "\n")
    return folder
