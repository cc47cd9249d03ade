"""Folders of pairs that are old enough for what is found of them to be remembered."""

import json
import shutil
import time
from pathlib import Path

import numpy as np
from PIL import Image

from everstep.data.remembered import FRESH_NS

PAIRS = 12


def picture(seed: int, side: int = 24) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (side, side, 3), dtype=np.uint8))


def write_pairs(folder: Path, pairs: int, side: int = 24, kinds: int = 1000) -> Path:
    folder.mkdir()
    lines = []
    for number in range(pairs):
        for seed, name in ((number % kinds, f"{number}.png"), (1000 + number % kinds, f"{number}_lines.png")):
            same = folder / f"{number % kinds}{name.removeprefix(str(number))}"
            if number < kinds:
                picture(seed, side).save(folder / name)
            else:
                shutil.copyfile(same, folder / name)
        names = {"file_name": f"{number}.png", "conditioning_image": f"{number}_lines.png"}
        lines.append(json.dumps({**names, "text": f"number {number}"}))
    (folder / "metadata.jsonl").write_text("\n".join(lines) + "\n")
    return folder


def grow_old() -> None:
    """Until what was just written may be remembered."""
    time.sleep(FRESH_NS / 1e9 + 0.1)
