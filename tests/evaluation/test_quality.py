"""CLIP score and FID are what their definitions say, with models of the user's own, and name what is missing."""

import sys
from pathlib import Path

import networks
import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from everstep.errors import UserError
from everstep.evaluation.pictures.measures import Drawn
from everstep.evaluation.pictures.quality import open_quality

CPU = torch.device("cpu")
LONG = " ".join(["red circle with blue background"] * 20)


def pictures(count: int, seed: int = 0, highest: int = 255) -> list[np.ndarray]:
    return list(np.random.default_rng(seed).integers(0, highest, (count, 32, 32, 3)).astype(np.uint8))


def drawn(shown, captions, targets) -> Drawn:
    return Drawn(shown, shown, captions, range(len(shown)), targets)


def statistics(pixels: torch.Tensor) -> torch.Tensor:
    return torch.cat([pixels.mean(dim=(2, 3)), pixels.amax(dim=(2, 3))], dim=1)


def test_the_clip_score_is_the_cosine_of_picture_and_caption_also_of_a_long_one(tmp_path: Path):
    from transformers import CLIPModel, CLIPProcessor

    folder = networks.write_clip(tmp_path / "clip")
    (score,) = open_quality(str(folder), None, CPU)
    model, processor = CLIPModel.from_pretrained(folder).eval(), CLIPProcessor.from_pretrained(folder)
    shown, captions = pictures(10), ["red circle", LONG] * 5
    inputs = processor(images=shown, text=captions, return_tensors="pt", padding=True, truncation=True, max_length=16)
    with torch.no_grad():
        found = model(**inputs)
    cosines = torch.cosine_similarity(found.image_embeds, found.text_embeds).mean()
    assert score.name == "clip_score"
    assert cosines > 0.01
    assert score(drawn(shown, captions, shown)) == pytest.approx([max(100 * float(cosines), 0)], abs=1e-3)
    assert score(drawn(shown, captions, shown)) == score(drawn(shown, captions, shown))


def test_fid_is_the_distance_of_two_gaussians_and_nothing_for_equal_sets(tmp_path: Path):
    path = networks.export(tmp_path / "features.pt2", statistics)
    (score,) = open_quality(None, str(path), CPU)
    shown, targets = pictures(20, seed=1, highest=200), pictures(20, seed=2)
    features = [
        statistics(torch.from_numpy(np.stack(some)).permute(0, 3, 1, 2) / 255).double() for some in (shown, targets)
    ]
    (mean_a, cov_a), (mean_b, cov_b) = ((some.mean(0), torch.cov(some.T)) for some in features)
    root = torch.linalg.eigvals(cov_a @ cov_b).sqrt().real.sum()
    expected = ((mean_a - mean_b) ** 2).sum() + cov_a.trace() + cov_b.trace() - 2 * root
    assert score.name == "fid"
    assert score(drawn(shown, [""] * 20, targets)) == pytest.approx([float(expected)], rel=1e-3)
    assert score(drawn(targets, [""] * 20, targets)) == pytest.approx([0], abs=1e-5)


def test_nothing_asked_for_opens_nothing():
    assert open_quality(None, None, CPU) == []


def test_what_is_missing_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    with pytest.raises(UserError, match=r"scoring\.clip is gone, which does not exist"):
        open_quality("gone", None, CPU)
    with pytest.raises(
        UserError, match=r"scoring\.clip: .* is no CLIP model that transformers can read: its config\.json says dpt"
    ):
        open_quality(str(networks.write_dpt(tmp_path / "dpt")), None, CPU)
    clip = networks.write_clip(tmp_path / "clip")
    weights = load_file(clip / "model.safetensors")
    save_file({name: weights[name] for name in weights if "text" not in name}, clip / "model.safetensors")
    with pytest.raises(UserError, match=r"scoring\.clip: .* weights are missing, text_model\..* first"):
        open_quality(str(clip), None, CPU)
    maps = networks.export(tmp_path / "maps.pt2", networks.brightness)
    with pytest.raises(UserError, match=r"maps\.pt2 maps .* wanted is \[B,3,H,W\] to \[B,D\]"):
        open_quality(None, str(maps), CPU)
    monkeypatch.setitem(sys.modules, "torchmetrics", None)
    with pytest.raises(UserError, match=r"scoring\.fid is set, which needs torchmetrics.*everstep\[scores\]"):
        open_quality(None, str(maps), CPU)
