"""Each score is what its definition says, on pictures of which the value is known, and rises with obedience."""

import subprocess
import sys

import networks
import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw
from torchmetrics.functional.image import multiscale_structural_similarity_index_measure

from everstep.data.layouts import circles
from everstep.errors import UserError
from everstep.evaluation.pictures import agreement
from everstep.evaluation.pictures.adherence import KINDS, kind_for, open_adherence
from everstep.evaluation.pictures.measures import Drawn

CPU = torch.device("cpu")


def scene(seed: int, side_px: int = 64) -> np.ndarray:
    """A few soft-free shapes on a plain ground, [H,W,3] uint8."""
    draws = np.random.default_rng(seed)
    image = Image.new("RGB", (side_px, side_px), tuple(draws.integers(0, 256, 3).tolist()))
    for _ in range(4):
        corner, size = draws.integers(0, side_px * 3 // 4, 2), draws.integers(side_px // 6, side_px // 2, 2)
        box = (*corner.tolist(), *(corner + size).tolist())
        ImageDraw.Draw(image).rectangle(box, tuple(draws.integers(0, 256, 3).tolist()))
    return np.asarray(image)


def measured(score, pictures, conditions, pairs, targets) -> list[float]:
    return list(score.take(Drawn(pictures, conditions, [""] * len(pictures), pairs, targets)).each)


def grey(map_HW: np.ndarray) -> np.ndarray:
    return np.repeat(map_HW.astype(np.uint8)[:, :, None], 3, axis=2)


def brightness(picture: np.ndarray) -> np.ndarray:
    return grey(picture.astype(np.float64).mean(axis=2).round())


@pytest.mark.parametrize(
    ("setting", "data", "kind"),
    [
        ("auto", "builtin:circles", "circles"),
        ("auto", "photos/", None),
        ("off", "builtin:circles", None),
        ("canny", "photos/", "canny"),
        ("circles", "builtin:circles", "circles"),
    ],
)
def test_the_kind_follows_the_setting_and_auto_the_data(setting, data, kind):
    assert kind_for(setting, data) == kind


def test_circles_of_other_data_are_refused():
    with pytest.raises(UserError, match=r"only builtin:circles has, but data\.path is photos/.*adherence=off"):
        kind_for("circles", "photos/")


def test_choosing_a_kind_loads_no_torch():
    asked = (
        "import sys; from everstep.evaluation.pictures.adherence import kind_for; kind_for('canny', 'photos/');"
        "sys.exit(bool({'torch', 'cv2', 'torchmetrics', 'transformers'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", asked]).returncode == 0


# --- what is missing, and what is too much -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "library"), [("canny", "cv2"), ("lineart", "torchmetrics"), ("canny", "torchmetrics")]
)
def test_a_missing_library_is_named_with_the_command_that_installs_it(kind, library, monkeypatch):
    monkeypatch.setitem(sys.modules, library, None)  # how Python itself marks what cannot be imported
    with pytest.raises(UserError, match=rf"{kind}, which needs .*{library}.*pip install 'everstep\[scores\]'"):
        open_adherence(kind, None, CPU)


@pytest.mark.parametrize("kind", [name for name, kind in KINDS.items() if kind.has_extractor])
def test_a_kind_that_needs_a_model_asks_for_it(kind):
    with pytest.raises(UserError, match=rf"{kind}, but scoring\.extractor is not set.*--set scoring\.extractor=PATH"):
        open_adherence(kind, None, CPU)


@pytest.mark.parametrize("kind", [name for name, kind in KINDS.items() if not kind.has_extractor])
def test_an_extractor_that_would_do_nothing_is_refused(kind):
    with pytest.raises(UserError, match=r"scoring\.extractor is model\.pt2.*uses none"):
        open_adherence(kind, "model.pt2", CPU)


# --- circles -----------------------------------------------------------------------------------------------


def test_a_circle_is_found_where_its_outline_is_and_not_elsewhere():
    score = open_adherence("circles", None, CPU)
    pictures = [np.asarray(circles.target(circles.circle(number), 64)) for number in (3, 4, 5)]
    blank = [np.zeros_like(picture) for picture in pictures]
    obeyed, swapped = (measured(score, pictures, blank, pairs, blank) for pairs in ((3, 4, 5), (4, 5, 3)))
    assert score.name == "circle_iou"
    assert min(obeyed) > 0.95
    assert max(swapped) < 0.5


# --- canny -------------------------------------------------------------------------------------------------


def test_canny_f1_counts_the_same_edge_pixels():
    import cv2

    score = open_adherence("canny", None, CPU)
    drawn = [scene(1), scene(2), scene(3), np.full((64, 64, 3), 90, np.uint8)]
    edges = [cv2.Canny(picture, 100, 200) > 0 for picture in drawn]
    wanted = [edges[0], np.roll(edges[1], 1, axis=0), edges[0], np.zeros((64, 64), bool)]
    found = measured(score, drawn, [grey(map_HW * 255) for map_HW in wanted], range(4), [None] * 4)
    f1 = [2 * (a & b).sum() / (a.sum() + b.sum()) for a, b in zip(edges[:3], wanted[:3], strict=True)]
    assert score.name == "canny_f1"
    assert found == pytest.approx([*f1, 1.0])
    assert found[0] == 1 > found[1] > found[2]


# --- line art and soft edge --------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["lineart", "softedge"])
def test_line_scores_fall_the_further_the_map_is_from_the_condition(kind, tmp_path):
    score = open_adherence(kind, str(networks.export(tmp_path / "lines.pt2", networks.brightness)), CPU)
    pictures = [scene(1, 176)] * 4
    right = brightness(pictures[0])
    noise = np.random.default_rng(0).normal(0, 40, right.shape[:2])
    noisy = grey((right[:, :, 0] + noise).clip(0, 255))
    found = measured(score, pictures, [right, noisy, brightness(scene(2, 176)), 255 - right], range(4), [None] * 4)
    assert score.name == f"{kind}_ms_ssim"
    assert found[0] > 0.999 > found[1] > 0.5 > found[2]
    assert found[2] < found[1]
    assert found[3] < 0.5


@pytest.mark.parametrize(
    ("side_px", "scales"), [(12, 2), (43, 2), (44, 3), (98, 3), (99, 4), (175, 4), (176, 5), (512, 5)]
)
def test_ms_ssim_uses_as_many_scales_as_the_picture_has_room_for(side_px, scales):
    maps, others = torch.rand(2, 1, 1, side_px, side_px, generator=torch.Generator().manual_seed(0))
    all_betas = agreement.BETAS
    betas = tuple(beta / sum(all_betas[:scales]) for beta in all_betas[:scales])
    expected = multiscale_structural_similarity_index_measure(maps, others, data_range=1.0, betas=betas)
    assert agreement.ms_ssim(maps, others) == pytest.approx([float(expected)])
    assert agreement.ms_ssim(maps, maps) == pytest.approx([1.0])
    if scales < 5:
        with pytest.raises(ValueError, match="larger than"):
            multiscale_structural_similarity_index_measure(maps, others, data_range=1.0, betas=all_betas[: scales + 1])


def test_pictures_too_small_for_ms_ssim_are_refused_in_words():
    with pytest.raises(UserError, match=r"at least 12 px, these have 11\..*scoring\.adherence=off"):
        agreement.ms_ssim(torch.rand(1, 1, 11, 11), torch.rand(1, 1, 11, 11))


# --- depth -------------------------------------------------------------------------------------------------


def test_depth_rmse_is_the_difference_of_the_stretched_maps(tmp_path):
    score = open_adherence("depth", str(networks.export(tmp_path / "depth.pt2", networks.brightness)), CPU)
    picture, other = scene(1), scene(2)
    right, wrong = brightness(picture), brightness(other)
    shifted = (right * 0.4 + 60).astype(np.uint8)
    flat = np.full_like(right, 7)
    found = measured(score, [picture] * 4, [right, shifted, wrong, flat], range(4), [None] * 4)
    mine, theirs = (map_.astype(float).mean(axis=2) for map_ in (picture, wrong))
    mine, theirs = ((map_ - map_.min()) / (map_.max() - map_.min()) for map_ in (mine, theirs))
    assert score.name == "depth_rmse"
    assert found[:2] == pytest.approx([0, 0], abs=0.01)
    assert found[2] == pytest.approx(np.sqrt(((mine - theirs) ** 2).mean()), abs=1e-4)
    assert found[3] == pytest.approx(np.sqrt((mine**2).mean()), abs=1e-4)
    assert found[0] < found[2]


def test_a_depth_model_of_transformers_agrees_with_its_own_map_only(tmp_path):
    from everstep.models.extractors import open_extractor

    folder = str(networks.write_dpt(tmp_path / "dpt"))
    score = open_adherence("depth", folder, CPU)
    pictures = [scene(seed) for seed in range(5)]
    maps = open_extractor("depth", folder, CPU)(pictures)
    assert maps.shape == (5, 1, 64, 64)
    low, high = maps.amin(dim=(2, 3), keepdim=True), maps.amax(dim=(2, 3), keepdim=True)
    assert (high > low).all()
    conditions = [grey(map_[0].numpy()) for map_ in ((maps - low) / (high - low) * 255).round()]
    obeyed = measured(score, pictures, conditions, range(5), [None] * 5)
    swapped = measured(score, pictures, conditions[1:] + conditions[:1], range(5), [None] * 5)
    assert max(obeyed) < 0.003 < min(swapped)


# --- segmentation ------------------------------------------------------------------------------------------


def test_segmentation_miou_is_the_mean_over_the_classes_that_occur(tmp_path):
    score = open_adherence("segmentation", str(networks.export(tmp_path / "classes.pt2", networks.same)), CPU)
    target, drawn = np.zeros((2, 32, 32, 3), np.uint8)
    target[:, :16, 0] = target[:, 16:, 1] = drawn[:, :8, 0] = drawn[:, 8:, 1] = 255
    found = measured(score, [target, drawn], [target, target], range(2), [target, target])
    assert score.name == "seg_miou"
    assert found == pytest.approx([1.0, (8 / 16 + 16 / 24) / 2])


def test_a_segmentation_model_of_transformers_compares_drawn_with_target(tmp_path):
    score = open_adherence("segmentation", str(networks.write_segformer(tmp_path / "segformer")), CPU)
    pictures = [scene(seed) for seed in range(5)]
    assert measured(score, pictures, pictures, range(5), pictures) == pytest.approx([1.0] * 5)
    swapped = measured(score, pictures, pictures, range(5), pictures[1:] + pictures[:1])
    assert max(swapped) < 0.95


def test_segmentation_without_a_target_is_no_score(tmp_path):
    score = open_adherence("segmentation", str(networks.export(tmp_path / "classes.pt2", networks.same)), CPU)
    pictures = [scene(1), scene(2)]
    with pytest.raises(ValueError, match="shorter"):
        measured(score, pictures, pictures, range(2), [pictures[0], None])
