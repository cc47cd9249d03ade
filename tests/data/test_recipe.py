"""What identifies conditions that are made, and data together with them."""

import json
from pathlib import Path

import pytest

from everstep.data import check, open_source
from everstep.data.recipe import ALGORITHMS, Recipe, read_recipe
from everstep.errors import UserError


@pytest.fixture
def alone(tmp_path: Path, pairs_folder: Path) -> Path:
    """The pairs' pictures, in a list that names no conditions."""
    folder = tmp_path / "alone"
    folder.mkdir()
    lines = []
    for line in (pairs_folder / "metadata.jsonl").read_text().splitlines():
        listed = json.loads(line)
        (folder / listed["file_name"]).write_bytes((pairs_folder / listed["file_name"]).read_bytes())
        lines.append(json.dumps({key: listed[key] for key in ("file_name", "text")}))
    (folder / "metadata.jsonl").write_text("\n".join(lines))
    return folder


def test_data_with_pictures_of_conditions_are_what_they_were(pairs_folder: Path) -> None:
    assert read_recipe("file", None, False) is None
    assert open_source(str(pairs_folder), 16).fingerprint() == check(pairs_folder).fingerprint


def test_a_fingerprint_tells_every_recipe_apart(alone: Path, tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text("def a(picture): return picture\n")
    (tmp_path / "model.pt2").write_bytes(b"one")
    recipes = [Recipe(kind) for kind in ALGORITHMS if kind != "depth"]
    recipes += [Recipe("canny", is_random=True), Recipe("lineart", tmp_path / "model.pt2")]
    recipes += [Recipe("function", tmp_path / "own.py", name) for name in ("a", "b")]

    def told() -> list[str]:
        fresh = [Recipe(recipe.kind, recipe.path, recipe.function, recipe.is_random) for recipe in recipes]
        return [open_source(str(alone), 16, recipe=recipe).fingerprint() for recipe in fresh]

    before = told()
    assert len({*before, check(alone, needs_conditions=False).fingerprint}) == len(recipes) + 1
    assert told() == before
    (tmp_path / "own.py").write_text("def a(picture): return 255 - picture\n")
    (tmp_path / "model.pt2").write_bytes(b"two")
    assert [one == other for one, other in zip(told(), before, strict=True)] == [True] * 8 + [False] * 3


def test_a_place_is_no_part_of_what_identifies(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text("{}")
        (tmp_path / name / "model.safetensors").write_bytes(b"weights")
    one, other = (Recipe("depth", tmp_path / name).identity for name in ("a", "b"))
    assert one == other
    (tmp_path / "b/model.safetensors").write_bytes(b"others")
    assert Recipe("depth", tmp_path / "b").identity != one


def test_pictures_of_conditions_are_not_looked_at_where_they_are_made(pairs_folder: Path, alone: Path) -> None:
    said: list[str] = []
    made = open_source(str(pairs_folder), 16, report=said.append, recipe=Recipe("canny"))
    assert said == [
        "30 of 30 pairs have a condition picture, which is not looked at, since conditions are made; "
        "--data.condition file trains on it."
    ]
    assert made.load(3).condition is None
    assert made.fingerprint() == open_source(str(alone), 16, recipe=Recipe("canny")).fingerprint()
    assert made.description == "30 pairs, metadata.jsonl, 20x20; conditions made: canny"


def test_a_list_without_conditions_says_which_setting_makes_them(alone: Path) -> None:
    with pytest.raises(
        UserError, match=r"no conditions \(metadata\.jsonl\)\. Nothing was started\.\n--data\.condition makes them"
    ):
        open_source(str(alone), 16)
    assert len(check(alone, needs_conditions=False).usable) == 30


def test_a_picture_that_is_broken_is_found_without_conditions_too(alone: Path) -> None:
    (alone / "3.png").write_bytes(b"hello")
    report = check(alone, needs_conditions=False)
    assert [finding.file for finding in report.errors] == ["3.png"]
