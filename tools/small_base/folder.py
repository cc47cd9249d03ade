"""The folder in diffusers layout, and the page that says what it is worth."""

import copy
import json
import shutil
import textwrap
from pathlib import Path
from typing import Any

import numpy as np
import torch

from everstep.data.layouts import circles
from small_base.diffusion import make_scheduler
from small_base.recipe import CAPTION_DROPOUT, Recipe


def write_base(folder: Path, vae: Any, tokenizer: Path, text_encoder: Any, unet: Any) -> None:
    """Write all parts beside, in half precision, then put them in place."""
    beside = folder.with_name(folder.name + ".new")
    shutil.rmtree(beside, ignore_errors=True)
    for name, part in {"vae": vae, "unet": unet}.items():
        copy.deepcopy(part).half().save_pretrained(beside / name)
    text_encoder.save_pretrained(beside / "text_encoder")  # float32: transformers loads what is on disk as it is
    make_scheduler().save_pretrained(beside / "scheduler")
    shutil.copytree(tokenizer, beside / "tokenizer")
    index = {
        "_class_name": "StableDiffusionPipeline",
        "feature_extractor": [None, None],
        "safety_checker": [None, None],
        "scheduler": ["diffusers", "DDIMScheduler"],
        "text_encoder": ["transformers", "CLIPTextModel"],
        "tokenizer": ["transformers", "CLIPTokenizer"],
        "unet": ["diffusers", "UNet2DConditionModel"],
        "vae": ["diffusers", "AutoencoderTiny"],
    }
    (beside / "model_index.json").write_text(json.dumps(index, indent=2) + "\n")
    shutil.rmtree(folder, ignore_errors=True)
    beside.rename(folder)


GUIDANCE, SAMPLER_STEPS, SCORED = 3.0, 20, 100


def model_card(source: str, folder: Path, recipe: Recipe, sizes: list[int]) -> str:
    """What the base is and what was measured of it, as Markdown."""
    measured = score_circles(folder, recipe) if source == "builtin:circles" else "Not measured."
    return f"""# A small text-to-image base

Made by `tools/make_base.py {source}`, which wrote this page too. In the folder layout of diffusers: AutoencoderTiny
(factor 4, {sizes[2]:,} parameters), CLIPTextModel ({sizes[1]:,}) with a byte-level BPE tokenizer made from
the captions, UNet2DConditionModel ({sizes[0]:,}; channels {list(recipe.channels)}, {recipe.layers} layer a block),
v-prediction on a linear schedule. VAE and UNet are stored in half precision.

| | |
| --- | --- |
| resolution | {recipe.resolution} px, latents 4x{recipe.resolution // 4}x{recipe.resolution // 4} |
| data | {source}, {recipe.pairs:,} pictures |
| VAE | {recipe.vae_steps:,} steps of {recipe.vae_batch}, decoder {recipe.decoder_steps:,} more |
| text encoder, UNet | {recipe.unet_steps:,} steps of {recipe.unet_batch}, AdamW {recipe.unet_rate:g}, EMA 0.999 |
| prompt dropout | {CAPTION_DROPOUT:.0%} |

## Measured

{measured}
"""


@torch.no_grad()
def score_circles(folder: Path, recipe: Recipe) -> str:
    """Named colours in samples of captions that were never trained on, and what the VAE keeps of a circle."""
    from diffusers import StableDiffusionPipeline, UniPCMultistepScheduler

    pipeline = StableDiffusionPipeline.from_pretrained(folder, dtype=torch.float32, safety_checker=None)
    pipeline.scheduler = UniPCMultistepScheduler.from_config(pipeline.scheduler.config)
    pipeline.set_progress_bar_config(disable=True)
    asked = [circles.circle(number, circles.held_out_combinations()) for number in range(SCORED)]
    right = 0
    for first in range(0, SCORED, 20):
        some = asked[first : first + 20]
        drawn = pipeline(
            [circle.caption for circle in some],
            num_inference_steps=SAMPLER_STEPS,
            guidance_scale=GUIDANCE,
            generator=[torch.Generator().manual_seed(first + i) for i in range(len(some))],
            output_type="np",
        ).images
        pixels = (drawn * 255).round().astype(np.uint8)
        right += sum(circles.shows_named_colours(p, c) for p, c in zip(pixels, some, strict=True))
    kept = np.mean([kept_iou(pipeline.vae, circle, recipe.resolution) for circle in asked])
    paragraphs = (
        f"{right} of {SCORED} samples without any control show the two named colours in their roles "
        f"(`everstep.data.layouts.circles.shows_named_colours`), for captions whose combination of colours was never "
        f"trained on; UniPC, {SAMPLER_STEPS} steps, guidance {GUIDANCE:g}.",
        f"Encoded and decoded, a circle keeps an intersection over union of {kept:.3f} with itself (mean of {SCORED}).",
    )
    return "\n\n".join(textwrap.fill(paragraph, 120) for paragraph in paragraphs)


def kept_iou(vae: Any, circle: circles.Circle, resolution: int) -> float:
    """How much of a circle survives the VAE."""
    pixels = torch.from_numpy(np.array(circles.target(circle, resolution))).permute(2, 0, 1)[None].float() / 127.5 - 1
    drawn = vae.decode(vae.encode(pixels).latents).sample[0].permute(1, 2, 0)
    return circles.circle_iou(((drawn.clamp(-1, 1) + 1) * 127.5).round().byte().numpy(), circle)
