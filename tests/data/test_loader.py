"""Batches are the same from any start, with any number of threads."""

import math
import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from everstep.contracts import Batch, ExampleSettings, Framing, Pair
from everstep.data import BatchStream, Framer, StopAsked, fit, open_source, split
from everstep.data.framing import PLAIN, Prepared
from everstep.data.loader import MORE_AHEAD, TURNS_AHEAD
from everstep.errors import UserError

SETTINGS = ExampleSettings(seed=3, latent_shape=(4, 8, 8), crop="random", flip_probability=0.5)


def batches(folder: Path, first: int, count: int, workers: int, settings: ExampleSettings = SETTINGS) -> list[Batch]:
    source = open_source(str(folder), 16)
    stream = BatchStream(Framer(source, Framing(16)), split(source, 2).training, first, 4, settings, workers)
    try:
        return [next(stream) for _ in range(count)]
    finally:
        stream.close()


class HeldUp(Framer):
    """Pairs whose preparing is noted as it begins and ends; of some examples it does not end until they are let go."""

    def __init__(self, folder: Path, held: tuple[int, ...] = ()) -> None:
        super().__init__(open_source(str(folder), 16), Framing(16))
        self.training = split(self.source, 2).training
        self._held, self._changed = set(held), threading.Condition()
        self._begun, self._ended = set(), set()

    def prepared(self, pair, look=PLAIN) -> Prepared:
        example = look.example
        with self._changed:
            self._begun.add(example)
            self._changed.notify_all()
            self._changed.wait_for(lambda: example not in self._held, timeout=60)
        found = super().prepared(pair, look)
        with self._changed:
            self._ended.add(example)
            self._changed.notify_all()
        return found

    def let_go(self) -> None:
        with self._changed:
            self._held.clear()
            self._changed.notify_all()

    def wait_until_ended(self, examples: set[int]) -> None:
        with self._changed:
            assert self._changed.wait_for(lambda: examples <= self._ended, timeout=60), self._ended

    def begun_when_settled(self, count: int) -> set[int]:
        """What was begun once so many were, and some time has passed in which one more could have been."""
        with self._changed:
            assert self._changed.wait_for(lambda: len(self._begun) >= count, timeout=60), self._begun
            self._changed.wait_for(lambda: len(self._begun) > count, timeout=0.3)
            return set(self._begun)


def assert_equal(one: list[Batch], other: list[Batch]) -> None:
    for a, b in zip(one, other, strict=True):
        assert (a.first_example, a.pairs, a.captions) == (b.first_example, b.pairs, b.captions)
        for name in ("targets_BHWC", "conditions_BHWC", "noise_BCHW", "posterior_noise_BCHW", "times_B"):
            np.testing.assert_array_equal(getattr(a, name), getattr(b, name))


@pytest.mark.parametrize("workers", [0, 1, 3])
def test_a_start_in_the_middle_equals_the_straight_run(pairs_folder: Path, workers: int) -> None:
    straight = batches(pairs_folder, 0, 20, 0)
    assert_equal(batches(pairs_folder, 0, 7, workers) + batches(pairs_folder, 28, 13, workers), straight)


@pytest.mark.parametrize("workers", [1, 2, 8])
def test_bits_are_those_without_threads(pairs_folder: Path, workers: int) -> None:
    assert_equal(batches(pairs_folder, 5, 20, workers), batches(pairs_folder, 5, 20, 0))


def test_a_slow_example_holds_up_its_own_batch_alone(pairs_folder: Path) -> None:
    framer, stopped = HeldUp(pairs_folder, held=(5,)), threading.Event()
    stream = BatchStream(framer, framer.training, 0, 4, SETTINGS, workers=2, is_stopped=stopped.is_set)
    try:
        taken = [next(stream)]  # the one before
        stopped.set()
        with pytest.raises(StopAsked):
            next(stream)
        framer.wait_until_ended({4, 6, 7, *range(8, 16)})  # the others of its batch, and all that comes after
        stopped.clear()
        framer.let_go()
        taken += [next(stream) for _ in range(3)]
    finally:
        framer.let_go()
        stream.close()
    assert_equal(taken, batches(pairs_folder, 0, 4, 0))


@pytest.mark.parametrize(("workers", "batch_size"), [(1, 4), (2, 4), (8, 4), (2, 1), (8, 1)])
def test_no_more_is_begun_than_keeps_all_threads_busy(pairs_folder: Path, workers: int, batch_size: int) -> None:
    framer = HeldUp(pairs_folder)
    stream = BatchStream(framer, framer.training, 0, batch_size, SETTINGS, workers)
    most = (MORE_AHEAD + math.ceil(TURNS_AHEAD * workers / batch_size)) * batch_size
    try:
        next(stream)
        assert framer.begun_when_settled(most) == set(range(most))
        next(stream)
        assert framer.begun_when_settled(most + batch_size) == set(range(most + batch_size))
    finally:
        stream.close()


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
