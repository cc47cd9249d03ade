"""How good a set of drawn pictures is, whatever its conditions: CLIP score, and FID or KID.

Each needs a model of the user's own by path; nothing is downloaded and nothing is unpickled.
"""

from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from everstep.contracts import Uint8Array
from everstep.errors import UserError
from everstep.evaluation.pictures.measures import (
    FEWEST_OF_A_SET,
    Drawn,
    Floats,
    Measure,
    Measured,
    mean_of,
    middle,
    resamples,
)
from everstep.models.exported import ExportedNetwork, pixels
from everstep.places import spelled

PART = 8  # pictures at a time


def open_quality(clip: str | None, fid: str | None, device: torch.device) -> list[Measure]:
    """Load what the scores need; None leaves one out.

    clip: a CLIP model, a folder in transformers layout. fid: a feature extractor, an exported program from [B,3,H,W],
    0..1, to [B,D]. Raises: UserError if torchmetrics or a model is missing.
    """
    if fid is not None and find_spec("torchmetrics") is None:
        raise UserError(
            "scoring.fid is set, which needs torchmetrics, not installed here. Nothing was started. "
            "pip install 'everstep[scores]'"
        )
    for key, path in (("scoring.clip", clip), ("scoring.fid", fid)):
        if path is not None and not spelled(path).exists():
            raise UserError(f"{key} is {path}, which does not exist. Nothing was started.")
    scores = []
    if clip is not None:
        scores.append(Measure("clip_score", mean_of(_open_clip(spelled(clip), device))))
    if fid is not None:
        scores.append(_open_fid(spelled(fid), device))
    return scores


class PictureFeatures(nn.Module):
    """A user's feature extractor as torchmetrics calls it."""

    def __init__(self, network: ExportedNetwork, count: int) -> None:
        super().__init__()
        self.num_features, self._network = count, network

    def forward(self, pixels_B3HW: Tensor) -> Tensor:
        return self._network(pixels_B3HW)


def _open_clip(path: Path, device: torch.device) -> Callable[[Drawn], list[float]]:
    """100 times the cosine between a picture's and its caption's features, at least 0. Source: Hessel et al. 2021."""
    model, processor = _load_clip(path)
    model.to(device).eval()
    # A long caption is cut before its last token, where CLIP reads it off.
    cut = {"padding": True, "truncation": True, "max_length": model.config.text_config.max_position_embeddings}

    @torch.no_grad()
    def each(drawn: Drawn) -> list[float]:
        found: list[float] = []
        for first in range(0, len(drawn.pictures), PART):
            some, captions = drawn.pictures[first : first + PART], drawn.captions[first : first + PART]
            inputs = processor(images=list(some), text=list(captions), return_tensors="pt", **cut).to(device)
            features = model(**inputs)
            cosines_B = torch.cosine_similarity(features.image_embeds, features.text_embeds)
            found += (100 * cosines_B).clamp(min=0).tolist()
        return found

    return each


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


def _open_fid(path: Path, device: torch.device) -> Measure:
    """FID, or KID where the pictures are too few for it.

    From no more pictures than features the covariance is singular, and FID mostly says how few they are.
    """
    network = ExportedNetwork(path, device, gives="[B,D]")
    if not isinstance(network.channels, int):
        raise UserError(f"scoring.fid: {path} gives features of no fixed number; wanted is [B,D] with one D.")
    features = PictureFeatures(network, network.channels)
    kid = Measure("kid", lambda drawn: _kid(features, drawn, device), FEWEST_OF_A_SET)
    fewest = max(FEWEST_OF_A_SET, network.channels + 1)
    return Measure("fid", lambda drawn: _fid(features, drawn, device), fewest, otherwise=kid)


@torch.no_grad()
def _fid(features: PictureFeatures, drawn: Drawn, device: torch.device) -> Measured:
    """Frechet distance between the features of drawn pictures and of targets, 0 for equal sets.

    It falls with the number of pictures for the same quality: compare values of the same number alone, and none with
    papers', which take thousands and the features of one certain Inception. A bootstrap would have more of that bias
    than of chance, so it has no interval.
    """
    from torchmetrics.image.fid import FrechetInceptionDistance

    distance = FrechetInceptionDistance(feature=features).to(device)
    for pictures, is_real in ((_targets(drawn), True), (drawn.pictures, False)):
        for first in range(0, len(pictures), PART):
            distance.update(pixels(pictures[first : first + PART], device), real=is_real)
    return Measured(float(distance.compute()))


def _kid(features: PictureFeatures, drawn: Drawn, device: torch.device) -> Measured:
    """Kernel distance between the features of drawn pictures and of targets, about 0 for equal quality, also below it.

        h(i, j) = k(x_i, x_j) + k(y_i, y_j) - k(x_i, y_j) - k(x_j, y_i),  k(a, b) = (a . b / D + 1)^3
        KID = mean of h over i != j

    Unbiased at any number, since no picture is compared with itself nor with its own target, on which it depends; all
    pictures are one subset. The interval is a bootstrap over pairs of picture and target.
    Source: Binkowski et al. 2018, the kernel; Gretton et al. 2012, equation 4.
    """
    drawn_ND, targets_ND = _features(features, drawn.pictures, device), _features(features, _targets(drawn), device)
    crossed_NN = _kernel(drawn_ND, targets_ND)
    h_NN = _kernel(drawn_ND, drawn_ND) + _kernel(targets_ND, targets_ND) - crossed_NN - crossed_NN.T
    np.fill_diagonal(h_NN, 0)
    count = len(h_NN)
    times_RN = resamples(count)
    of_pairs_R = (times_RN @ h_NN * times_RN).sum(axis=1)
    pairs_R = count**2 - (times_RN**2).sum(axis=1)  # what is drawn twice is not compared with itself either
    return Measured(float(h_NN.sum() / (count * (count - 1))), middle(of_pairs_R / pairs_R, count))


def _kernel(a_ND: Floats, b_ND: Floats) -> Floats:
    kernel_NN: Floats = (a_ND @ b_ND.T / a_ND.shape[1] + 1) ** 3
    return kernel_NN


@torch.no_grad()
def _features(features: PictureFeatures, pictures: Sequence[Uint8Array], device: torch.device) -> Floats:
    parts = [pixels(pictures[first : first + PART], device) for first in range(0, len(pictures), PART)]
    found: Floats = torch.cat([features(part_B3HW).double().cpu() for part_B3HW in parts]).numpy()
    return found


def _targets(drawn: Drawn) -> list[Uint8Array]:
    return [target for target in drawn.targets if target is not None]
