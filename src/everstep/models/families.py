"""Which family a base is of, told from its folders and configs: those that are trained, and others by their names.

Never imports torch.
"""

import re
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

from everstep.errors import UserError
from everstep.models.brought import class_of
from everstep.models.weights import read_json

# Beginnings of the class names of pipelines and networks; the first that fits decides.
NAMES = (
    ("StableDiffusionXLImg2Img", "a refiner, or an image-to-image pipeline, of Stable Diffusion XL"),
    ("StableDiffusionXLInpaint", "an inpainting base of Stable Diffusion XL"),
    ("StableDiffusionXLInstructPix2Pix", "a base of Stable Diffusion XL that edits pictures"),
    ("StableDiffusion3", "a base of Stable Diffusion 3"),
    ("SD3", "a base of Stable Diffusion 3"),
    ("StableDiffusionUpscale", "an upscaler of Stable Diffusion"),
    ("StableDiffusionLatentUpscale", "an upscaler of Stable Diffusion"),
    ("StableVideo", "a video base, Stable Video Diffusion"),
    ("UNetSpatioTemporal", "a video base, Stable Video Diffusion"),
    ("TextToVideo", "a video base"),
    ("UNet3D", "a video base"),
    ("UNetMotion", "a video base, AnimateDiff"),
    ("AnimateDiff", "a video base, AnimateDiff"),
    ("Wan", "a video base, Wan"),
    ("LTX", "a video base, LTX-Video"),
    ("CogVideo", "a video base, CogVideoX"),
    ("HunyuanVideo", "a video base, HunyuanVideo"),
    ("Mochi", "a video base, Mochi"),
    ("LatentConsistency", "a distilled base, a latent consistency model"),
    ("Flux2", "a base of Flux 2"),
    ("Flux", "a base of Flux"),
    ("ZImage", "a base of Z-Image"),
    ("Qwen", "a base of Qwen-Image"),
    ("PixArt", "a base of PixArt"),
    ("Sana", "a base of Sana"),
    ("HunyuanDiT", "a base of Hunyuan-DiT"),
    ("HunyuanImage", "a base of HunyuanImage"),
    ("Lumina", "a base of Lumina"),
    ("AuraFlow", "a base of AuraFlow"),
    ("Chroma", "a base of Chroma"),
    ("Kolors", "a base of Kolors"),
    ("Kandinsky", "a base of Kandinsky"),
    ("StableCascade", "a base of Stable Cascade"),
    ("Wuerstchen", "a base of Würstchen"),
    ("IF", "a base of DeepFloyd IF"),
    ("AltDiffusion", "a base of AltDiffusion"),
    ("Marigold", "a network that estimates depth or normals, Marigold"),
)
# A name's words, as dreamshaperXL_lightningDPMSDE has four of them; and those that tell.
WORD = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+")
DISTILLED = re.compile(r"(sd|sdxl|xl|lcm)?(turbo|lightning|lcm|dmd)|hypersd(xl)?")
SDXL_PIPELINES = ("StableDiffusionXLPipeline", "StableDiffusionXLControlNetPipeline")
DISTILLED_SCHEDULERS = ("LCMScheduler", "TCDScheduler")


def named(class_name: object) -> str | None:
    """The family that a class of diffusers belongs to, if it is not ours."""
    if not isinstance(class_name, str):
        return None
    return next((family for beginning, family in NAMES if class_name.startswith(beginning)), None)


def family_of_folder(folder: Path) -> str | None:
    """Told before anything else is looked at: by model_index.json, and by folders that only others have."""
    index = _peek(folder / "model_index.json")
    unet = _peek(folder / "unet/config.json")
    if family := named(index.get("_class_name")) or named(unet.get("_class_name")):
        return family
    has_second = (folder / "text_encoder_2").is_dir()
    if has_second and not (folder / "text_encoder").is_dir():
        return "a refiner of Stable Diffusion XL"
    is_sdxl = unet.get("addition_embed_type") == "text_time" or index.get("_class_name") in SDXL_PIPELINES
    if is_sdxl and not has_second:
        return "a base of Stable Diffusion XL without its second text encoder (text_encoder_2/)"
    for part in ("transformer", "prior", "decoder"):
        if (folder / part).is_dir() and not (folder / "unet").is_dir():
            name = class_of(folder / part)
            return (
                named(name) or f"a base of another family: it has {part}/{f' ({name[:80]})' if name else ''}, no unet/"
            )
    return _distilled(index, unet, _peek(folder / "scheduler/scheduler_config.json"))


def _distilled(index: Mapping[str, Any], unet: Mapping[str, Any], scheduler: Mapping[str, Any]) -> str | None:
    if unet.get("time_cond_proj_dim") is not None:
        return "a distilled base: its UNet is told the guidance (time_cond_proj_dim), as in latent consistency models"
    name = scheduler.get("_class_name")
    if name in DISTILLED_SCHEDULERS:
        return f"a distilled base: its scheduler is {name}"
    if unet and "mid_block_type" in unet and unet["mid_block_type"] is None:
        return "a distilled base: its UNet has no middle block"
    for source in (index, unet):
        if isinstance(origin := source.get("_name_or_path"), str) and distilled_name(origin):
            return f"a distilled base: it was made from {origin[:100]}"
    return None


def distilled_name(name: str) -> str | None:
    """Told by what the author called it, where no config tells."""
    words = [word.lower() for word in WORD.findall(name.rstrip("/").rsplit("/", 1)[-1])]
    joined = (before + word for before, word in pairwise(words))  # Hyper-SDXL
    found = next((word for word in (*words, *joined) if DISTILLED.fullmatch(word)), None)
    return None if found is None else f"a distilled base, by its name ({found}; if it is none, another name will do)"


def family_of_unet(unet: Mapping[str, Any], latent_channels: int, *, hears_sizes: bool = False) -> str | None:
    """Told by what a UNet takes beside noise, time and text, and, in SDXL, the whole text, sizes and crops."""
    surplus = int(unet["in_channels"]) - latent_channels
    if surplus == latent_channels + 1:
        return (
            f"an inpainting base: its UNet takes {unet['in_channels']} channels, latents with a mask and what it hides"
        )
    if surplus == latent_channels:
        return f"a base that edits pictures: its UNet takes {unet['in_channels']} channels, two pictures' latents"
    if surplus == latent_channels - 1:
        return f"an upscaler: its UNet takes {unet['in_channels']} channels, latents with a small picture"
    if surplus == 1:
        return f"a depth base: its UNet takes {unet['in_channels']} channels, latents with a depth map"
    for key in (
        "class_embed_type",
        "num_class_embeds",
        "addition_embed_type",
        "encoder_hid_dim_type",
        "encoder_hid_dim",
    ):
        if unet.get(key) is not None and not (hears_sizes and (key, unet[key]) == ("addition_embed_type", "text_time")):
            return (
                f"a base of another family: its UNet takes more than noise, time and text ({key} is {unet[key]!r:.60})"
            )
    return None


def _peek(path: Path) -> dict[str, Any]:
    """What a config says, if it is one; whether it is, others find out."""
    try:
        return read_json(path)
    except UserError:
        return {}
