"""Folders of pairs as people have them: each is read, or one sentence says why and nothing is left behind."""

import io
import json
import os
import socket
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest
from odd_pictures import bomb, encoded, floats, outline, with_exif
from PIL import Image

from street import Everstep, Row, Street, Words, read_golden, walk

Spoil = Callable[[Path], object]
SAID = r"lists them|ControlNet on"


def check(name: str, spoil: Spoil, code: int = 0) -> Row:
    """What `check` says of a folder that was spoilt."""

    def build(street: Street) -> Words:
        folder = street.pairs()
        spoil(folder)
        return "check", folder

    return Row(f"check_{name}", build, code)


def train(name: str, spoil: Spoil, code: int = 0, shows: str = SAID, *more: object) -> Row:
    """What `train` says of it."""

    def build(street: Street) -> Words:
        folder = street.pairs()
        spoil(folder)
        return street.train(*more, data=folder)

    return Row(f"train_{name}", build, code, shows if code == 0 else "")


def entries(folder: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in (folder / "metadata.jsonl").read_text().splitlines()]


def write(folder: Path, listed: list[dict[str, object]], encoding: str = "utf-8") -> None:
    (folder / "metadata.jsonl").write_text("\n".join(map(json.dumps, listed)) + "\n", encoding=encoding)


def change(**values: object) -> Spoil:
    """The third line holds other values; None takes a key away."""

    def spoil(folder: Path) -> None:
        listed = entries(folder)
        listed[2] = {key: value for key, value in {**listed[2], **values}.items() if value is not ...}
        write(folder, listed)

    return spoil


def line(text: bytes) -> Spoil:
    """The third line is another."""

    def spoil(folder: Path) -> None:
        path = folder / "metadata.jsonl"
        lines = path.read_bytes().split(b"\n")
        path.write_bytes(b"\n".join([*lines[:2], text, *lines[3:]]))

    return spoil


def whole(text: bytes) -> Spoil:
    """The list is another."""
    return lambda folder: (folder / "metadata.jsonl").write_bytes(text)


def tutorials(render: Callable[[list[dict[str, object]]], str]) -> Spoil:
    """The list is a prompt.json, in some shape."""

    def spoil(folder: Path) -> None:
        named = [
            {"target": e["file_name"], "source": e["conditioning_image"], "prompt": e["text"]} for e in entries(folder)
        ]
        (folder / "metadata.jsonl").unlink()
        (folder / "prompt.json").write_text(render(named))

    return spoil


def paths(change: Callable[[Path, str], str], move: Spoil = lambda folder: None) -> Spoil:
    """Both names of every line are written in another way."""

    def spoil(folder: Path) -> None:
        keys = ("file_name", "conditioning_image")
        listed = [{**e, **{key: change(folder, str(e[key])) for key in keys}} for e in entries(folder)]
        move(folder)
        write(folder, listed)

    return spoil


def into_folder(folder: Path) -> None:
    """Pictures lie in a folder of their own, beside the list's."""
    (folder.parent / "images").mkdir()
    for path in folder.glob("*.png"):
        path.rename(folder.parent / "images" / path.name)


def linked(folder: Path) -> None:
    """As the hub's cache has it: names are links to contents elsewhere."""
    into_folder(folder)
    for path in (folder.parent / "images").iterdir():
        (folder / path.name).symlink_to(f"../images/{path.name}")


def linked_folder(folder: Path) -> None:
    into_folder(folder)
    (folder / "images").symlink_to("../images")


def replaced(make: Spoil, name: str = "2_outline.png") -> Spoil:
    """Something else lies in the place of the third condition."""

    def spoil(folder: Path) -> None:
        (folder / name).unlink()
        make(folder / name)

    return spoil


def content(data: bytes) -> Spoil:
    return replaced(lambda path: path.write_bytes(data))  # type: ignore[attr-defined]


def a_socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as made:
        here = Path.cwd()
        os.chdir(path.parent)  # a socket's address is short
        try:
            made.bind(path.name)
        finally:
            os.chdir(here)


def letters_composed(folder: Path, name: str) -> str:
    return f"é{name}"


def written_apart(folder: Path) -> None:
    for path in folder.glob("*.png"):
        path.rename(folder / f"e\u0301{path.name}")


def as_parquet(folder: Path, without: str = "", cut: int = 0) -> None:
    """The same pairs as a table."""
    import pyarrow as arrow
    import pyarrow.parquet

    columns = {
        "image": [(folder / str(e["file_name"])).read_bytes() for e in entries(folder)],
        "conditioning_image": [(folder / str(e["conditioning_image"])).read_bytes() for e in entries(folder)],
        "text": [e["text"] for e in entries(folder)],
    }
    columns.pop(without, None)
    pyarrow.parquet.write_table(arrow.table(columns), folder / "pairs.parquet")
    content = (folder / "pairs.parquet").read_bytes()
    (folder / "pairs.parquet").write_bytes(content[: len(content) - cut])


def alone(make: Spoil) -> Spoil:
    """In place of list and pictures."""

    def spoil(folder: Path) -> None:
        before = list(folder.iterdir())
        make(folder)
        for path in before:
            path.unlink()

    return spoil


def as_shard(folder: Path, lacks: str = "") -> None:
    """The same pairs as a tar; the third lacks one part."""
    with tarfile.open(folder / "pairs.tar", "w") as tar:
        for number, entry in enumerate(entries(folder)):
            parts = {
                "png": (folder / str(entry["file_name"])).read_bytes(),
                "condition.png": (folder / str(entry["conditioning_image"])).read_bytes(),
                "txt": str(entry["text"]).encode(),
            }
            if number == 2:
                parts.pop(lacks, None)
            for ending, data in parts.items():
                member = tarfile.TarInfo(f"{number:03d}.{ending}")
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))


def as_csv(names: str, between: str = ",", encoding: str = "utf-8") -> Spoil:
    def spoil(folder: Path) -> None:
        rows = [names.replace(",", between)]
        rows += [between.join(map(str, entry.values())) for entry in entries(folder)]
        (folder / "metadata.csv").write_text("\n".join(rows), encoding=encoding)
        (folder / "metadata.jsonl").unlink()

    return spoil


def as_folders(folder: Path) -> None:
    """targets/ and conditions/; the third has no condition."""
    for name in ("targets", "conditions"):
        (folder / name).mkdir()
    for number, entry in enumerate(entries(folder)):
        (folder / str(entry["file_name"])).rename(folder / f"targets/{number:02d}.png")
        (folder / str(entry["conditioning_image"])).rename(folder / f"conditions/{number:02d}.png")
    (folder / "conditions/02.png").unlink()
    (folder / "metadata.jsonl").unlink()


NAMES = "file_name,conditioning_image,text"
LAYOUT_ROWS = [
    train("a_table_beside_the_list", as_parquet, 2),
    train("parquet", alone(as_parquet)),
    train("parquet_without_targets", alone(lambda f: as_parquet(f, without="image")), 2),
    train("parquet_without_conditions", alone(lambda f: as_parquet(f, without="conditioning_image")), 2),
    train("parquet_cut_short", alone(lambda f: as_parquet(f, cut=100)), 2),
    train("parquet_of_zeros", alone(lambda f: (f / "a.parquet").write_bytes(bytes(1000))), 2),
    train("shard", alone(as_shard)),
    check("shard_lacks_a_condition", alone(lambda f: as_shard(f, "condition.png")), 1),
    check("shard_lacks_a_caption", alone(lambda f: as_shard(f, "txt")), 1),
    train("shard_is_no_tar", alone(lambda f: (f / "a.tar").write_bytes(b"hello" * 1000)), 2),
    train("csv_with_mark", as_csv(NAMES, encoding="utf-8-sig")),
    train("csv_with_semicolons", as_csv(NAMES, ";")),
    train("csv_without_targets", as_csv("a,conditioning_image,text"), 2),
    check("targets_without_condition", as_folders, 1),
    train("saved_dataset_torn", alone(lambda f: (f / "state.json").write_text("{")), 2),
]

ROWS = [
    check("latin_1_line", line('{"file_name": "2.png", "text": "caf\u00e9"}'.encode("latin-1")), 1),
    check("half_an_emoji", change(text="a cat \ud83d"), 0),
    train("half_an_emoji", change(text="a cat \ud83d")),
    check("a_nul_in_a_caption", change(text="a\0cat")),
    train("a_nul_in_a_caption", change(text="a\0cat")),
    check("misread_utf_8", change(text="cr\u00c3\u00aape")),
    check("half_a_letter_in_a_name", change(file_name="\udcff.png"), 1),
    check("a_nul_in_a_name", change(file_name="a\0.png"), 1),
    check("an_escape_in_a_name", change(file_name="\x1b[31mred.png"), 1),
    check("an_endless_name", change(file_name="a" * 5000), 1),
    check("other_keys", line(b'{"img": "2.png", "cond": "2_outline.png", "text": "a"}'), 1),
    check("captions_in_a_list", change(text=["a", "b"])),
    check("no_caption_in_a_list", change(text=[]), 1),
    check("caption_null", change(text=None), 1),
    check("name_is_a_number", change(file_name=2), 1),
    check("name_is_empty", change(file_name=""), 1),
    check("line_is_cut", line(b'{"file_name": "2.png", "conditi'), 1),
    check("line_of_single_quotes", line(b"{'file_name': '2.png'}"), 1),
    check("line_nested_deeply", line(b"[" * 100_000), 1),
    check("number_without_end", line(b'{"file_name": ' + b"1" * 5000 + b"}"), 1),
    train("utf_16", lambda folder: write(folder, entries(folder), "utf-16")),
    train("utf_8_with_mark", lambda folder: write(folder, entries(folder), "utf-8-sig")),
    train("list_of_zeros", whole(bytes(4096)), 2),
    train("list_is_a_pointer", whole(b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n"), 2),
    train("list_is_empty", whole(b"\n\n"), 2),
    train("list_is_a_folder", lambda f: ((f / "metadata.jsonl").unlink(), (f / "metadata.jsonl").mkdir()), 2),
    train("list_is_a_pipe", lambda f: ((f / "metadata.jsonl").unlink(), os.mkfifo(f / "metadata.jsonl")), 2),
    train("list_is_csv", lambda f: (f / "metadata.jsonl").rename(f / "metadata.csv"), 2),
    train("one_array", tutorials(json.dumps)),
    train("array_over_lines", tutorials(lambda listed: json.dumps(listed, indent=2))),
    train("objects_over_lines", tutorials(lambda listed: "\n".join(json.dumps(e, indent=2) for e in listed))),
    train("array_in_an_object", tutorials(lambda listed: json.dumps({"data": listed}, indent=1))),
    check("array_is_cut", tutorials(lambda listed: json.dumps(listed, indent=1)[:-60]), 1),
    train("backslashes", paths(lambda f, name: f".\\{name}")),
    train("spaces_around_names", paths(lambda f, name: f" {name} ")),
    train("other_case", paths(lambda f, name: name.upper())),
    train("letters_composed", paths(letters_composed, written_apart)),
    train("absolute_paths", paths(lambda f, name: str(f / name))),
    train("paths_above", paths(lambda f, name: f"../images/{name}", into_folder)),
    train("linked_pictures", linked),
    train("linked_folder", paths(lambda f, name: f"images/{name}", linked_folder)),
    check("a_loop_of_links", replaced(lambda path: path.symlink_to(path.name)), 1),
    check("a_dead_link", replaced(lambda path: path.symlink_to("gone.png")), 1),
    check("a_pipe", replaced(os.mkfifo), 1),
    check("a_socket", replaced(a_socket), 1),
    check("a_device", replaced(lambda path: path.symlink_to("/dev/zero")), 1),
    check("a_folder", replaced(Path.mkdir), 1),
    train("a_pipe", replaced(os.mkfifo), 2),
    check("empty_file", content(b""), 1),
    check("a_pointer", content(b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n"), 1),
    check("a_web_page", content(b"\n<!DOCTYPE html><html>not found</html>"), 1),
    check("zeros", content(bytes(1000)), 1),
    check("a_bomb", content(bomb()), 1),
    check("cut_short", content(encoded(outline(), "PNG")[:-40]), 1),
    check("no_format", content(b"hello"), 1),
    check("floats_to_1", content(floats(1.0))),
    check("floats_with_nan", content(floats(1.0, float("nan")))),
    check("floats_with_inf", content(floats(80.0, float("inf")))),
    check("exif_garbage", content(with_exif(b"Exif\0\0MM\0*\xff\xff\xff\xffgarbage"))),
    check("exif_orientation_9", content(with_exif(b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x09\0\0"))),
    check("exif_cut", content(with_exif(b"Exif\0\0MM\0*\0\0\0\x08\0\x09\x01\x12"))),
    check("animated", content(encoded(outline(), "GIF", save_all=True, append_images=[Image.new("L", (20, 20))]))),
    train(
        "odd_things",
        lambda f: (outline().save(f / "2_outline.png"), Image.new("L", (20, 20)).save(f / "3_outline.png")),
    ),
    Row(
        "check_cut_captions",
        lambda s: (change(text="red " * 40)(s.pairs()), ("check", s.folder / "pairs", "--base", s.right_base))[1],
        0,
    ),
    train("cut_captions", change(text="red " * 40)),
    *LAYOUT_ROWS,
    Row("train_the_list_itself", lambda s: s.train(data=s.pairs() / "metadata.jsonl")),
]


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_a_folder_of_pairs_works_or_one_sentence_says_why(row: Row, street: Street, everstep: Everstep) -> None:
    walk(row, "pairs", street, everstep)


def test_every_message_has_its_row() -> None:
    assert set(read_golden("pairs")) == {row.name for row in ROWS}
