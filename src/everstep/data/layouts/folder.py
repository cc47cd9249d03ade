"""A folder of pairs as its list describes it: metadata.jsonl, or the prompt.json of the ControlNet tutorial.

Reads the list only; whether the images are there and can be used is for `checking` to find.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from everstep.data.layouts.entries import Entry, read_entries
from everstep.data.layouts.names import Names
from everstep.errors import UserError
from everstep.letters import oddity, printable, whole_letters

# List file -> for each of target, condition and caption, the keys that are understood, the usual one first.
LAYOUTS = {
    "metadata.jsonl": (
        ("file_name", "image", "image_file_name"),
        ("conditioning_image", "condition_image", "conditioning_image_file_name"),
        ("text", "caption"),
    ),
    "prompt.json": (("target",), ("source",), ("prompt",)),
}
KINDS = {list: "a list", dict: "an object", bool: "a truth value", int: "a number", float: "a number"}
OTHER_LISTS = ("metadata.csv", "metadata.parquet", "metadata.json", "train.jsonl", "dataset.json", "prompts.json")
NO_CONDITION = "no_condition"  # kind of the finding where a line names none
EXAMPLE = '{"file_name": "a.png", "conditioning_image": "a_edges.png", "text": "a cat"}'


@dataclass(frozen=True, slots=True)
class Finding:
    """Something about one line of the list. Severity: "error" where the pair cannot be used, else "warning"."""

    line: int
    file: str
    what: str
    severity: str = "error"
    kind: str = ""  # one word for all findings that are counted together

    def __str__(self) -> str:
        return (
            f"line {self.line}: {printable(self.file)}: {self.what}" if self.file else f"line {self.line}: {self.what}"
        )


@dataclass(frozen=True, slots=True)
class Listed:
    """One pair of the list, paths relative to the folder, or absolute; no condition, "", where none is needed."""

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


def read_listing(folder: Path, needs_conditions: bool = True) -> Listing:
    """Read the folder's list. Raises: UserError if there is none, or more than one.

    Args:
        needs_conditions: whether a pair without one is a fault; where not, one that is listed is kept all the same.
    """
    found = [name for name in LAYOUTS if (folder / name).exists()]
    if len(found) != 1:
        raise UserError(_no_list(folder, bool(found)))
    layout = found[0]
    names = Names(folder)
    pairs: list[Listed] = []
    findings: list[Finding] = []
    for entry in read_entries(folder / layout):
        parsed = _parse(entry, LAYOUTS[layout], names, needs_conditions)
        if isinstance(parsed, Finding):
            findings.append(parsed)
            continue
        pair, found_odd = parsed
        pairs.append(pair)
        findings += found_odd
    if not pairs and not findings:
        raise UserError(f"{folder / layout} lists no pairs. Nothing was started. A line of it: {EXAMPLE}")
    return Listing(folder, layout, tuple(pairs), tuple(findings))


def _no_list(folder: Path, has_both: bool) -> str:
    """Why there is not one list, with what lies there instead."""
    near = [name for name in OTHER_LISTS if (folder / name).exists()]
    below = sorted(path for name in LAYOUTS for path in folder.glob(f"*/{name}")) if not has_both else []
    hint = f" {folder / near[0]} is not read." if near and not has_both else ""
    hint = f" {below[0].parent} has one." if below else hint
    return (
        f"{folder} holds {'both' if has_both else 'neither'} of metadata.jsonl and prompt.json; one of them lists the "
        f"pairs.{hint} Nothing was started. A line of metadata.jsonl: {EXAMPLE}"
    )


def _parse(
    entry: Entry, keys: tuple[tuple[str, ...], ...], names: Names, needs_conditions: bool
) -> tuple[Listed, tuple[Finding, ...]] | Finding:
    if entry.fault:
        return Finding(entry.line, "", entry.fault)
    if not isinstance(entry.value, dict):
        return Finding(entry.line, "", "is no JSON object")
    values = []
    for known in keys:
        name = next((name for name in known if name in entry.value), None)
        value = None if name is None else entry.value[name]
        is_condition = known == keys[1]
        if value is None and is_condition and not needs_conditions:
            value = ""
        if not isinstance(value, str):
            kind = NO_CONDITION if is_condition and name is None else ""
            return Finding(entry.line, "", _no_text(name, value, entry.value, keys, known), kind=kind)
        values.append(value)
    target, condition, caption = values
    for path in (target, condition) if needs_conditions else (target,):
        if wrong := _no_name(path):
            return Finding(entry.line, printable(path), wrong)
    found = names.find(condition) if needs_conditions else condition
    pair = Listed(entry.line, names.find(target), found, whole_letters(caption))
    odd = oddity(caption)
    return pair, () if odd is None else (Finding(entry.line, pair.target, odd[1], "warning", odd[0]),)


def _no_text(name: str | None, value: Any, has: dict[str, Any], keys: Any, known: tuple[str, ...]) -> str:
    """Why one of the three is not there as a text."""
    if name is None:
        every = ", ".join(names[0] for names in keys)
        return f"has no {known[0]}; it has {printable(', '.join(has)) or 'nothing'}; known are {every}"
    is_caption = known == keys[-1]
    if value is None:
        return f"has null as its {name}" + ('; a pair without a caption has "" there' if is_caption else "")
    more = "; each caption needs a line of its own" if is_caption and isinstance(value, list) else ""
    return f"has {KINDS[type(value)]} as its {name}, not a text{more}"


def _no_name(path: str) -> str:
    """Why a text can name no file."""
    if not path.strip():
        return "has an empty file name"
    if "\0" in path:
        return "is no file name: it holds a NUL"
    if whole_letters(path) != path:
        return "is no file name: it holds half a letter; rename the file"
    return ""
