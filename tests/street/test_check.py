"""Copies among the pictures, and caches that are not what they should be: what a start says of each."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from PIL import Image, ImageFilter

from everstep.data import CheckReport, check, source
from everstep.data.layouts import circles
from everstep.data.remembered import FILE
from everstep.versions import Run
from program import Program
from street import Everstep, Row, Street, Words, read_golden, walk

ABOUT_ALIKE = "duplicate"


def many(street: Street, pairs: int, copied: int, how: str = "as it is") -> Path:
    """Pairs of circles, and copies of the first ones' pictures beside them, with the outlines they have."""
    folder = street.folder / "many"
    folder.mkdir()
    lines = []
    for number in range(pairs + copied):
        drawn, name = (
            circles.circle(number % pairs),
            f"{number}.png" if number < pairs else f"copy {number}.{SUFFIX[how]}",
        )
        picture = circles.target(drawn, 24)
        if number >= pairs:
            picture = COPIED[how](picture)
        picture.save(folder / name)
        outline = circles.condition(drawn, picture.width)
        outline.save(folder / f"{number}_outline.png")
        names = {"file_name": name, "conditioning_image": f"{number}_outline.png"}
        lines.append(json.dumps({**names, "text": f"{drawn.caption}, {number}"}))
    (folder / "metadata.jsonl").write_text("\n".join(lines) + "\n")
    return folder


def as_it_is(picture: Image.Image) -> Image.Image:
    return picture


COPIED = {
    "as it is": as_it_is,
    "as JPEG": as_it_is,
    "larger": lambda picture: picture.resize((48, 48), Image.Resampling.BICUBIC),
    "lighter": lambda picture: picture.point(lambda value: min(255, round(value * 1.03))),
    "softer": lambda picture: picture.filter(ImageFilter.GaussianBlur(0.4)),
}
SUFFIX = {"as it is": "png", "as JPEG": "jpg", "larger": "png", "lighter": "png", "softer": "png"}


def copies(how: str) -> Row:
    """Sixty pairs, every one of them twice: 6 may be held out, which are 3 and their copies."""

    def build(street: Street) -> Words:
        return street.train(data=many(street, 60, 60, how))

    return Row(f"every_picture_twice_{how.replace(' ', '_')}", build, code=0, shows=ABOUT_ALIKE)


def no_copies(street: Street) -> Words:
    return street.train(data=many(street, 120, 0))


def all_the_same(street: Street) -> Words:
    return street.train(data=many(street, 1, 59))


def three_hundred_of_one(street: Street) -> Words:
    """Copies of one picture are more than may be held out: they are all trained on, and others are held out."""
    folder = many(street, 40, 0)
    lines = (folder / "metadata.jsonl").read_text().splitlines()
    for number in range(300):
        shutil.copyfile(folder / "0.png", folder / f"again {number}.png")
        lines.append(json.dumps({**json.loads(lines[0]), "file_name": f"again {number}.png", "text": str(number)}))
    (folder / "metadata.jsonl").write_text("\n".join(lines) + "\n")
    return street.train(data=folder)


def check_after(spoil: str) -> Row:
    """A check where the cache is spoilt."""

    def build(street: Street) -> Words:
        place = street.folder / "cache" / "everstep" / FILE
        if spoil == "folder_is_a_file":
            place.parents[1].write_text("")
        elif spoil == "is_a_folder":
            place.mkdir(parents=True)
        elif spoil == "is_no_database":
            place.parent.mkdir(parents=True)
            place.write_bytes(b"SQLite format 3\0" + bytes(range(256)) * 40)
        elif spoil == "is_empty":
            place.parent.mkdir(parents=True)
            place.write_bytes(b"")
        elif spoil == "is_a_dangling_link":
            place.parent.mkdir(parents=True)
            place.symlink_to("/nowhere/at/all")
        return ("check", street.right_pairs)

    return Row(f"cache_{spoil}", build, code=0)


SPOILT = ("folder_is_a_file", "is_a_folder", "is_no_database", "is_empty", "is_a_dangling_link", "is_not_there")
ROWS = [
    *map(copies, COPIED),
    Row("no_picture_twice", no_copies, code=0, shows=ABOUT_ALIKE),
    Row("all_pictures_are_one", all_the_same, code=0, shows=ABOUT_ALIKE),
    Row("three_hundred_of_one_picture", three_hundred_of_one, code=0, shows=ABOUT_ALIKE),
    *map(check_after, SPOILT),
]


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_what_is_brought_works_or_one_sentence_says_why(
    row: Row, street: Street, everstep: Everstep, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(street.folder / "cache"))
    walk(row, "check", street, everstep)


def test_every_message_has_its_row() -> None:
    assert set(read_golden("check")) == {row.name for row in ROWS}


def counting() -> None:
    """In the program's process: every look at the data is a line of a file."""

    def counted(path: Path | str, *rest: Any) -> CheckReport:
        with Path("looks").open("a") as file:
            print(path, file=file)
        return check(path, *rest)

    source.check = counted  # type: ignore[attr-defined]


def test_a_start_checks_once_and_a_resume_goes_on_with_the_same_split(
    street: Street, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(street.folder / "cache"))
    looks = street.folder / "looks"
    began = Program(tuple(street.train(data=many(street, 60, 60))), street.folder, counting)
    assert began.wait() == 0, began.output
    assert len(looks.read_text().splitlines()) == 1
    run = Run.open(street.folder / "runs" / "a")
    first = run.find("latest").manifest["data"]
    families = {int(name.removeprefix("copy ").removesuffix(".png")) % 60 for name in first["held_out"]}
    assert (len(first["held_out"]), len(families), first["held_out_by"]) == (12, 6, "look")
    shutil.rmtree(street.folder / "cache", ignore_errors=True)
    again = Program(("resume", "a", "--set", "optim.max_steps=4"), street.folder, counting)
    assert again.wait() == 0, again.output
    assert len(looks.read_text().splitlines()) == 2
    newest = run.find("latest")
    assert (newest.step, newest.manifest["data"]) == (4, first)
