"""Conditions that a model finds: each picture alone, by the conventions, and the same whoever asks."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import networks
import numpy as np
import pytest
import torch

from everstep.config.schema import Config
from everstep.data.conditions import KINDS, Maker
from everstep.errors import DataUnreadable
from everstep.evaluation.pictures.adherence import adherence_of, check_scoring
from everstep.evaluation.pictures.measures import Drawn
from everstep.models.conditions import open_maker

CPU = torch.device("cpu")


def config(kind: str, model: object = None, **data: object) -> Config:
    told = {"path": "photos", "condition": kind, "condition_model": None if model is None else str(model), **data}
    return Config.model_validate({"data": told})


def opened(kind: str, model: object = None) -> Maker:
    found = open_maker(config(kind, model), CPU)
    assert found is not None
    return found


def pictures(count: int = 6) -> list[np.ndarray]:
    return list(np.random.default_rng(0).integers(0, 256, (count, 40, 40, 3)).astype(np.uint8))


@pytest.fixture(scope="module")
def dpt(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return networks.write_dpt(tmp_path_factory.mktemp("models") / "dpt")


@pytest.mark.parametrize("kind", ["softedge", "lineart"])
def test_a_map_of_shares_becomes_levels(kind: str, tmp_path: Path) -> None:
    make = opened(kind, networks.export(tmp_path / "map.pt2", networks.brightness))
    for picture in pictures():
        made = make(picture, "a.png", 1)
        assert made.dtype == np.uint8
        np.testing.assert_allclose(made, np.repeat(picture.mean(axis=2, keepdims=True), 3, axis=2), atol=0.51)


def test_depth_is_stretched_over_each_picture_by_itself(tmp_path: Path) -> None:
    make = opened("depth", networks.export(tmp_path / "map.pt2", lambda x: networks.brightness(x) * 40 - 7))
    dark, bright = np.zeros((2, 40, 40, 3), np.uint8)
    dark[:20], bright[:20], bright[20:] = 9, 255, 200
    for picture in (dark, bright):
        made = make(picture, "a.png", None)
        assert (made[:20] == 255).all()
        assert (made[20:] == 0).all()
    assert (make(np.full((40, 40, 3), 80, np.uint8), "flat.png", None) == 0).all()


def test_a_depth_model_of_transformers_gives_the_same_bits_from_any_thread(dpt: Path) -> None:
    make, some = opened("depth", dpt), pictures()
    alone = [opened("depth", dpt)(picture, "", None) for picture in some]
    assert np.ptp(alone[0]) == 255
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(lambda picture: make(picture, "", None), some))
    np.testing.assert_array_equal(alone, together)


def test_a_model_that_gives_no_numbers_is_named_with_the_pair(tmp_path: Path) -> None:
    make = opened("lineart", networks.export(tmp_path / "sick.pt2", lambda x: networks.brightness(x) * float("nan")))
    with pytest.raises(DataUnreadable, match=r"of a\.png could not be made: .* by sick\.pt2: .* no finite number"):
        make(pictures(1)[0], "a.png", 1)


# --- what is made is measured by the same ------------------------------------------------------------------


@pytest.mark.parametrize(("kind", "best"), [("canny", 1), ("softedge", 1), ("lineart", 1), ("depth", 0)])
def test_auto_measures_what_is_made_as_it_is_made(kind: str, best: float, dpt: Path) -> None:
    told = config(kind, dpt if kind == "depth" else None)
    check_scoring(told)
    measure, make = adherence_of(told, CPU), opened(kind, dpt if kind == "depth" else None)
    assert measure is not None
    some = pictures(4)
    conditions = [make(picture, "", None) for picture in some]

    def value(of: list[np.ndarray]) -> float:
        return measure.take(Drawn(some, of, [""] * 4, range(4), some)).value

    assert value(conditions) == pytest.approx(best, abs=0.01)
    assert abs(value(conditions[1:] + conditions[:1]) - best) > 0.02


@pytest.mark.parametrize("kind", ["grey", "blur", "tile", "inpaint"])
def test_auto_measures_nothing_of_other_kinds(kind: str) -> None:
    assert kind in KINDS
    assert adherence_of(config(kind), CPU) is None
