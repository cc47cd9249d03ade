"""How good a set of drawn pictures is, whatever its conditions: CLIP score and FID, through torchmetrics.

Each needs a model of the user's own by path; nothing is downloaded and nothing is unpickled.
"""

from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from everstep.errors import UserError
from everstep.evaluation.pictures.exported import ExportedNetwork, pixels
from everstep.evaluation.pictures.measures import Drawn, Measure
from everstep.places import spelled

PART = 8  # pictures at a time


def open_quality(clip: str | None, fid: str | None, device: torch.device) -> list[Measure]:
    """Load what the two scores need; None leaves one out.

    clip: a CLIP model, a folder in transformers layout. fid: a feature extractor, an exported program from [B,3,H,W],
    0..1, to [B,D]. Raises: UserError if torchmetrics or a model is missing.
    """
    paths = [("scoring.clip", clip), ("scoring.fid", fid)]
    for key, path in paths:
        if path is not None and find_spec("torchmetrics") is None:
            raise UserError(
                f"{key} is set, which needs torchmetrics, not installed here. Nothing was started. "
                "pip install 'everstep[scores]'"
            )
        if path is not None and not spelled(path).exists():
            raise UserError(f"{key} is {path}, which does not exist. Nothing was started.")
    scores = []
    if clip is not None:
        scores.append(Measure("clip_score", _open_clip(spelled(clip), device)))
    if fid is not None:
        scores.append(Measure("fid", _open_fid(spelled(fid), device)))
    return scores


class ClipFeatures(nn.Module):
    """torchmetrics takes what these return for the features themselves, as it was before transformers 5."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model, self.config = model, model.config

    def get_image_features(self, pixels_B3HW: Tensor) -> Any:
        return self.model.get_image_features(pixels_B3HW).pooler_output

    def get_text_features(self, tokens: Tensor, mask: Tensor) -> Any:
        return self.model.get_text_features(tokens, mask).pooler_output


class PictureFeatures(nn.Module):
    """A user's feature extractor as torchmetrics calls it."""

    def __init__(self, network: ExportedNetwork, count: int) -> None:
        super().__init__()
        self.num_features, self._network = count, network

    def forward(self, pixels_B3HW: Tensor) -> Tensor:
        return self._network(pixels_B3HW)


def _open_clip(path: Path, device: torch.device) -> Callable[[Drawn], list[float]]:
    """100 times the cosine between a picture's and its caption's features, at least 0, mean over the pictures."""
    from torchmetrics.multimodal.clip_score import CLIPScore

    model, processor = _load_clip(path)

    def process(**asked: Any) -> Any:
        # torchmetrics would cut a long caption behind its tokens, and with them the last, where CLIP reads it off.
        cut = {"truncation": True, "max_length": model.config.text_config.max_position_embeddings}
        return processor(**asked, **(cut if "text" in asked else {}))

    score = CLIPScore(model_name_or_path=lambda: (ClipFeatures(model).eval(), process)).to(device)

    @torch.no_grad()
    def take(drawn: Drawn) -> list[float]:
        score.reset()
        for first in range(0, len(drawn.pictures), PART):
            pixels_B3HW = pixels(drawn.pictures[first : first + PART], device)
            score.update(list(pixels_B3HW), list(drawn.captions[first : first + PART]))
        return [float(score.compute())]

    return take


def _load_clip(path: Path) -> tuple[Any, Any]:
    from transformers import AutoConfig, CLIPModel, CLIPProcessor

    import everstep.models.libraries  # noqa: F401

    try:
        kind = AutoConfig.from_pretrained(path, local_files_only=True).model_type
        if kind != "clip":  # CLIPModel would fill what is not there with random weights
            raise ValueError(f"its config.json says {kind}")
        model, loading = CLIPModel.from_pretrained(
            path, local_files_only=True, use_safetensors=True, dtype=torch.float32, output_loading_info=True
        )
        if loading["missing_keys"]:
            raise ValueError(f"weights are missing, {min(loading['missing_keys'])} first")
        processor = CLIPProcessor.from_pretrained(path, local_files_only=True)
    except Exception as error:
        first = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise UserError(f"scoring.clip: {path} is no CLIP model that transformers can read: {first}") from None

    return model, processor


def _open_fid(path: Path, device: torch.device) -> Callable[[Drawn], list[float]]:
    """Frechet distance between the features of drawn pictures and of targets, 0 for equal sets.

    It falls with the number of pictures for the same quality: compare values of the same number alone, and none with
    papers', which take thousands and the features of one certain Inception.
    """
    from torchmetrics.image.fid import FrechetInceptionDistance

    network = ExportedNetwork(path, device, gives="[B,D]")
    if not isinstance(network.channels, int):
        raise UserError(f"scoring.fid: {path} gives features of no fixed number; wanted is [B,D] with one D.")
    features = PictureFeatures(network, network.channels)

    @torch.no_grad()
    def take(drawn: Drawn) -> list[float]:
        targets = [target for target in drawn.targets if target is not None]
        distance = FrechetInceptionDistance(feature=features).to(device)
        for pictures, is_real in ((targets, True), (drawn.pictures, False)):
            for first in range(0, len(pictures), PART):
                distance.update(pixels(pictures[first : first + PART], device), real=is_real)
        return [float(distance.compute())]

    return take
