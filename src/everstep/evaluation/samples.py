"""Pictures drawn by a ControlNet, always from the same held-out pairs and the same noise, and their contact sheet.

Draws with the networks already in memory. Knows nothing of runs or files.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont

from everstep.config.schema import Sampling
from everstep.contracts import Uint8Array
from everstep.models.sd import StableDiffusion

CELL_PX, GAP_PX, LABEL_PX, TITLE_PX = 144, 6, 78, 26
PAPER, INK = (250, 250, 248), (40, 40, 44)


@dataclass(frozen=True, slots=True)
class Shown:
    """What a picture is drawn from, [H,W,3] uint8 each, and what it should look like where that is known."""

    condition_HWC: Uint8Array
    caption: str
    target_HWC: Uint8Array | None = None


@torch.no_grad()
def draw(family: StableDiffusion, controlnet: Any, shown: Sequence[Shown], settings: Sampling) -> list[Uint8Array]:
    """Draw one picture for each. The noise of picture i depends on the seed and i alone.

    Shapes: conditions [H,W,3] uint8 -> pictures [H,W,3] uint8.
    """
    pipeline = family.pipeline(controlnet, settings.scheduler)
    conditions_B3HW = family.conditions(np.stack([item.condition_HWC for item in shown]))
    was_training = controlnet.training
    controlnet.eval()
    try:
        with family.arithmetic.autocast():
            drawn = pipeline(
                prompt=[item.caption for item in shown],
                image=conditions_B3HW,
                num_inference_steps=settings.steps,
                guidance_scale=settings.guidance_scale,
                controlnet_conditioning_scale=settings.condition_scale,
                generator=[torch.Generator().manual_seed(settings.seed + i) for i in range(len(shown))],
                output_type="np",
            ).images
    finally:
        controlnet.train(was_training)
    return [(picture * 255).round().astype(np.uint8) for picture in drawn]


def contact_sheet(title: str, shown: Sequence[Shown], drawn: Sequence[Uint8Array]) -> Image.Image:
    """One column for each pair, captions above: condition, sample, target."""
    caption_px = 40
    width = LABEL_PX + len(shown) * (CELL_PX + GAP_PX)
    rows = ("condition", "sample", "target")
    sheet = Image.new("RGB", (width, TITLE_PX + caption_px + len(rows) * (CELL_PX + GAP_PX)), PAPER)
    pen = ImageDraw.Draw(sheet)
    pen.text((GAP_PX, 5), title, INK, ImageFont.load_default(15))
    for row, name in enumerate(rows):
        top = TITLE_PX + caption_px + row * (CELL_PX + GAP_PX)
        pen.text((GAP_PX, top + CELL_PX // 2 - 8), name, INK, ImageFont.load_default(13))
    for column, (item, picture) in enumerate(zip(shown, drawn, strict=True)):
        left = LABEL_PX + column * (CELL_PX + GAP_PX)
        pen.multiline_text((left, TITLE_PX), _wrapped(item.caption), INK, ImageFont.load_default(11), spacing=1)
        for row, pixels in enumerate((item.condition_HWC, picture, item.target_HWC)):
            if pixels is not None:
                sheet.paste(_cell(pixels), (left, TITLE_PX + caption_px + row * (CELL_PX + GAP_PX)))
    return sheet


def _cell(pixels_HWC: Uint8Array) -> Image.Image:
    """Small pictures are enlarged with hard pixels: what is seen is what was drawn."""
    picture = Image.fromarray(pixels_HWC)
    filter_ = Image.Resampling.NEAREST if picture.width < CELL_PX else Image.Resampling.LANCZOS
    return picture.resize((CELL_PX, CELL_PX), filter_)


def _wrapped(caption: str, characters: int = 24, lines: int = 3) -> str:
    import textwrap

    return "\n".join(textwrap.wrap(caption, characters, max_lines=lines, placeholder=" …"))
