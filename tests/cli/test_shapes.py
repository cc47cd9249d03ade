"""What check and plan say of pictures of many shapes."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from everstep.cli.check import CELL_PX
from everstep.data.sequence import BucketOrder
from everstep.evaluation.pictures.sheet import GAP_PX, PAPER
from oblong import PAIRS, write_oblong
from program import Ended

Everstep = Callable[..., Ended]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_oblong(tmp_path_factory.mktemp("data") / "oblong")


def test_check_says_how_many_pictures_are_in_which_shape(everstep: Everstep, folder: Path, tiny_base: Path) -> None:
    ended = everstep("check", folder, "--base", tiny_base, "--buckets", 16)
    assert ended.code == 0, ended.out
    assert (
        "Pictures are trained in 5 shapes from 8x32 to 24x8. Pictures of each: 8x32 1, 12x20 6, 16x16 10," in ended.out
    )
    told = json.loads(everstep("check", folder, "--base", tiny_base, "--buckets", 16, "--json").out)
    assert sum(shape["pairs"] for shape in told["shapes"]) == PAIRS
    assert told["shapes"][0] == {"size": [8, 32], "pairs": 1}


def test_pairs_are_shown_in_their_shapes(everstep: Everstep, folder: Path, tiny_base: Path, tmp_path: Path) -> None:
    """The last column is a narrow picture: in its cell, paper lies beside it; beside a square there is none."""
    for words, is_narrow in (((), False), (("--buckets", 16), True)):
        ended = everstep("check", folder, "--base", tiny_base, "--show", tmp_path / "shown.png", *words)
        assert ended.code == 0, ended.out
        assert ("each in its shape" in ended.out) is is_narrow
        with Image.open(tmp_path / "shown.png") as page:
            beside = np.asarray(page)[-GAP_PX - CELL_PX // 2, -GAP_PX - CELL_PX + 2]
        assert (tuple(beside) == PAPER) is is_narrow


def test_check_without_it_says_nothing_of_shapes(everstep: Everstep, folder: Path) -> None:
    assert "shape" not in everstep("check", folder).out
    assert "shapes" not in json.loads(everstep("check", folder, "--json").out)


@pytest.mark.parametrize(("side", "nearest"), [(500, 512), (0, 64), (-64, 64), (70, 64)])
def test_a_side_that_no_base_takes_is_refused(everstep: Everstep, folder: Path, side: int, nearest: int) -> None:
    ended = everstep("check", folder, "--buckets", side)
    assert ended.code == 2
    assert ended.out == f"--buckets is {side}, but has to be a multiple of 64; {nearest} is the nearest.\n"


def test_plan_counts_epochs_as_they_are_planned(everstep: Everstep, folder: Path, tiny_base: Path) -> None:
    words = ("plan", "--base", tiny_base, "--data", folder, "--data.resolution", 16, "--optim.max-steps", 90)
    words = (*words, "--optim.batch-size", 4, "--sampling.pairs", 0, "--json")
    square, told = (
        json.loads(everstep(*words, "--quick", "--data.shape", shape).out) for shape in ("square", "buckets")
    )
    assert (square["shapes"], square["epochs"]) == (None, 360 / square["training_pairs"])
    assert told["shapes"].startswith("Pictures are trained in ")
    assert told["training_pairs"] == square["training_pairs"]
    assert 360 / told["epochs"] == pytest.approx(epoch_examples(told, folder))
    assert told["memory"] == square["memory"]


def epoch_examples(told: dict[str, object], folder: Path) -> int:
    """Of an order made anew; which pair is held out is a matter of its name."""
    from everstep.data import open_source, split
    from everstep.data.buckets import shapes_of

    source = open_source(str(folder), 16)
    pairs = split(source, 64, looks=source.looks())
    assert len(pairs.training) == told["training_pairs"]
    return BucketOrder(pairs.training, source.sizes(), shapes_of(16, 4), 0, 4).epoch_examples
