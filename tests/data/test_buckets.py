"""Pictures of many shapes: both of a pair are cropped and mirrored alike, and noise has the shape of their latents."""

import time
from pathlib import Path

import numpy as np
import pytest

from everstep.contracts import Batch, ExampleSettings, Framing, Pair
from everstep.data import BatchStream, BucketOrder, Framer, Source, check, fit, frame, open_source
from everstep.data.buckets import shapes_of
from everstep.data.checking import sizes_of
from everstep.data.framing import Look
from everstep.data.order import crop_position, is_flipped
from oblong import PAIRS, SIZES, ramp, write_oblong

SHAPES = shapes_of(16, 4)
SETTINGS = ExampleSettings(seed=3, latent_shape=(4, 8, 8), crop="random", flip_probability=0.5)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Source:
    return open_source(str(write_oblong(tmp_path_factory.mktemp("data") / "pairs")), 16, is_square=False)


def stream(source: Source, first: int, workers: int = 0, batch_size: int = 4) -> BatchStream:
    training = tuple(range(1, len(source)))
    order = BucketOrder(training, source.sizes(), SHAPES, 3, batch_size)
    framer = Framer(source, Framing(16))
    return BatchStream(framer, training, first, batch_size, SETTINGS, workers, order=order)


def batches(source: Source, first: int, count: int, workers: int = 0) -> list[Batch]:
    made = stream(source, first, workers)
    try:
        return [next(made) for _ in range(count)]
    finally:
        made.close()


# --- batches -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("workers", [0, 1, 3])
def test_a_start_in_the_middle_equals_the_straight_run(source: Source, workers: int) -> None:
    straight = batches(source, 0, 20)
    again = batches(source, 0, 7, workers) + batches(source, 28, 13, workers)
    for a, b in zip(straight, again, strict=True):
        assert (a.first_example, a.pairs, a.captions) == (b.first_example, b.pairs, b.captions)
        for name in ("targets_BHWC", "conditions_BHWC", "noise_BCHW", "posterior_noise_BCHW", "times_B", "frames_B6"):
            np.testing.assert_array_equal(getattr(a, name), getattr(b, name))


def test_a_batch_has_the_shape_of_its_bucket_and_noise_that_of_its_latents(source: Source) -> None:
    found = set()
    for batch in batches(source, 0, 20):
        _, height, width, _ = batch.targets_BHWC.shape
        found.add((width, height))
        assert batch.conditions_BHWC.shape == (4, height, width, 3)
        assert batch.noise_BCHW.shape == (4, 4, height // 2, width // 2)
        assert batch.posterior_noise_BCHW is not None
        assert batch.posterior_noise_BCHW.shape == batch.noise_BCHW.shape
        assert batch.frames_B6[:, 4:].tolist() == [[height, width]] * 4
    assert {(20, 12), (12, 20), (16, 16), (24, 8), (8, 32)} <= found <= set(SHAPES)


def test_a_batch_begins_where_batches_of_this_size_begin_whatever_was_seen_before(source: Source) -> None:
    batch = next(stream(source, 10))
    assert batch.first_example == 12
    np.testing.assert_array_equal(batch.targets_BHWC, batches(source, 12, 1)[0].targets_BHWC)


def test_both_pictures_of_a_pair_are_cropped_and_mirrored_alike_where_the_number_says(source: Source) -> None:
    """The ramps tell where each was cut from; they are large enough to be told after resizing."""
    framer, moved = Framer(source, Framing(16)), 0
    for number in range(40):
        pair = number % PAIRS
        crop_at, mirrored = crop_position(3, number), is_flipped(3, number, 0.5)
        framed = framer(pair, Look(crop_at=crop_at, is_flipped=mirrored, size=(20, 12)))
        target, condition = (np.asarray(part, dtype=int) for part in (framed.target_HWC, framed.condition_HWC))
        assert target.shape == condition.shape == (12, 20, 3)
        assert abs(target[:, :, :2] - condition[:, :, :2]).max() <= 4  # by another filter
        assert (target[0, 0, 0] > target[0, -1, 0]) == mirrored
        moved += target[:, :, 1].min() > 4
    assert moved > 4


# --- the box -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("size", "trained", "crop_at", "box"),
    [
        ((24, 10), (24, 8), (0.5, 0.0), (0, 0, 24, 8)),
        ((24, 10), (24, 8), (0.5, 1.0), (0, 2, 24, 10)),
        ((28, 12), (20, 12), (0.25, 0.5), (2, 0, 22, 12)),
        ((12, 20), (12, 20), (0.3, 0.3), (0, 0, 12, 20)),
        ((40, 12), (12, 12), (1.0, 0.0), (28, 0, 40, 12)),
    ],
)
@pytest.mark.parametrize("mirrored", [False, True])
def test_the_largest_box_of_the_shape_is_cut_out(
    size: tuple[int, int], trained: tuple[int, int], crop_at: tuple[float, float], box: tuple[int, ...], mirrored: bool
) -> None:
    """Nothing is resized here, so every pixel is told."""
    pair = Pair(ramp(size, 1), ramp(size, 1), "")
    left, top, right, bottom = box
    wanted = np.asarray(pair.target)[top:bottom, left:right]
    for found in fit(pair, trained, "nearest", crop_at, mirrored):
        np.testing.assert_array_equal(found, wanted[:, ::-1] if mirrored else wanted)


@pytest.mark.parametrize(
    ("size", "trained", "crop_at", "mirrored", "found"),
    [
        ((640, 384), (640, 384), (0.5, 0.5), False, (384, 640, 0, 0, 384, 640)),
        ((1280, 960), (640, 384), (0.5, 0.5), False, (960, 1280, 48, 0, 384, 640)),
        ((1280, 960), (640, 384), (0.5, 1.0), True, (960, 1280, 96, 0, 384, 640)),
        ((1000, 300), (600, 300), (0.25, 0.5), False, (300, 1000, 0, 100, 300, 600)),
        ((1000, 300), (600, 300), (0.25, 0.5), True, (300, 1000, 0, 300, 300, 600)),
        ((100, 400), (256, 512), (0.0, 0.5), False, (400, 100, 256, 0, 512, 256)),
    ],
)
def test_frames_say_where_the_box_was(
    size: tuple[int, int],
    trained: tuple[int, int],
    crop_at: tuple[float, float],
    mirrored: bool,
    found: tuple[int, ...],
) -> None:
    """Height and width as it was, top and left once resized, height and width that it is trained at."""
    assert frame(size, trained, crop_at, mirrored) == found


# --- sizes -------------------------------------------------------------------------------------------------


def test_sizes_are_known_by_pair_also_where_the_list_is_remembered(tmp_path: Path, cache: Path) -> None:
    folder = write_oblong(tmp_path / "pairs")
    time.sleep(2.1)  # until then files are too fresh to be remembered
    first, again = check(folder), check(folder)
    assert (first.looks is None, again.looks is None) == (False, True)
    wanted = [SIZES[number % (len(SIZES) - 1)] for number in range(PAIRS - 1)] + [SIZES[-1]]
    for report in (first, again):
        assert [tuple(size) for size in sizes_of(report).tolist()] == wanted


def test_pairs_that_are_left_out_have_no_size(tmp_path: Path) -> None:
    folder = write_oblong(tmp_path / "pairs")
    (folder / "1.png").unlink()
    found = open_source(str(folder), 16, "skip")
    assert found.sizes().tolist()[:3] == [list(SIZES[0]), list(SIZES[2]), list(SIZES[3])]
    assert len(found.sizes()) == len(found) == PAIRS - 1


def test_circles_are_squares() -> None:
    circles = open_source("builtin:circles", 64)
    assert circles.sizes().shape == (len(circles), 2)
    assert np.unique(circles.sizes()).tolist() == [64]


def test_what_is_smaller_than_its_square_alone_is_no_warning_in_buckets(tmp_path: Path) -> None:
    folder, said = write_oblong(tmp_path / "pairs", [(40, 14)], 3), list[str]()
    open_source(str(folder), 16, report=said.append, is_square=False)
    assert said == []
    open_source(str(folder), 16, report=said.append)
    assert len(said) == 1
