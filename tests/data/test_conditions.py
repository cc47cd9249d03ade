"""Conditions made from pictures: the conventions of each kind, and that they follow from picture and example alone."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from everstep.contracts import Batch, ExampleSettings, Framing, Uint8Array
from everstep.data import BatchStream, Framer, fit, open_source, order, split
from everstep.data.conditions import BLUR_PX, KINDS, Maker, plain
from everstep.data.functions import load_function
from everstep.data.recipe import RANDOM, Recipe
from everstep.errors import DataUnreadable

SIDE = 64


def scene() -> Uint8Array:
    """A red box with a black line through it, on a grey ramp."""
    across = np.linspace(100, 180, SIDE).astype(np.uint8)
    picture = np.repeat(np.repeat(across[None, :, None], SIDE, axis=0), 3, axis=2)
    picture[16:48, 16:48] = (220, 30, 30)
    picture[31:33, :] = 0
    return picture


def maker(kind: str, is_random: bool = False, seed: int = 3) -> Maker:
    recipe = Recipe(kind, is_random=is_random)
    return Maker(recipe, seed, plain(recipe))


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_keeps_shape_and_type_and_leaves_the_picture_as_it_was(kind: str) -> None:
    picture = scene()
    for shown in (picture, picture[:40], picture[:, ::-1]):
        made = maker(kind)(shown, "a.png", 5)
        assert made.shape == shown.shape
        assert made.dtype == np.uint8
        assert made.base is not shown
        assert not np.array_equal(made, shown)
    np.testing.assert_array_equal(picture, scene())


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("is_random", [False, True])
def test_the_same_in_any_thread_and_again(kind: str, is_random: bool) -> None:
    if is_random and kind not in RANDOM:
        pytest.skip("has nothing to draw")
    straight = [maker(kind, is_random)(scene(), "a.png", example) for example in range(12)]
    shared = maker(kind, is_random)
    with ThreadPoolExecutor(4) as pool:
        drawn = list(pool.map(lambda example: shared(scene(), "a.png", example), reversed(range(12))))
    np.testing.assert_array_equal(straight, drawn[::-1])


@pytest.mark.parametrize("kind", [*RANDOM, "inpaint"])
def test_what_is_drawn_follows_from_seed_and_example_and_not_where_pairs_are_judged(kind: str) -> None:
    spots = Image.fromarray(np.random.default_rng(0).integers(0, 256, (48, 48, 3)).astype(np.uint8))
    noisy = np.array(spots.resize((256, 256), Image.Resampling.BICUBIC))  # slopes of all strengths
    make = maker(kind, kind in RANDOM)
    of_examples = {make(noisy, "a.png", example).tobytes() for example in range(8)}
    assert len(of_examples) >= 6  # few thresholds differ by no edge
    assert maker(kind, kind in RANDOM, seed=4)(noisy, "a.png", 0).tobytes() not in of_examples
    judged = {maker(kind, kind in RANDOM, seed)(noisy, "a.png", None).tobytes() for seed in (3, 4)}
    assert len(judged) == 1
    if kind in RANDOM:
        assert judged == {maker(kind)(noisy, "b.png", 77).tobytes()}
    else:
        assert make(noisy, "b.png", None).tobytes() not in judged


def test_canny_is_white_edges_on_black_by_opencvs_usual_thresholds() -> None:
    import cv2

    made = maker("canny")(scene(), "", None)
    assert set(np.unique(made)) == {0, 255}
    np.testing.assert_array_equal(made[:, :, 0], cv2.Canny(scene(), 100, 200))
    assert made[25, 15:18].any()
    assert not made[20:28, 20:44].any()


def test_soft_edges_are_bright_at_edges_and_black_in_between() -> None:
    made = maker("softedge")(scene(), "", None)[:, :, 0]
    assert made[25, 14:18].max() > 120
    assert made[25, 25:40].max() < 10
    assert made[8, 2:62].max() < 20  # the ramp changes, slowly


def test_lines_are_where_the_picture_is_darker_than_around() -> None:
    made = maker("lineart")(scene(), "", None)[:, :, 0]
    assert made[31:33, 4:12].min() > 80
    assert made[4:10, 4:60].max() < 20


def test_grey_is_luminance() -> None:
    made = maker("grey")(scene(), "", None)
    np.testing.assert_allclose(made[20, 20], 0.299 * 220 + 0.587 * 30 + 0.114 * 30, atol=1)


def test_blur_spreads_a_point_by_its_deviation() -> None:
    point = np.zeros((512, 512, 3), np.uint8)
    point[240:272, 240:272] = 255
    made = maker("blur")(point, "", None)[256, :, 0].astype(float)
    places = np.arange(512)
    middle = (made * places).sum() / made.sum()
    variance = (made * (places - middle) ** 2).sum() / made.sum() - 32**2 / 12
    assert np.sqrt(variance) == pytest.approx(BLUR_PX, rel=0.05)


def test_tile_keeps_the_mean_of_each_tile_and_loses_what_is_smaller() -> None:
    fine = np.zeros((SIDE, SIDE, 3), np.uint8)
    fine[::2] = 200
    assert np.ptp(maker("tile")(fine, "", None)) <= 1
    halves = np.zeros((SIDE, SIDE, 3), np.uint8)
    halves[:, 32:] = 200
    made = maker("tile")(halves, "", None)[30, :, 0].astype(int)
    assert made[:20].max() < 12
    assert made[44:].min() > 188


def test_masks_are_black_of_all_sizes_and_the_rest_is_the_picture() -> None:
    picture = np.full((SIDE, SIDE, 3), 200, np.uint8)
    shares = []
    for example in range(200):
        made = maker("inpaint")(picture, "", example)
        is_masked = (made == 0).all(axis=2)
        assert (made[~is_masked] == 200).all()
        shares.append(float(is_masked.mean()))
    assert 0 < min(shares) < 0.08
    assert 0.5 < max(shares) < 0.9


# --- through the framer ------------------------------------------------------------------------------------


def batches(folder: Path, kind: str, workers: int, first: int = 0, count: int = 6) -> list[Batch]:
    recipe = Recipe(kind, is_random=kind in RANDOM)
    source = open_source(str(folder), 16, recipe=recipe)
    settings = ExampleSettings(seed=3, latent_shape=(4, 8, 8), crop="random", flip_probability=0.5)
    framer = Framer(source, Framing(16), Maker(recipe, 3, plain(recipe)))
    stream = BatchStream(framer, split(source, 2).training, first, 4, settings, workers)
    try:
        return [next(stream) for _ in range(count)]
    finally:
        stream.close()


@pytest.mark.parametrize("kind", ["canny", "inpaint"])
def test_conditions_of_batches_are_the_same_from_any_start_with_any_workers(kind: str, pairs_folder: Path) -> None:
    straight = [batch.conditions_BHWC for batch in batches(pairs_folder, kind, 0)]
    parts = batches(pairs_folder, kind, 3, count=2) + batches(pairs_folder, kind, 2, first=8, count=4)
    np.testing.assert_array_equal(straight, [batch.conditions_BHWC for batch in parts])


def test_conditions_are_made_of_the_framed_target(pairs_folder: Path) -> None:
    for batch in batches(pairs_folder, "grey", 0):
        for target, condition in zip(batch.targets_BHWC, batch.conditions_BHWC, strict=True):
            np.testing.assert_array_equal(condition, KINDS["grey"](target, None))


def test_the_condition_has_a_stream_of_its_own() -> None:
    assert order.STREAMS["condition"] == 8
    assert len(set(order.STREAMS.values())) == len(order.STREAMS) <= order.STREAMS_PER_EXAMPLE


def test_area_takes_the_mean_of_what_a_pixel_covers() -> None:
    from everstep.contracts import Pair

    stripes = np.zeros((32, 32, 3), np.uint8)
    stripes[:, 0::2] = 100
    image = Image.fromarray(stripes)
    assert (fit(Pair(image, image, ""), 16, "area")[1] == 50).all()


# --- functions of one's own --------------------------------------------------------------------------------


def own(tmp_path: Path, body: str, name: str = "make") -> Maker:
    file = tmp_path / "own.py"
    file.write_text(body)
    recipe = Recipe("function", file, name)
    return Maker(recipe, 3, load_function(file, name))


def test_a_function_of_ones_own_gets_the_picture_and_draws_of_the_example(tmp_path: Path) -> None:
    make = own(tmp_path, "def make(picture, draws):\n    picture[:] = draws.integers(256)\n    return picture\n")
    picture = scene()
    made = [make(picture, "a.png", example)[0, 0, 0] for example in range(4)]
    assert made == [order.generator(3, example, "condition").integers(256) for example in range(4)]
    np.testing.assert_array_equal(picture, scene())
    judged = [make(picture, name, None)[0, 0, 0] for name in ("a.png", "a.png", "b.png")]
    assert judged[0] == judged[1] != judged[2]


def test_a_function_without_draws_gets_none(tmp_path: Path) -> None:
    np.testing.assert_array_equal(
        own(tmp_path, "def make(picture):\n    return 255 - picture\n")(scene(), "", 1), 255 - scene()
    )


@pytest.mark.parametrize(
    ("body", "why"),
    [
        ("return picture[:1]", r"a\.png .* returned uint8 \[1, 64, 3\], but uint8 \[64, 64, 3\] is wanted"),
        ("return picture / 255", r"returned float64"),
        ("return None", "returned NoneType, not an array"),
        ("raise ValueError('no face')", "raised ValueError: no face"),
    ],
)
def test_a_function_that_fails_under_way_is_named_with_its_pair(tmp_path: Path, body: str, why: str) -> None:
    with pytest.raises(DataUnreadable, match=why):
        own(tmp_path, f"def make(picture):\n    {body}\n")(scene(), "a.png", 1)
