"""A folder is understood as its list says, and everything that is wrong with it is found in one pass."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from everstep.data import check, open_source, split
from everstep.data.images import BLACK, WHITE, read_rgb
from everstep.errors import UserError


def picture(seed: int, size: tuple[int, int] = (32, 32)) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Ten good pairs in the tutorial's layout."""
    for name in ("source", "target"):
        (tmp_path / name).mkdir()
    lines = []
    for number in range(10):
        picture(number).save(tmp_path / "target" / f"{number}.png")
        picture(100 + number).save(tmp_path / "source" / f"{number}.png")
        line = {"source": f"source/{number}.png", "target": f"target/{number}.png", "prompt": f"number {number}"}
        lines.append(json.dumps(line))
    (tmp_path / "prompt.json").write_text("\n".join(lines))
    return tmp_path


def test_the_tutorials_layout_is_read(folder: Path) -> None:
    source = open_source(str(folder), 32)
    assert len(source) == 10
    assert source.description == "10 pairs, prompt.json, 32x32"
    pair = source.load(3)
    assert pair.caption == "number 3"
    np.testing.assert_array_equal(pair.target, picture(3))
    np.testing.assert_array_equal(pair.condition, picture(103))


def test_a_byte_order_mark_windows_lines_and_blank_lines_do_no_harm(folder: Path) -> None:
    text = (folder / "prompt.json").read_text().replace("\n", "\r\n\r\n")
    (folder / "prompt.json").write_bytes(b"\xef\xbb\xbf" + text.encode() + b"\r\n")
    assert len(open_source(str(folder), 32)) == 10


def test_metadata_jsonl_is_read_with_its_usual_and_its_other_keys(folder: Path) -> None:
    lines = [
        {"file_name": "target/0.png", "conditioning_image": "source/0.png", "text": "a"},
        {"image": "target/1.png", "condition_image": "source/1.png", "caption": "b"},
    ]
    (folder / "prompt.json").unlink()
    (folder / "metadata.jsonl").write_text("\n".join(map(json.dumps, lines)))
    source = open_source(str(folder), 32)
    assert [source.load(i).caption for i in range(2)] == ["a", "b"]


def test_two_lists_or_none_are_refused(folder: Path) -> None:
    (folder / "metadata.jsonl").write_text("{}")
    with pytest.raises(UserError, match=r"holds both metadata\.jsonl and prompt\.json"):
        open_source(str(folder), 32)
    for name in ("metadata.jsonl", "prompt.json"):
        (folder / name).unlink()
    assert open_source(str(folder), 32).description.startswith("10 pairs, folders (target target, condition source,")
    for name in ("source", "target"):
        shutil.rmtree(folder / name)
    with pytest.raises(UserError, match="holds no list of pairs"):
        open_source(str(folder), 32)


def cut_short(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-400])


FAULTS: dict[str, tuple[Callable[[Path], object], str]] = {
    "a truncated image": (lambda f: cut_short(f / "target/3.png"), "line 4: target/3.png: is no image"),
    "a missing condition": (lambda f: (f / "source/3.png").unlink(), "line 4: source/3.png: is missing"),
    "another size": (
        lambda f: picture(1, (27, 32)).save(f / "target/3.png"),
        "line 4: target/3.png: is 27x32, but its condition source/3.png is 32x32",
    ),
    "no image at all": (lambda f: (f / "target/3.png").write_text("hello"), "line 4: target/3.png: is no image"),
}


@pytest.mark.parametrize("kind", FAULTS)
def test_a_pair_that_cannot_be_used_is_named_with_file_and_line(folder: Path, kind: str) -> None:
    spoil, named = FAULTS[kind]
    spoil(folder)
    with pytest.raises(UserError) as refused:
        open_source(str(folder), 32)
    assert f"1 of 10 pairs in {folder / 'prompt.json'} cannot be used" in str(refused.value)
    assert named in str(refused.value)
    assert "--data.bad-pairs skip" in str(refused.value)
    source = open_source(str(folder), 32, "skip")
    assert len(source) == 9
    assert list(source.skipped) == ["line 4"]
    assert "target/3.png" not in [source.name(i) for i in range(9)]


def test_every_fault_is_found_in_one_pass(folder: Path) -> None:
    for number, (spoil, _) in enumerate(FAULTS.values()):
        spoil(folder)
        for name in ("source", "target"):
            if (folder / name / "3.png").exists():
                (folder / name / "3.png").rename(folder / name / f"bad{number}.png")
        picture(3).save(folder / "target/3.png")
        picture(103).save(folder / "source/3.png")
        line = {"source": f"source/bad{number}.png", "target": f"target/bad{number}.png", "prompt": "x"}
        with (folder / "prompt.json").open("a") as file:
            file.write("\n" + json.dumps(line))
    with (folder / "prompt.json").open("a") as file:
        file.write('\n{"source": "a"\n[]\n{"source": "a", "target": 3, "prompt": "x"}\n')
        file.write('{"source": "../a.png", "target": "target/0.png", "prompt": "x"}')
    report = check(folder)
    assert {finding.line for finding in report.errors} == {11, 12, 13, 14, 15, 16, 17, 18}
    assert str(report.errors[-1]) == "line 18: ../a.png: is missing"
    assert len(report.usable) == 10


def test_what_is_odd_but_usable_is_a_warning(folder: Path) -> None:
    Image.new("RGB", (32, 32)).save(folder / "source/1.png")
    picture(2).save(folder / "source/2.png")
    picture(4).save(folder / "target/5.png")
    picture(104).save(folder / "source/5.png")
    text = (folder / "prompt.json").read_text().replace("number 0", " ")
    (folder / "prompt.json").write_text(text)
    report = check(folder, resolution=64)
    said = "\n".join(str(f) for f in report.findings if "smaller" not in f.what)
    assert report.errors == ()
    assert "line 1: target/0.png: has an empty caption" in said
    assert "line 2: source/1.png: is nearly one colour" in said
    assert "line 3: target/2.png: is the same file as its condition" in said
    assert "line 6: target/5.png: is the same pair as line 5" in said
    assert sum("smaller than the 64 px" in f.what for f in report.findings) == 10


def test_the_fingerprint_follows_content_and_captions(folder: Path) -> None:
    first = check(folder).fingerprint
    text = (folder / "prompt.json").read_text()
    (folder / "prompt.json").write_text(text.replace("number 0", "number zero"))
    assert check(folder).fingerprint != first
    (folder / "prompt.json").write_text(text)
    assert check(folder).fingerprint == first


def test_a_mistyped_folder_is_an_error_that_names_the_near_one(folder: Path) -> None:
    (folder / "photos").mkdir()
    with pytest.raises(UserError, match=r"did you mean .*photos\? Nothing was started\.$"):
        open_source(str(folder / "photo"), 32)
    with pytest.raises(UserError, match="no built-in data builtin:squares"):
        open_source("builtin:squares", 32)


def test_greyscale_palette_wide_and_transparent_images_become_rgb(tmp_path: Path) -> None:
    Image.fromarray(np.full((4, 4), 40000, dtype=np.uint16)).save(tmp_path / "wide.png")
    Image.new("L", (4, 4), 200).save(tmp_path / "grey.png")
    Image.new("P", (4, 4), 1).save(tmp_path / "palette.png")
    Image.new("RGBA", (4, 4), (255, 0, 0, 0)).save(tmp_path / "clear.png")
    assert read_rgb(tmp_path / "wide.png", BLACK).getpixel((0, 0)) == (156, 156, 156)
    assert read_rgb(tmp_path / "grey.png", BLACK).getpixel((0, 0)) == (200, 200, 200)
    assert read_rgb(tmp_path / "palette.png", BLACK).mode == "RGB"
    assert read_rgb(tmp_path / "clear.png", WHITE).getpixel((0, 0)) == (255, 255, 255)
    assert read_rgb(tmp_path / "clear.png", BLACK).getpixel((0, 0)) == (0, 0, 0)


def test_a_photo_that_was_turned_is_turned_back(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    picture(1, (20, 10)).save(tmp_path / "turned.jpg", exif=exif)
    assert read_rgb(tmp_path / "turned.jpg", BLACK).size == (10, 20)


def test_held_out_pairs_depend_on_names_alone(folder: Path) -> None:
    source = open_source(str(folder), 32)
    names = {source.name(pair) for pair in split(source, 3).held_out}
    assert len(names) == 1  # 5 % of ten, but at least one
    lines = (folder / "prompt.json").read_text().splitlines()
    (folder / "prompt.json").write_text("\n".join(reversed(lines)))
    again = open_source(str(folder), 32)
    assert {again.name(pair) for pair in split(again, 3).held_out} == names


def test_the_built_in_circles_hold_64_out_quickly() -> None:
    parts = split(open_source("builtin:circles", 64), 64)
    assert (len(parts.training), len(parts.held_out)) == (49_936, 64)
    assert not set(parts.training) & set(parts.held_out)
