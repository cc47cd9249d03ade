"""What people bring, as a table: one row is how an input is made, what becomes of it, and the sentence that says so.

A row that is refused leaves its folder as it was, byte for byte. The right input then works under the same name, which
follows where nothing is left behind: tried of rows that have a right input of their own, and of all by `make slow`.
Every message is a golden file, golden/<table>.txt; EVERSTEP_GOLDEN=write writes what is said now, to be read.
"""

import os
import re
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from program import Ended

Words = Sequence[object]
Everstep = Callable[..., Ended]
GOLDEN = Path(__file__).parent / "golden"
IS_WRITTEN = os.environ.get("EVERSTEP_GOLDEN") == "write"
# Two steps, and nothing beside them that takes time.
SMALL = (
    *("--optim.max-steps", 2, "--optim.batch-size", 2, "--versions.every", 100),
    *("--sampling.pairs", 0, "--scoring.overhead", 0, "--keeper.snapshots", "off"),
)


@dataclass(frozen=True)
class Street:
    """An empty folder to stand in, and copies of what is right to spoil."""

    folder: Path
    right_base: Path
    right_pairs: Path
    is_walked_on: bool = False  # the right input is tried after each that is refused

    def base(self, name: str = "base") -> Path:
        """A copy of a base that works, to be spoilt."""
        return shutil.copytree(self.right_base, self.folder / name)

    def pairs(self, name: str = "pairs") -> Path:
        """A copy of 30 pairs that work, metadata.jsonl, to be spoilt."""
        return shutil.copytree(self.right_pairs, self.folder / name)

    def train(self, *more: object, base: object = None, data: object = None) -> Words:
        """The words of a small training, run a, of these."""
        return (
            "train",
            "--run",
            "a",
            "--base",
            base or self.right_base,
            "--data",
            data or self.right_pairs,
            *SMALL,
            *more,
        )


@dataclass(frozen=True)
class Row:
    """One thing that somebody brings. Exit code 2 means that nothing was changed."""

    name: str  # of the row, and of its message in the golden file
    build: Callable[[Street], Words]  # makes it, and returns the words that are then typed
    code: int = 2
    shows: str = ""  # where only part of what is said is the row's: the pattern of the lines that are
    right: Callable[[Street], Words] = Street.train  # what then works under the same name; asked of refused rows alone


def walk(row: Row, table: str, street: Street, everstep: Everstep) -> None:
    """Bring it, and look at all that the row promises."""
    words = row.build(street)
    before = contents(street.folder)
    ended = everstep(*words)
    said = in_general(ended.out, street, row.shows)
    assert ended.code == row.code, ended.out
    assert "Traceback" not in ended.out, ended.out
    compare(table, row.name, said)
    if row.code == 2:
        assert contents(street.folder) == before, "something was left behind"
    if row.code == 2 and (street.is_walked_on or row.right is not Street.train):
        again = everstep(*row.right(street))
        assert again.code == 0, again.out


def contents(folder: Path) -> Mapping[str, object]:
    """Everything below a folder: files by content, links by target, and what is neither by its kind."""
    found: dict[str, object] = {}
    for path in sorted(folder.rglob("*")):
        name = os.fsencode(path.relative_to(folder)).decode("latin-1")
        if path.is_symlink():
            found[name] = ("link", os.readlink(path))
        elif path.is_file():
            found[name] = path.read_bytes() if os.access(path, os.R_OK) else "a file"
        else:
            found[name] = oct(path.lstat().st_mode)
    return found


def in_general(said: str, street: Street, shows: str = "") -> str:
    """What is said, without what differs from one machine or day to the next."""
    for path, name in ((street.folder, "HERE"), (street.right_base, "BASE"), (street.right_pairs, "PAIRS")):
        said = said.replace(str(path.resolve()), name).replace(str(path), name)
    said = re.sub(r"\d[\d.]* [kMGT]?B free", "N free", said)
    said = re.sub(r"One version is \d[\d.]* (\w+)", r"One version is N \1", said)  # paths are in its settings
    said = re.sub(r"/\S*\.\.\.\S+ \(\d+ bytes\)", "LONG (N bytes)", said)
    said = re.sub(r", \d[\d.]* (ms|s|min)\b", ", TIME", said)
    said = re.sub(r"xxh3-128:[0-9a-f]{32}", "xxh3-128:DIGEST", said)
    lines = [line.rstrip() for line in said.splitlines()]
    return "\n".join(line for line in lines if re.search(shows, line)).strip()


def compare(table: str, name: str, said: str) -> None:
    """Hold a message against the golden one, or write it there."""
    messages = read_golden(table)
    if IS_WRITTEN:
        messages[name] = said
        text = "\n\n".join(f"== {key}\n{message}" for key, message in sorted(messages.items()))
        (GOLDEN / f"{table}.txt").write_text(f"{text}\n")
    assert said == messages.get(name), f"golden/{table}.txt says otherwise of {name}"


def read_golden(table: str) -> dict[str, str]:
    """The messages of a table by the names of their rows."""
    path = GOLDEN / f"{table}.txt"
    parts = re.split(r"^== (.*)\n", path.read_text() if path.is_file() else "", flags=re.M)[1:]
    return {name: message.strip() for name, message in zip(parts[::2], parts[1::2], strict=True)}
