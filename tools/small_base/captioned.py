"""Captioned pictures to make a base from."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from everstep.data.layouts import circles


class Captioned:
    """Numbered captioned images, all of the same side."""

    def __init__(self, source: str, resolution: int, pairs: int) -> None:
        self.resolution = resolution
        self._folder, self._lines = Path(source), []
        self._is_circles = source == "builtin:circles"
        if not self._is_circles:
            text = (self._folder / "metadata.jsonl").read_text(encoding="utf-8-sig")
            self._lines = [json.loads(line) for line in text.splitlines() if line.strip()]
        self.count = pairs if self._is_circles else len(self._lines)
        self._trained = circles.combinations()[circles.HELD_OUT_COUNT :]

    def caption(self, number: int) -> str:
        if self._is_circles:
            return circles.circle(number, self._trained).caption
        return str(self._lines[number]["text"])

    def image(self, number: int) -> np.ndarray[Any, Any]:
        if self._is_circles:
            return np.asarray(circles.target(circles.circle(number, self._trained), self.resolution))
        with Image.open(self._folder / self._lines[number]["file_name"]) as opened:
            side = (self.resolution, self.resolution)
            return np.asarray(ImageOps.fit(opened.convert("RGB"), side, Image.Resampling.LANCZOS))

    def pixels(self, numbers: Iterable[int]) -> Tensor:
        """float32 [B,3,H,W] in [-1,1]."""
        stacked = torch.from_numpy(np.stack([self.image(number) for number in numbers]))
        return stacked.permute(0, 3, 1, 2).float() / 127.5 - 1
