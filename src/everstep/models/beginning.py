"""Looks at a ControlNet that a training is to start from, and at whether it fits the base, before anything starts.

Never imports torch, never reads weights.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from everstep.errors import UserError
from everstep.exchange.lllite import is_lllite, sizes_of
from everstep.models.base import BaseFolder
from everstep.models.brought import LLLITE_CLASS, class_of, elsewhere, is_controlnet, kind_of_folder, refuse_file
from everstep.models.configs import ControlNet, checked
from everstep.models.controls import LITE, lllite_shapes_of
from everstep.models.shapes import controlnet_shapes, smaller
from everstep.models.weights import find_weights, is_file, shapes_of, unlike
from everstep.places import as_word, spelled

# What base and ControlNet must have in common, for their blocks are added to each other.
COMMON = (
    *("in_channels", "block_out_channels", "down_block_types", "layers_per_block", "cross_attention_dim"),
    *("use_linear_projection", "transformer_layers_per_block"),
)


def controlnet_folder(spec: str) -> Path:
    """The folder that --from names. Raises: UserError saying what it is, if it is no ControlNet, and where one is."""
    path = spelled(spec).absolute()
    try:
        if path.is_dir():
            if is_controlnet(path):
                return path
            raise UserError(_no_controlnet(path))
        is_there = path.exists()
    except (OSError, ValueError) as error:
        raise UserError(f"--from {spec[:80]} cannot be looked at: {error}. Nothing was started.") from None
    if is_there:
        raise refuse_file(path, "a start is RUN@VERSION, a ControlNet's folder, or a file of weights")
    raise UserError(
        f"--from {spec} is not there: neither RUN@VERSION nor a folder with a ControlNet's config.json. "
        "Nothing was started."
    )


def _no_controlnet(path: Path) -> str:
    kind = kind_of_folder(path)
    if kind == "a run of Everstep":
        return f"--from {path} is {kind}; say which version. Nothing was started.\nIts newest: --from {path}@latest"
    if kind is None and is_file(path / "config.json"):
        kind = "a folder whose config.json cannot be read, or says not what it is (_class_name)"
    if kind is None or (kind != "a base" and class_of(path) is None):
        near = elsewhere(path, is_controlnet)
        told = f"--from {path} is {kind or 'a folder'}, not one with a ControlNet's config.json. Nothing was started."
        return f"{told}\nThe ControlNet is {near}" if near else told
    if kind == "a base":
        return f"--from {path} is a base, not a ControlNet. Nothing was started.\nA base goes to --base."
    return f"--from {path} is {kind}, not a ControlNet. Nothing was started."


def check_start(folder: Path, base: BaseFolder) -> None:
    """Raises: UserError with the file, the key and the names where it is not whole, or was made for another base."""
    if class_of(folder) == LLLITE_CLASS:
        return check_lllite(folder, base)
    config = checked(folder / "config.json", ControlNet)
    unet = base.config("unet")
    fitting = [{**unet, **smaller(unet, size)} for size in base.row.sizes if size != LITE]
    # Told of the whole ControlNet, unless it is one of the smaller ones.
    expected = next((like for like in fitting if not _differing(config, like)), fitting[0])
    for key in _differing(config, expected):
        raise UserError(
            f"--from {folder} was not made for {base.name}: {key} is {config.get(key)}, but the base has "
            f"{unet.get(key)}. Nothing was started."
        )
    _check_hint(folder, config, base)
    found = shapes_of(find_weights(folder))
    shapes = controlnet_shapes(config, config["conditioning_embedding_out_channels"])
    if found is None or shapes is None:
        return
    if said := unlike(shapes, found):
        raise UserError(f"--from {folder}: the weights are not what config.json describes: {said}. "
                        "Nothing was started.")  # fmt: skip


def check_lllite(folder: Path, base: BaseFolder) -> None:
    """The same of an LLLite: its widths are its own, its places the base's."""
    weights = find_weights(folder)
    if not weights.is_safetensors:
        raise UserError(f"--from {folder} is an LLLite whose weights are no .safetensors. Nothing was started.\n"
                        f"everstep import {as_word(folder)} --out FOLDER makes them so.")  # fmt: skip
    found = shapes_of(weights)
    if found is None or not is_lllite(found):
        raise UserError(f"--from {folder} holds no LLLite, though its config.json says so. Nothing was started.")
    if LITE not in base.row.sizes:
        raise UserError(f"--from {folder} is an LLLite, which are for SDXL; {base.name} is {base.row.title}. "
                        "Nothing was started.")  # fmt: skip
    expected = lllite_shapes_of(base, *sizes_of(found))
    if said := unlike(expected, found):
        raise UserError(f"--from {folder} was not made for {base.name}: {said}. Nothing was started.")


def _differing(config: Mapping[str, Any], like: Mapping[str, Any]) -> list[str]:
    """What base and ControlNet should have in common, and have not."""
    return [key for key in COMMON if _plain(config.get(key)) != _plain(like.get(key, config.get(key)))]


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _check_hint(folder: Path, config: Mapping[str, Any], base: BaseFolder) -> None:
    channels = config["conditioning_channels"]
    if channels != 3:
        raise UserError(f"--from {folder} takes conditions of {channels} channels (conditioning_channels); pictures "
                        "have 3. Nothing was started.")  # fmt: skip
    order = config["controlnet_conditioning_channel_order"]
    if order not in ("rgb", "bgr"):
        raise UserError(f"{folder / 'config.json'}: controlnet_conditioning_channel_order is {order!r:.60}; rgb and "
                        "bgr are known. Nothing was started.")  # fmt: skip
    made = 2 ** (len(config["conditioning_embedding_out_channels"]) - 1)
    if made != base.vae_factor():
        raise UserError(
            f"--from {folder} was not made for {base.name}: it makes conditions {made} times smaller "
            f"(conditioning_embedding_out_channels), but the base's VAE makes pictures {base.vae_factor()} times "
            "smaller. Nothing was started."
        )
