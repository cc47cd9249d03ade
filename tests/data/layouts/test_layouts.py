"""Every layout gives the same pairs, is said back in one sentence, and names what is wrong with it."""

import io
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from everstep.contracts import Which
from everstep.data import Columns, check, open_source, split
from everstep.data.recipe import Recipe
from everstep.data.remembered import FRESH_NS
from everstep.errors import UserError
from laid_out import LAYOUTS, Write, brought, png

SAID = {
    "jsonl": "12 pairs, metadata.jsonl, 32x32",
    "csv": "12 pairs, metadata.csv (target file_name, condition conditioning_image, caption text), 32x32",
    "folders": "12 pairs, folders (target targets, condition conditions, captions in .txt), 32x32",
    "endings": "12 pairs, one folder (condition _canny, captions in .txt), 32x32",
    "parquet": "12 pairs, parquet (target image, condition conditioning_image, caption text), 32x32",
    "saved": "12 pairs, saved dataset (target image, condition condition, caption caption), 32x32",
    "shards": "12 pairs, 2 shards (target image, condition condition, caption text), 32x32",
}
SAID |= dict.fromkeys(("braces", "address"), SAID["shards"])


@pytest.fixture(params=LAYOUTS)
def layout(request: pytest.FixtureRequest, cache: Path) -> str:
    return str(request.param)


@pytest.fixture
def write(layout: str) -> Write:
    return LAYOUTS[layout]


def same(picture: Image.Image, content: bytes) -> bool:
    return bool(np.array_equal(picture, Image.open(io.BytesIO(content))))


def grow_old(folder: Path) -> None:
    """As if all had been written a while ago: what is fresh is not remembered."""
    import time

    time.sleep(1.1 * FRESH_NS / 1e9)


def test_the_same_pairs_come_out_and_are_said_back(write: Write, layout: str, tmp_path: Path) -> None:
    pairs = brought()
    (tmp_path / "data").mkdir()
    source = open_source(write(tmp_path / "data", pairs), 32)
    assert source.description == SAID[layout]
    assert len(source) == 12
    found = [source.load(k) for k in range(12)]
    assert sorted(pair.caption for pair in found) == sorted(pair.caption for pair in pairs)
    for pair in found:
        meant = pairs[int(pair.caption.split()[1])]
        assert same(pair.target, meant.target)
        assert same(pair.condition, meant.condition)


def test_fingerprint_names_and_held_out_pairs_are_stable(write: Write, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    path = write(tmp_path / "data", brought())
    one, other = open_source(path, 32), open_source(path, 32)
    names = [one.name(k) for k in range(12)]
    assert len(set(names)) == 12
    assert names == [other.name(k) for k in range(12)]
    assert one.fingerprint() == other.fingerprint()
    assert split(one, 3).held_out == split(other, 3).held_out


def test_a_bad_picture_in_the_middle_is_named(write: Write, layout: str, tmp_path: Path) -> None:
    pairs = brought()
    pairs[5] = replace(pairs[5], condition=pairs[5].condition[:-40])
    (tmp_path / "data").mkdir()
    path = write(tmp_path / "data", pairs)
    report = check(path)
    (error,) = report.errors
    assert error.line == (7 if layout == "csv" else 6)  # after that of the names
    assert "is no image that can be read" in str(error)
    with pytest.raises(UserError, match=r"1 of 12 pairs in .* cannot be used"):
        open_source(path, 32)
    assert len(open_source(path, 32, "skip")) == 11


def test_a_change_of_one_picture_is_found(write: Write, tmp_path: Path) -> None:
    pairs = brought()
    for name in ("one", "other"):
        (tmp_path / name).mkdir()
    first = open_source(write(tmp_path / "one", pairs), 32)
    again = open_source(write(tmp_path / "other", pairs), 32)
    assert [first.name(k) for k in range(12)] == [again.name(k) for k in range(12)]
    assert first.fingerprint() == again.fingerprint()
    (tmp_path / "third").mkdir()
    pairs[5] = replace(pairs[5], target=png(999))
    changed = open_source(write(tmp_path / "third", pairs), 32)
    assert changed.fingerprint() != first.fingerprint()


def test_what_vanishes_or_changes_meanwhile_is_named(write: Write, tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.mkdir()
    source = open_source(write(data, brought()), 32)
    source.load(7)
    files = [path for path in data.rglob("*") if path.suffix in (".png", ".parquet", ".arrow", ".tar")]
    for path in files:
        path.rename(path.with_name(f"{path.name}.away"))
    with pytest.raises(UserError, match=r"could be read when it was checked, but not now .*Versions are whole"):
        source.load(7)
    for path in files:
        path.with_name(f"{path.name}.away").rename(path)
    assert source.load(7).caption == "number 7"


def test_a_second_look_decodes_nothing(write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = tmp_path / "data"
    data.mkdir()
    path = write(data, brought())
    grow_old(data)
    first = check(path)
    monkeypatch.setattr("everstep.data.examining._looked_at", None)
    again = check(path)
    assert again.fingerprint == first.fingerprint
    assert open_source(path, 32).looks() is not None


# --- several, and none -------------------------------------------------------------------------------------


def test_which_caption_and_which_condition_is_drawn(tmp_path: Path) -> None:
    import json

    for name in ("t", "a", "b", "c"):
        (tmp_path / f"{name}.png").write_bytes(png(ord(name)))
    line = {"file_name": "t.png", "conditioning_image": ["a.png", "b.png", "c.png"], "text": ["one", "two"]}
    (tmp_path / "metadata.jsonl").write_text(json.dumps(line))
    source = open_source(str(tmp_path), 32)
    assert [source.load(0, Which(caption=share)).caption for share in (0, 0.49, 0.5, 0.99)] == ["one"] * 2 + ["two"] * 2
    for share, name in ((0.0, "a"), (0.34, "b"), (0.99, "c")):
        assert same(source.load(0, Which(condition=share)).condition, png(ord(name)))
    before = source.fingerprint()
    (tmp_path / "metadata.jsonl").write_text(json.dumps({**line, "text": ["one", "three"]}))
    assert open_source(str(tmp_path), 32).fingerprint() != before


def test_lists_in_parquet(tmp_path: Path, cache: Path) -> None:
    import pyarrow as arrow
    import pyarrow.parquet

    columns = {
        "image": [{"bytes": png(k), "path": None} for k in range(3)],
        "condition": [[{"bytes": png(10 * k + j), "path": None} for j in range(1, 3)] for k in range(3)],
        "text": [["one", "two"], ["three"], ["four", "five"]],
    }
    pyarrow.parquet.write_table(arrow.table(columns), tmp_path / "a.parquet")
    source = open_source(str(tmp_path / "a.parquet"), 32)
    assert [source.load(k, Which(caption=0.9)).caption for k in range(3)] == ["two", "three", "five"]
    assert same(source.load(2, Which(condition=0.9)).condition, png(22))


def test_targets_alone_are_data_for_who_needs_no_conditions(tmp_path: Path) -> None:
    for k in range(3):
        (tmp_path / f"{k}.png").write_bytes(png(k))
        (tmp_path / f"{k}.txt").write_text(f"number {k}")
    with pytest.raises(UserError, match="has targets but no conditions"):
        open_source(str(tmp_path), 32)
    source = open_source(str(tmp_path), 32, recipe=Recipe("grey"))
    assert [source.load(k).caption for k in range(3)] == [f"number {k}" for k in range(3)]
    (tmp_path / "1_edges.png").write_bytes(png(9))
    (tmp_path / "2_edges.png").write_bytes(png(8))
    assert [str(error) for error in check(tmp_path).errors] == [
        "line 1: 0.png: has no condition: no picture is named alike"
    ]


def test_columns_that_are_asked_for(tmp_path: Path, cache: Path) -> None:
    import pyarrow as arrow
    import pyarrow.parquet

    columns = {"photo_a": [png(1)], "photo_b": [png(2)], "words": ["hello"]}
    pyarrow.parquet.write_table(arrow.table(columns), tmp_path / "a.parquet")
    with pytest.raises(UserError, match=r"no column that is known to hold targets; it has photo_a, photo_b, words"):
        open_source(str(tmp_path), 32)
    source = open_source(str(tmp_path), 32, columns=Columns("photo_a", "photo_b", "words"))
    assert source.description == "1 pairs, parquet (target photo_a, condition photo_b, caption words), 32x32"
    with pytest.raises(UserError, match=r"has no elsewhere, which data.condition_column names"):
        open_source(str(tmp_path), 32, columns=Columns("photo_a", "elsewhere"))
