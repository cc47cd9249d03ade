"""Batches are the same from any start, with any number of threads."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from everstep.contracts import Batch, ExampleSettings, Framing, Pair
from everstep.data import BatchStream, Framer, fit, open_source, split
from everstep.errors import UserError

SETTINGS = ExampleSettings(seed=3, latent_shape=(4, 8, 8), crop="random", flip_probability=0.5)


def batches(folder: Path, first: int, count: int, workers: int, settings: ExampleSettings = SETTINGS) -> list[Batch]:
    source = open_source(str(folder), 16)
    stream = BatchStream(Framer(source, Framing(16)), split(source, 2).training, first, 4, settings, workers)
    try:
        return [next(stream) for _ in range(count)]
    finally:
        stream.close()


def assert_equal(one: list[Batch], other: list[Batch]) -> None:
    for a, b in zip(one, other, strict=True):
        assert (a.first_example, a.pairs, a.captions) == (b.first_example, b.pairs, b.captions)
        for name in ("targets_BHWC", "conditions_BHWC", "noise_BCHW", "posterior_noise_BCHW", "times_B"):
            np.testing.assert_array_equal(getattr(a, name), getattr(b, name))


@pytest.mark.parametrize("workers", [0, 1, 3])
def test_a_start_in_the_middle_equals_the_straight_run(pairs_folder: Path, workers: int) -> None:
    straight = batches(pairs_folder, 0, 20, 0)
    assert_equal(batches(pairs_folder, 0, 7, workers) + batches(pairs_folder, 28, 13, workers), straight)


def test_shapes_and_types_are_those_of_the_contract(pairs_folder: Path) -> None:
    batch = batches(pairs_folder, 0, 1, 0)[0]
    assert batch.targets_BHWC.shape == batch.conditions_BHWC.shape == (4, 16, 16, 3)
    assert batch.targets_BHWC.dtype == np.uint8
    assert batch.noise_BCHW.shape == (4, 4, 8, 8)
    assert (batch.noise_BCHW.dtype, batch.times_B.dtype) == (np.float32, np.float64)
    assert not np.array_equal(batch.noise_BCHW, batch.posterior_noise_BCHW)


def test_changing_one_option_changes_nothing_else(pairs_folder: Path) -> None:
    before = batches(pairs_folder, 0, 5, 0)
    after = batches(pairs_folder, 0, 5, 0, replace(SETTINGS, flip_probability=0.0, prompt_dropout=0.0, crop="centre"))
    for a, b in zip(before, after, strict=True):
        assert a.pairs == b.pairs
        np.testing.assert_array_equal(a.noise_BCHW, b.noise_BCHW)
        np.testing.assert_array_equal(a.times_B, b.times_B)


def test_a_shift_changes_nothing_but_the_times(pairs_folder: Path) -> None:
    plain, shifted = (batches(pairs_folder, 0, 5, 0, replace(SETTINGS, timestep_shift=shift)) for shift in (1.0, 5.0))
    assert_equal([replace(batch, times_B=plain[i].times_B) for i, batch in enumerate(shifted)], plain)
    assert np.mean([batch.times_B for batch in shifted]) > np.mean([batch.times_B for batch in plain])


def test_an_image_that_is_gone_is_named(pairs_folder: Path, tmp_path: Path) -> None:
    import shutil

    folder = tmp_path / "pairs"
    shutil.copytree(pairs_folder, folder)
    source = open_source(str(folder), 16)
    for path in folder.glob("*_outline.png"):
        path.unlink()
    stream = BatchStream(Framer(source, Framing(16)), split(source, 2).training, 0, 4, SETTINGS, workers=2)
    with pytest.raises(UserError, match=r"outline\.png could be read when it was checked, but not now"):
        next(stream)
    stream.close()


def test_both_pictures_get_the_same_square() -> None:
    ramp = np.zeros((20, 40, 3), dtype=np.uint8)
    ramp[:, :, 0] = np.arange(40) * 6
    pair = Pair(Image.fromarray(ramp), Image.fromarray(ramp), "")
    for crop_at in ((0.0, 0.5), (0.5, 0.5), (1.0, 0.0)):
        target, condition = fit(pair, 20, "nearest", crop_at)
        np.testing.assert_array_equal(target, condition)
        assert target[0, 0, 0] == ramp[0, round(20 * crop_at[0]), 0]
    mirrored, _ = fit(pair, 20, is_flipped=True)
    np.testing.assert_array_equal(mirrored[:, ::-1], fit(pair, 20)[0])


def test_label_maps_keep_their_colours() -> None:
    labels = np.random.default_rng(0).choice([0, 100, 200], (50, 50, 1)).astype(np.uint8).repeat(3, axis=2)
    pair = Pair(Image.fromarray(labels), Image.fromarray(labels), "")
    _, condition = fit(pair, 16, "nearest")
    assert set(np.unique(condition)) <= {0, 100, 200}
