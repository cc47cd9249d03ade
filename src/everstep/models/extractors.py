"""Conditions taken from pictures again: OpenCV's Canny, and models of the user's own by path.

A model is a folder in transformers layout (depth, segmentation; safetensors alone) or an exported program. Nothing is
downloaded and nothing is unpickled. Extractors run in fp32 on the device of the training.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from everstep.contracts import Uint8Array
from everstep.data.conditions import canny_edges
from everstep.errors import UserError
from everstep.models.exported import EXPORT, ExportedNetwork, pixels
from everstep.places import spelled

Kind = Literal["lineart", "softedge", "depth", "segmentation"]
Extract = Callable[[Sequence[Uint8Array]], Tensor]
PART = 4  # pictures at a time: class logits of a large picture are large


def canny(pictures: Sequence[Uint8Array]) -> Tensor:
    """Shapes: B pictures [H,W,3] uint8 -> [B,H,W] bool, edges."""
    return torch.from_numpy(np.stack([canny_edges(picture) for picture in pictures]) > 0)


def open_extractor(kind: Kind, path: str, device: torch.device, setting: str = "scoring.extractor") -> Extract:
    """Load the model at `path`, which a setting names.

    Shapes: B pictures [H,W,3] uint8 -> [B,1,H,W] float32, or for segmentation [B,H,W] int64, on the device.
    Raises: UserError if it is missing or is no such model.
    """
    place = spelled(path)
    if not place.exists():
        raise UserError(f"{setting} is {path}, which does not exist. Nothing was started.")
    if place.is_dir():
        return _in_parts(_from_folder(kind, place, device, setting))
    if place.suffix != ".pt2":
        raise UserError(
            f"{setting} is {path}; it must be a folder in transformers layout or an exported program (.pt2). "
            f"Pickled files (.pth, .ckpt, .bin) are never loaded. {EXPORT}."
        )
    return _in_parts(_from_program(kind, place, device))


def _in_parts(extract: Extract) -> Extract:
    @torch.no_grad()
    def all_of(pictures: Sequence[Uint8Array]) -> Tensor:
        return torch.cat([extract(pictures[first : first + PART]) for first in range(0, len(pictures), PART)])

    return all_of


def _from_program(kind: Kind, path: Path, device: torch.device) -> Extract:
    network = ExportedNetwork(path, device)
    if kind == "segmentation":
        if network.channels == 1:
            raise UserError(f"{path} gives one channel; segmentation needs the logits of each class, [B,K,H,W].")
        return lambda pictures: network.maps(pixels(pictures, device)).argmax(dim=1)
    if network.channels != 1:
        raise UserError(f"{path} gives {network.channels} channels; {kind} needs one map, [B,1,H,W].")
    return lambda pictures: network.maps(pixels(pictures, device))


def _from_folder(kind: Kind, path: Path, device: torch.device, setting: str) -> Extract:
    if kind not in ("depth", "segmentation"):
        raise UserError(
            f"{setting} is the folder {path}, but transformers has no models for {kind}: "
            f"it must be an exported program (.pt2). {EXPORT}."
        )
    model, processor = _load_folder(kind, path, setting)
    model.to(device).eval()
    after = "post_process_depth_estimation" if kind == "depth" else "post_process_semantic_segmentation"
    if not hasattr(processor, after):
        raise UserError(f"{path}: its image processor, {type(processor).__name__}, is not one for {kind}.")

    def extract(pictures: Sequence[Uint8Array]) -> Tensor:
        inputs = processor(images=list(pictures), return_tensors="pt").to(device)
        sizes = [picture.shape[:2] for picture in pictures]
        maps = getattr(processor, after)(model(**inputs), target_sizes=sizes)
        return torch.stack([map_["predicted_depth"][None].float() if kind == "depth" else map_ for map_ in maps])

    return extract


def _load_folder(kind: Kind, path: Path, setting: str) -> tuple[Any, Any]:
    from transformers import AutoImageProcessor, AutoModelForDepthEstimation, AutoModelForSemanticSegmentation

    import everstep.models.libraries  # noqa: F401

    model_class = AutoModelForDepthEstimation if kind == "depth" else AutoModelForSemanticSegmentation
    try:
        model, loading = model_class.from_pretrained(
            path, local_files_only=True, use_safetensors=True, dtype=torch.float32, output_loading_info=True
        )
        processor = AutoImageProcessor.from_pretrained(path, local_files_only=True)
    except Exception as error:  # each model of transformers fails in words of its own
        first = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise UserError(f"{setting}: {path} is no model for {kind} that transformers can read: {first}") from None
    if loading["missing_keys"]:
        first = min(loading["missing_keys"])
        raise UserError(f"{setting}: {path} lacks weights for {kind} (first: {first}). Nothing was started.")
    return model, processor
