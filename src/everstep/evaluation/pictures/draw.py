"""Pictures drawn by a ControlNet, always from the same held-out pairs and the same noise.

Draws with the networks already in memory. Knows nothing of runs or files.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from everstep.config.schema import Data, Sampling
from everstep.contracts import Counted, Float32Array, PairSource, Uint8Array
from everstep.data import fit
from everstep.models.sd import StableDiffusion
from everstep.models.tokens import as_taken

TOGETHER = 8  # pictures that are drawn at once: what memory has to hold


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
