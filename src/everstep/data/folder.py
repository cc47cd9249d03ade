"""A folder of pairs as its list describes it: metadata.jsonl, or the prompt.json of the ControlNet tutorial.

Reads the list only; whether the images are there and can be used is for `faults` to find.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from everstep.errors import UserError

# List file -> for each of target, condition and caption, the keys that are understood, the usual one first.
LAYOUTS = {
    "metadata.jsonl": (
        ("file_name", "image"),
        ("conditioning_image", "condition_image"),
        ("text", "caption"),
    ),
    "prompt.json": (("target",), ("source",), ("prompt",)),
}


@dataclass(frozen=True, slots=True)
class Finding:
    """Something about one line of the list. Severity: "error" where the pair cannot be used, else "warning"."""

    line: int
    file: str
    what: str
    severity: str = "error"

    def __str__(self) -> str:
        return f"line {self.line}: {self.file}: {self.what}" if self.file else f"line {self.line}: {self.what}"


@dataclass(frozen=True, slots=True)
class Listed:
    """One pair of the list, paths relative to the folder."""

    line: int
    target: str
    condition: str
    caption: str


@dataclass(frozen=True, slots=True)
class Listing:
    """A folder's list: the pairs that could be understood, and what could not."""

    folder: Path
    layout: str
    pairs: tuple[Listed, ...]
    findings: tuple[Finding, ...]


def read_listing(folder: Path) -> Listing:
    """Read the folder's list. Raises: UserError if there is none, or more than one."""
    found = [name for name in LAYOUTS if (folder / name).is_file()]
    if len(found) != 1:
        has = "both" if found else "neither"
        raise UserError(
            f"{folder} holds {has} of metadata.jsonl and prompt.json; one of them lists the pairs. "
            'A line of metadata.jsonl: {"file_name": "a.png", "conditioning_image": "a_edges.png", "text": "a cat"}'
        )
    layout = found[0]
    _is_folder_inside.cache_clear()  # a link may lead elsewhere than it did at the last look
    pairs: list[Listed] = []
    findings: list[Finding] = []
    for line, text in _lines(folder / layout):
        parsed = _parse(folder, line, text, LAYOUTS[layout])
        if isinstance(parsed, Listed):
            pairs.append(parsed)
        else:
            findings.append(parsed)
    if not pairs and not findings:
        raise UserError(f"{folder / layout} lists no pairs.")
    return Listing(folder, layout, tuple(pairs), tuple(findings))


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not UTF-8 text: {error}") from None
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            yield number, line


def _parse(folder: Path, line: int, text: str, keys: tuple[tuple[str, ...], ...]) -> Listed | Finding:
    try:
        entry = json.loads(text)
    except ValueError as error:
        return Finding(line, "", f"is no JSON ({error})")
    if not isinstance(entry, dict):
        return Finding(line, "", "is no JSON object")
    values = []
    for names in keys:
        value = next((entry[name] for name in names if name in entry), None)
        if not isinstance(value, str):
            return Finding(line, "", f"has no {names[0]}; it has {', '.join(entry) or 'nothing'}")
        values.append(value)
    target, condition, caption = values
    for path in (target, condition):
        if not _is_inside(folder, path):
            return Finding(line, path, "lies outside of the folder")
    return Listed(line, target, condition, caption)


def _is_inside(folder: Path, path: str) -> bool:
    parent, _, name = path.rpartition("/")
    return _is_folder_inside(folder, path if name in ("", ".", "..") else parent)


@lru_cache(maxsize=10_000)
def _is_folder_inside(folder: Path, parent: str) -> bool:
    """Asked once of each folder: a list of a million files must not ask the disk about each of them here."""
    whole: Any = (folder / parent).resolve()
    return bool(whole.is_relative_to(folder.resolve()))
