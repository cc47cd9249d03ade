"""CLIP score, FID and KID are what their definitions say, with models of the user's own, and name what is missing."""

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
    cosines = torch.cosine_similarity(found.image_embeds, found.text_embeds).numpy()
    assert score.name == "clip_score"
    assert cosines.max() > 0.01
    measured = score.take(drawn(shown, captions, shown))
    assert measured.each == pytest.approx(100 * cosines.clip(0), abs=1e-3)
    assert measured.value == pytest.approx(100 * cosines.clip(0).mean(), abs=1e-3)
    assert measured.interval[0] < measured.value < measured.interval[1]
    assert score.take(drawn(shown, captions, shown)) == measured


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
    assert score.take(drawn(shown, [""] * 20, targets)).value == pytest.approx(float(expected), rel=1e-3)
    assert score.take(drawn(targets, [""] * 20, targets)).value == pytest.approx(0, abs=1e-5)


def many(pixels: torch.Tensor) -> torch.Tensor:
    """48 features."""
    return torch.nn.functional.adaptive_avg_pool2d(pixels, 4).flatten(1)


@pytest.fixture(scope="module")
def fid(tmp_path_factory: pytest.TempPathFactory):
    """Of 48 features: from 49 pictures on."""
    (score,) = open_quality(None, str(networks.export(tmp_path_factory.mktemp("fid") / "many.pt2", many)), CPU)
    return score


def test_fid_is_measured_from_more_pictures_than_features_kid_below_and_nothing_below_that(fid):
    assert [fid.fitting(count).name for count in (16, 48, 49)] == ["kid", "kid", "fid"]
    assert fid.fitting(49).take(drawn(pictures(49), [""] * 49, pictures(49, 1))).interval is None
    with pytest.raises(UserError, match="kid needs 16 drawn pictures, not 15"):
        fid.fitting(15)


@pytest.mark.filterwarnings("ignore:Metric `Kernel Inception Distance`")
def test_kid_is_the_one_of_torchmetrics_but_for_a_picture_and_its_own_target(fid):
    """Its mean over all ways to turn the targets round compares every picture with every target, as theirs does."""
    from torchmetrics.image.kid import KernelInceptionDistance

    shown, targets = pictures(16, seed=1, highest=200), pictures(16, seed=2)
    theirs = KernelInceptionDistance(feature=Features(), subsets=1, subset_size=16)
    for some, is_real in ((targets, True), (shown, False)):
        theirs.update(torch.from_numpy(np.stack(some)).permute(0, 3, 1, 2), real=is_real)
    turned = [targets[by:] + targets[:by] for by in range(16)]
    mine = [fid.fitting(16).take(drawn(shown, [""] * 16, some)).value for some in turned]
    assert np.mean(mine) == pytest.approx(float(theirs.compute()[0]), rel=1e-4)
    assert np.std(mine) > 0


class Features(torch.nn.Module):
    num_features = 48

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        return many(pixels / 255)


def test_kid_is_nothing_for_equal_sets_about_nothing_for_equal_quality_and_the_same_at_any_number(fid):
    kid = fid.fitting(16)
    same = kid.take(drawn(pictures(20), [""] * 20, pictures(20)))
    assert same.value == pytest.approx(0, abs=1e-9)
    assert same.interval == pytest.approx((0, 0), abs=1e-9)
    draws = [kid.take(drawn(pictures(16, seed), [""] * 16, pictures(16, 1000 + seed))) for seed in range(60)]
    values = np.array([measured.value for measured in draws])
    assert abs(values.mean()) < 3 * values.std() / np.sqrt(60)  # no bias
    darker = [
        np.mean(
            [
                kid.take(drawn(pictures(count, seed, 200), [""] * count, pictures(count, 1000 + seed))).value
                for seed in range(20)
            ]
        )
        for count in (16, 48)
    ]
    assert darker[0] == pytest.approx(darker[1], rel=0.1)
    assert darker[0] > 10 * values.std()


def test_the_interval_of_kid_holds_it_about_as_often_as_it_says(fid):
    kid = fid.fitting(16)
    truth = np.mean([kid.take(drawn(pictures(48, s, 200), [""] * 48, pictures(48, 500 + s))).value for s in range(40)])
    found = [kid.take(drawn(pictures(16, s, 200), [""] * 16, pictures(16, 900 + s))).interval for s in range(100, 200)]
    assert 0.88 <= np.mean([low <= truth <= high for low, high in found]) <= 1


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
