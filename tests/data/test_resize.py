"""Targets become means of what they cover, JPEGs by their decoder; runs of before are resized as they were."""

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from everstep.config.load import dump, read_hparams, resolve
from everstep.contracts import Framing, Pair, PairSource
from everstep.data import Framer, open_source
from everstep.data.images import WHITE, read_sized
from everstep.data.transform import fit, fit_target

RNG = np.random.default_rng(0)


def picture(width: int, height: int) -> Image.Image:
    """Smooth, as photographs are, so that a JPEG of it is near to it."""
    small = RNG.integers(0, 256, (6, 8, 3), dtype=np.uint8)
    return Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC)


@pytest.mark.parametrize("factor", [1, 2, 3])
def test_a_pixel_is_the_mean_of_what_it_covers(factor: int) -> None:
    whole = RNG.integers(0, 256, (16 * factor, 24 * factor, 3), dtype=np.uint8)
    found = fit_target(Image.fromarray(whole), 16, resize="area")
    inside = whole[:, 4 * factor : 20 * factor].astype(float)
    mean = inside.reshape(16, factor, 16, factor, 3).mean(axis=(1, 3))
    assert np.abs(found - mean).max() <= 0.6


def test_where_pixels_are_covered_in_part_no_shift_comes_in() -> None:
    ramp = np.broadcast_to(np.linspace(0, 255, 70)[None, :, None], (70, 70, 3)).astype(np.uint8)
    found = fit_target(Image.fromarray(np.ascontiguousarray(ramp)), 32, resize="area")[0, :, 0].astype(float)
    wanted = (np.arange(32) + 0.5) / 32 * 255
    assert np.abs(found - wanted).max() < 3


def test_a_picture_that_is_too_small_is_enlarged_smoothly() -> None:
    small = picture(12, 12)
    assert np.array_equal(fit_target(small, 16, resize="area"), fit_target(small, 16))


@pytest.mark.parametrize("turn", [1, 6])
@pytest.mark.parametrize("side", [16, 30, 64, 130])
def test_a_jpeg_is_decoded_as_small_as_is_enough(tmp_path: Path, side: int, turn: int) -> None:
    whole = picture(192, 128)
    exif = Image.Exif()
    exif[0x0112] = turn
    whole.save(tmp_path / "a.jpg", quality=95, exif=exif)
    plain, size = read_sized(tmp_path / "a.jpg", WHITE, None)
    smaller, told = read_sized(tmp_path / "a.jpg", WHITE, (side, side))
    assert told == size == plain.size
    assert min(smaller.size) >= min(side, min(plain.size))
    assert (smaller.size == plain.size) == (side > 64)
    by_decoder = fit_target(smaller, side, resize="area").astype(float)
    by_means = fit_target(plain, side, resize="area").astype(float)
    assert np.abs(by_decoder - by_means).mean() < 2.5


def test_a_picture_in_another_format_is_decoded_whole(tmp_path: Path) -> None:
    picture(192, 128).save(tmp_path / "a.png")
    assert read_sized(tmp_path / "a.png", WHITE, (16, 16))[0].size == (192, 128)


def test_conditions_of_another_size_keep_to_their_targets() -> None:
    """A target that was decoded smaller, and its condition whole."""
    ramp = np.broadcast_to(np.arange(192)[None, :, None], (128, 192, 3)).astype(np.uint8)
    whole = Image.fromarray(np.ascontiguousarray(ramp))
    halved = whole.reduce(2)
    for crop_at in ((0.0, 0.5), (0.5, 0.5), (1.0, 0.5)):
        target, condition = fit(Pair(halved, whole, ""), 32, "area", crop_at, resize="area")
        assert np.abs(target.astype(int) - condition.astype(int)).max() <= 2


def source_in(folder: Path) -> PairSource:
    """Ten photographs with their maps."""
    lines = []
    for number in range(10):
        picture(192, 128).save(folder / f"{number}.jpg", quality=95)
        picture(192, 128).save(folder / f"{number}.png")
        lines.append(f'{{"file_name": "{number}.jpg", "conditioning_image": "{number}.png", "text": "a"}}')
    (folder / "metadata.jsonl").write_text("\n".join(lines))
    return open_source(str(folder), 32)


def test_the_frame_is_of_the_picture_as_it_is_on_the_disk(tmp_path: Path) -> None:
    source = source_in(tmp_path)
    area = Framer(source, Framing(32, resize="area"))(0)
    lanczos = Framer(source, Framing(32))(0)
    assert area.frame == lanczos.frame == (128, 192, 0, 8, 32, 32)
    assert not np.array_equal(area.target_HWC, lanczos.target_HWC)
    assert np.abs(area.target_HWC.astype(float) - lanczos.target_HWC).mean() < 6


def test_a_run_of_before_goes_on_as_it_was_trained(tmp_path: Path) -> None:
    new = resolve(None, {})
    assert new.data.resize == new.data.condition_resize == "area"
    written = dump(new)
    (tmp_path / "new.yaml").write_text(written)
    (tmp_path / "old.yaml").write_text("".join(line for line in io.StringIO(written) if "resize: area" not in line))
    assert read_hparams(tmp_path / "new.yaml") == new
    old = read_hparams(tmp_path / "old.yaml").data
    assert (old.resize, old.condition_resize) == ("lanczos", "bilinear")
