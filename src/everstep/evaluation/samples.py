"""Pictures drawn by a ControlNet, always from the same held-out pairs and the same noise, and their contact sheet.

Draws with the networks already in memory. Knows nothing of runs or files.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageDraw

from everstep.config.schema import Data, Sampling
from everstep.contracts import Counted, Float32Array, PairSource, Uint8Array
from everstep.data import fit
from everstep.evaluation.lettering import drawable, font, wrapped
from everstep.models.sd import StableDiffusion
from everstep.models.tokens import as_taken

CELL_PX, GAP_PX, LABEL_PX, TITLE_PX, CAPTION_PX = 144, 6, 78, 26, 40
TOGETHER = 8  # pictures that are drawn at once: what memory has to hold
CAPTION_FONT_PX = 11
PAPER, INK = (250, 250, 248), (40, 40, 44)


@dataclass(frozen=True, slots=True)
class Shown:
    """What a picture is drawn from, [H,W,3] uint8 each, and what it should look like where that is known."""

    condition_HWC: Uint8Array
    caption: str
    target_HWC: Uint8Array | None = None


def draw(family: StableDiffusion, controlnet: Any, shown: Sequence[Shown], settings: Sampling) -> list[Uint8Array]:
    """Draw one picture for each. The noise of picture i depends on the seed and i alone.

    Shapes: conditions [H,W,3] uint8 -> pictures [H,W,3] uint8.
    """
    return [rounded(picture) for picture in paint(family, controlnet, shown, settings)]


def rounded(picture_HWC: Float32Array) -> Uint8Array:
    """0..1 -> 0..255; what is no number becomes black."""
    return (np.nan_to_num(picture_HWC, nan=0.0) * 255).round().astype(np.uint8)


def paint(
    family: StableDiffusion,
    controlnet: Any,
    shown: Sequence[Shown],
    settings: Sampling,
    said: Counted = lambda done, total: None,
) -> list[Float32Array]:
    """As `draw`, before rounding: [H,W,3] float32 0..1, or what came out instead.

    Args:
        said: told of denoising steps.
    """
    painted: list[Float32Array] = []
    steps = settings.steps * math.ceil(len(shown) / TOGETHER)
    for place, first in enumerate(range(0, len(shown), TOGETHER)):

        def told(pipeline: Any, step: int, timestep: Any, tensors: Any, before: int = place * settings.steps) -> Any:
            said(before + step + 1, steps)
            return tensors

        some = shown[first : first + TOGETHER]
        painted += _painted(family, controlnet, some, settings, settings.seed + first, told)
    return painted


@torch.no_grad()
def _painted(
    family: StableDiffusion,
    controlnet: Any,
    shown: Sequence[Shown],
    settings: Sampling,
    seed: int,
    told: Callable[..., Any],
) -> list[Float32Array]:
    pipeline = family.pipeline(controlnet, settings.scheduler)
    conditions_B3HW = family.conditions(np.stack([item.condition_HWC for item in shown]))
    was_training = controlnet.training
    controlnet.eval()
    try:
        with family.arithmetic.autocast():
            drawn = pipeline(
                prompt=[as_taken(family.tokenizer, item.caption) for item in shown],
                image=conditions_B3HW,
                num_inference_steps=settings.steps,
                guidance_scale=settings.guidance_scale,
                controlnet_conditioning_scale=settings.condition_scale,
                generator=[torch.Generator().manual_seed(seed + i) for i in range(len(shown))],
                output_type="np",
                callback_on_step_end=told,
            ).images
    finally:
        controlnet.train(was_training)
    return list(drawn)


def shown_pairs(source: PairSource, numbers: Sequence[int], data: Data) -> list[Shown]:
    """Pairs to draw from, cropped as they are for training. Raises: UserError naming a file that cannot be read."""
    found = []
    for number in numbers:
        pair = source.load(number)
        target_HWC, condition_HWC = fit(pair, data.resolution or 0, condition_resize=data.condition_resize)
        found.append(Shown(condition_HWC, pair.caption, target_HWC))
    return found


def contact_sheet(title: str, shown: Sequence[Shown], drawn: Sequence[Uint8Array]) -> Image.Image:
    """One column for each pair, captions above: condition, sample, target."""
    return sheet(title, shown, {"sample": drawn})


def sheet(
    title: str, shown: Sequence[Shown], drawn: Mapping[str, Sequence[Uint8Array]], cell_px: int = CELL_PX
) -> Image.Image:
    """One column for each pair, captions above; a row for the condition, for each of `drawn`, and for the target."""
    rows: dict[str, Sequence[Uint8Array | None]] = {
        "condition": [item.condition_HWC for item in shown],
        **drawn,
        "target": [item.target_HWC for item in shown],
    }
    title = drawable(title)
    label_font, title_font = font(13), font(15)
    label_px = max(LABEL_PX, *(_width(name, label_font) + 3 * GAP_PX for name in rows))
    first_row = TITLE_PX + CAPTION_PX
    width = max(label_px + len(shown) * (cell_px + GAP_PX), _width(title, title_font) + 2 * GAP_PX)
    page = Image.new("RGB", (width, first_row + len(rows) * (cell_px + GAP_PX)), PAPER)
    pen = ImageDraw.Draw(page)
    pen.text((GAP_PX, 5), title, INK, title_font)
    for column, item in enumerate(shown):
        caption = wrapped(item.caption, cell_px, CAPTION_FONT_PX, 3)
        place = (label_px + column * (cell_px + GAP_PX), TITLE_PX)
        pen.multiline_text(place, caption, INK, font(CAPTION_FONT_PX), spacing=1)
    for row, (name, pictures) in enumerate(rows.items()):
        top = first_row + row * (cell_px + GAP_PX)
        pen.multiline_text((GAP_PX, top + cell_px // 2 - 8 - 7 * name.count("\n")), name, INK, label_font)
        for column, pixels in enumerate(pictures):
            if pixels is not None:
                page.paste(_cell(pixels, cell_px), (label_px + column * (cell_px + GAP_PX), top))
    return page


def _width(text: str, font: Any) -> int:
    """Of the longest line, in pixels."""
    return max(round(float(font.getlength(line))) for line in text.split("\n"))


def _cell(pixels_HWC: Uint8Array, cell_px: int) -> Image.Image:
    """Small pictures are enlarged with hard pixels: what is seen is what was drawn."""
    picture = Image.fromarray(pixels_HWC)
    filter_ = Image.Resampling.NEAREST if picture.width < cell_px else Image.Resampling.LANCZOS
    return picture.resize((cell_px, cell_px), filter_)
