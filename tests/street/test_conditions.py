"""Ways to make conditions, as people name them: each works, or one sentence says why and nothing is left behind."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from street import Everstep, Row, Street, Words, read_golden, walk

Build = Callable[[Street], Words]


def right(street: Street) -> Words:
    return ("check", street.right_pairs, "--condition", "canny")


def named(condition: str, model: object = None) -> Build:
    more = () if model is None else ("--condition-model", model)
    return lambda street: ("check", street.right_pairs, "--condition", condition, *more)


def pickled(street: Street) -> Words:
    (street.folder / "model.pth").write_bytes(b"")
    return named("softedge", "model.pth")(street)


def function(body: str, name: str = "make", model: object = None) -> Build:
    """A file with a function that makes conditions, and the line that takes it."""

    def build(street: Street) -> Words:
        (street.folder / "own.py").write_text(body)
        return named(f"own.py:{name}", model)(street)

    return build


def alone(condition: str) -> Build:
    """A list of pictures without conditions."""

    def build(street: Street) -> Words:
        folder = street.pairs()
        listed = [json.loads(line) for line in (folder / "metadata.jsonl").read_text().splitlines()]
        lines = (json.dumps({key: line[key] for key in ("file_name", "text")}) for line in listed)
        (folder / "metadata.jsonl").write_text("\n".join(lines))
        return ("check", Path("pairs"), "--condition", condition)

    return build


def row(name: str, build: Build, code: int = 2) -> Row:
    return Row(name, build, code, shows="^(?!Trying the function)", right=right)  # that is said where it takes long


UNSTEADY = "import os\ndef make(picture): return picture + os.urandom(1)[0] // 2 + os.urandom(1)[0] // 2\n"
ROWS = [
    row("kind_with_a_slip", named("cany")),
    row("kind_in_american", named("gray")),
    row("kind_that_is_none", named("pose")),
    row("model_without_a_kind", named("file", "depth")),
    row("model_is_missing", named("depth")),
    row("model_is_not_used", named("canny", "depth")),
    row("model_is_not_there", named("depth", "depth")),
    row("model_is_a_folder", lambda street: named("lineart", street.right_pairs)(street)),
    row("model_is_a_pickle", pickled),
    row("function_file_is_not_there", named("own.py:make")),
    row("function_file_of_an_endless_name", named(f"{'x' * 5000}.py:make")),
    row("function_without_a_name", function("", "")),
    row("function_is_not_there", function("def other(picture): return picture\n")),
    row("function_is_no_python", function("def make(picture) return picture\n")),
    row("function_needs_what_is_not_there", function("import a_library_of_mine\n")),
    row("function_with_a_model", function("", "make", "depth")),
    row("function_takes_too_much", function("def make(picture, draws, more): return picture\n")),
    row("function_raises", function("def make(picture): return picture[9999]\n")),
    row("function_ends_the_program", function("import os\ndef make(picture): os._exit(7)\n")),
    row("function_exits", function("def make(picture): raise SystemExit\n")),
    row("function_returns_grey", function("def make(picture): return picture[:, :, 0]\n")),
    row("function_returns_floats", function("def make(picture): return picture / 255\n")),
    row("function_returns_nothing", function("def make(picture): print('made')\n")),
    row("function_draws_by_itself", function(UNSTEADY)),
    row("function_works", function("def make(picture):\n    print('made')\n    return 255 - picture\n"), 0),
    row("pictures_alone_without_a_kind", alone("file"), 2),
    row("pictures_alone", alone("tile"), 0),
    row("pictures_with_conditions", right, 0),
]


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_what_is_brought_works_or_one_sentence_says_why(row: Row, street: Street, everstep: Everstep) -> None:
    walk(row, "conditions", street, everstep)


def test_every_message_has_its_row() -> None:
    assert set(read_golden("conditions")) == {row.name for row in ROWS}
