"""Whole bases in one file, in the names of Stable Diffusion's authors: made of small random ones."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from everstep.exchange import sd
from everstep.exchange.keys import Layout
from everstep.models.one_file import OneFile, open_one_file
from everstep.models.parts import plain_text
from everstep.models.unpacked import unpacked
from everstep.models.whole import SD1, SD2, SDXL, Whole

Tensors = dict[str, torch.Tensor]
SUFFIXES = (".safetensors", ".ckpt")
LAYOUTS: dict[str, dict[str, Layout]] = {
    "sd15": {"unet": sd.UNET, "vae": sd.VAE, "text_encoder": sd.CLIP},
    "sd21": {"unet": sd.UNET, "vae": sd.VAE, "text_encoder": sd.OPEN_CLIP},
    "sdxl": {
        "unet": sd.UNET,
        "vae": sd.VAE,
        "text_encoder": sd.CLIP_OF_XL,
        "text_encoder_2": sd.OPEN_CLIP_OF_XL,
    },
}
LIKE = {"sd15": SD1, "sd21": replace(SD2, sides={"epsilon": 16, "v_prediction": 24}), "sdxl": SDXL}


def weights_of(folder: Path) -> Tensors:
    """Of one network."""
    (path,) = folder.glob("*.safetensors")
    return load_file(path)


def plain(tensors: Tensors) -> Tensors:
    """A text encoder's, as models.parts names them."""
    kept = plain_text({name: tuple(tensor.shape) for name, tensor in tensors.items()}, projects=True)
    return {name.removeprefix("text_model."): tensor for name, tensor in tensors.items()
            if name.removeprefix("text_model.") in kept}  # fmt: skip


def tensors_of(folder: Path, **layouts: Layout) -> Tensors:
    """All of a base as its authors store it, with things in it that are no part of it."""
    held: Tensors = {"alphas_cumprod": torch.zeros(1000)}
    for part, layout in {**LAYOUTS[folder.name], **layouts}.items():
        tensors = weights_of(folder / part)
        ours = plain(tensors) if part.startswith("text_encoder") else tensors
        bijection = layout.expand({name: tuple(tensor.shape) for name, tensor in ours.items()})
        held |= bijection.forward(ours, torch.cat)
    return held | beside_text(folder.name, held)


def beside_text(kind: str, held: Tensors) -> Tensors:
    """What text encoders of such files hold that nobody needs."""
    if kind == "sd15":
        return {"cond_stage_model.transformer.text_model.embeddings.position_ids": torch.arange(16)[None]}
    if kind == "sdxl":
        return {"conditioner.embedders.1.model.logit_scale": torch.tensor(1.0)}
    first, last = "transformer.resblocks.0.", "transformer.resblocks.23."  # a layer that nobody hears
    unheard = {name.replace(first, last): tensor + 1 for name, tensor in held.items() if first in name}
    return {**unheard, "cond_stage_model.model.logit_scale": torch.tensor(1.0),
            "cond_stage_model.model.text_projection": torch.ones(16, 16)}  # fmt: skip


def one_file(
    folder: Path, path: Path, dtype: torch.dtype = torch.float16, says: dict[str, str] | None = None, **beside: Any
) -> Path:
    """The file, .safetensors or a checkpoint, and its tokenizer beside it.

    Args:
        says: its metadata.
        beside: more tensors.
    """
    held = {name: tensor.to(dtype) if tensor.is_floating_point() else tensor
            for name, tensor in tensors_of(folder).items()}  # fmt: skip
    write(path, {**held, **beside}, says)
    shutil.copytree(folder / "tokenizer", path.parent / "tokenizer", dirs_exist_ok=True)
    return path


def write(path: Path, held: Tensors, says: dict[str, str] | None = None) -> None:
    if path.suffix == ".safetensors":
        save_file({name: tensor.contiguous().clone() for name, tensor in held.items()}, path, says)
    else:
        torch.save({"state_dict": held, **(says or {})}, path)


def changed(path: Path, change: Callable[[Tensors], object], says: dict[str, str] | None = None) -> Path:
    held = load_file(path)
    change(held)
    write(path, held, says)
    return path


def small(folder: Path) -> tuple[Whole]:
    """What is known of this small base, as it is known of the true ones."""
    parts = {part: json.loads((folder / part / "config.json").read_text()) for part in LAYOUTS[folder.name]}
    return (replace(LIKE[folder.name], text_width=parts["unet"]["cross_attention_dim"], parts=parts),)


def opened(folder: Path, path: Path) -> OneFile:
    """A file that is a base like the one in the folder."""
    found = open_one_file(path, small(folder))
    assert found is not None
    return found


def unpack(folder: Path, path: Path) -> Path:
    return unpacked(opened(folder, path))
