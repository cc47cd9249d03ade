"""A folder of pairs as its list describes it: metadata.jsonl, metadata.csv, or the tutorial's prompt.json.

Reads the list only; whether the images are there and can be used is for `checking` to find.
"""

import json
import os
from collections.abc import Iterator
from dataclasses import astuple
from pathlib import Path
from typing import Any

import xxhash

from everstep.data.layouts.columns import CAPTIONS, CONDITIONS, NOTHING_ASKED, ROLES, TARGETS, Columns, guess
from everstep.data.layouts.entries import Entry, read_content, read_entries, read_rows
from everstep.data.layouts.files import FolderFiles
from everstep.data.layouts.kept import unpacked
from everstep.data.layouts.listing import Finding, Listed, Listing, made, texts
from everstep.data.layouts.names import Names
from everstep.data.remembered import Memory, program
from everstep.errors import UserError
from everstep.letters import printable, whole_letters

# List file -> for each of target, condition and caption, the keys that are understood, the usual one first.
LAYOUTS = {
    "metadata.jsonl": (
        ("file_name", "image", "image_file_name", *TARGETS),
        ("conditioning_image", "condition_image", "conditioning_image_file_name", *CONDITIONS),
        ("text", "caption", *CAPTIONS),
    ),
    "prompt.json": (("target",), ("source",), ("prompt",)),
    "metadata.csv": (TARGETS, CONDITIONS, CAPTIONS),
}
USUAL = {"file_name", "image", "image_file_name", "conditioning_image", "condition_image", "text", "caption"} | {
    "conditioning_image_file_name"
}  # which need not be told
KINDS = {list: "a list", dict: "an object", bool: "a truth value", int: "a number", float: "a number"}
EXAMPLE = '{"file_name": "a.png", "conditioning_image": "a_edges.png", "text": "a cat"}'
Keys = tuple[tuple[str, ...], ...]


def place_of(list_at: str) -> str:
    """What a list is remembered under."""
    return f"listing:{os.path.realpath(list_at)}"


def read_list(folder: Path, layout: str, asked: Columns = NOTHING_ASKED, memory: Memory | None = None) -> Listing:
    """Read one of the lists that a folder may have. Raises: UserError if it cannot be read, or lists nothing.

    Args:
        memory: which may hold what this list was read as before. Whether its files are still there is to be found out.
    """
    list_at, files = folder / layout, FolderFiles(folder)
    content = read_content(list_at)
    told = json.dumps([program(), layout, astuple(asked)]).encode()
    identity = xxhash.xxh3_128_digest(told + xxhash.xxh3_128_digest(content))
    if memory is not None and (kept := memory.recall_list(place_of(str(list_at)), identity)) is not None:
        return unpacked(kept, str(folder), str(list_at), files, identity)
    keys: Keys = tuple(
        known if wanted is None else (wanted,)
        for known, wanted in zip(LAYOUTS[layout], (asked.target, asked.condition, asked.caption), strict=True)
    )
    said = layout
    if layout == "metadata.csv":
        columns, entries = _table(list_at, content, asked)
        keys = tuple((name,) if name else () for name in (columns.target, columns.condition, columns.caption))
        said = f"{layout} ({columns.in_words()})"
    else:
        entries = read_entries(list_at, content)
    if layout != "metadata.csv" and asked != NOTHING_ASKED:
        said = f"{layout} ({', '.join(f'{r} {n}' for r in ROLES if (n := getattr(asked, r)))})"
    used: set[str] = set()
    del content  # as large as all captions
    names = Names(folder)
    pairs, findings, without = _read(entries, keys, names, used)
    if said == "metadata.jsonl" and (guessed := sorted(used - USUAL)):
        said = f"{layout} ({', '.join(guessed)})"
    if not pairs and not findings:
        raise UserError(f"{list_at} lists no pairs. Nothing was started. A line of it: {EXAMPLE}")
    return Listing(
        str(folder),
        str(list_at),
        said,
        tuple(pairs),
        tuple(findings),
        files,
        bool(keys[2]),
        without,
        identity if names.are_as_written else None,
    )


def _table(path: Path, content: bytes, asked: Columns) -> tuple[Columns, Iterator[Entry]]:
    names, rows = read_rows(path, content)
    return guess(str(path), names, asked), rows


def _read(
    entries: Iterator[Entry], keys: Keys, names: Names, used: set[str]
) -> tuple[list[Listed], list[Finding], tuple[Finding, ...]]:
    """Pairs, what is wrong, and what there is to say of pairs without a condition."""
    pairs: list[Listed] = []
    findings: list[Finding] = []
    without: dict[int, Finding] = {}
    usual = tuple(known[0] for known in keys) if all(keys) else ()
    for entry in entries:
        if usual and (simple := _simple(entry, usual, names)) is not None:
            pairs.append(simple)
            continue
        parsed = _parse(entry, keys, names, without, used)
        if isinstance(parsed, Finding):
            findings.append(parsed)
            continue
        pair, found_odd = parsed
        pairs.append(pair)
        findings += found_odd
    return pairs, findings, tuple(without.values())


def _simple(entry: Entry, usual: tuple[str, ...], names: Names) -> Listed | None:
    """What nearly all lines of a long list are: nothing to guess, to look for or to find odd. Else None."""
    line, value, _ = entry
    if type(value) is not dict:
        return None
    target, condition, caption = map(value.get, usual)
    if type(target) is not str or type(condition) is not str or type(caption) is not str:
        return None
    is_plain = caption.isascii() and caption.isprintable() and target.isascii() and condition.isascii()
    if not is_plain or not names.lists(target) or not names.lists(condition):
        return None
    return Listed(line, target, condition, caption)


def _parse(
    entry: Entry, keys: Keys, names: Names, without: dict[int, Finding], used: set[str]
) -> tuple[Listed, tuple[Finding, ...]] | Finding:
    if entry.fault:
        return Finding(entry.line, "", entry.fault)
    if not isinstance(entry.value, dict):
        return Finding(entry.line, "", "is no JSON object")
    values: list[list[str]] = []
    for number, known in enumerate(keys):
        name = next((name for name in known if name in entry.value), None)
        value = None if name is None else entry.value[name]
        found = [value] if isinstance(value, str) else texts(value) if number else None
        if found is None and not known:
            found = []
        if found is None:
            fault = Finding(entry.line, "", _no_text(name, value, entry.value, keys, known))
            if number != 1 or value is not None:
                return fault
            without[entry.line], found = fault, []
        elif name is not None:
            used.add(name)
        values.append(found)
    (target,), conditions, captions = values
    for path in (target, *conditions):
        if wrong := _no_name(path):
            without.pop(entry.line, None)
            return Finding(entry.line, printable(path), wrong)
    return made(entry.line, names.find(target), list(map(names.find, conditions)), captions)


def _no_text(name: str | None, value: Any, has: dict[str, Any], keys: Any, known: tuple[str, ...]) -> str:
    """Why one of the three is not there as a text."""
    if name is None:
        every = ", ".join(names[0] for names in keys)
        return f"has no {known[0]}; it has {printable(', '.join(has)) or 'nothing'}; known are {every}"
    is_caption = known == keys[-1]
    if value is None:
        return f"has null as its {name}" + ('; a pair without a caption has "" there' if is_caption else "")
    if isinstance(value, list) and known != keys[0]:
        return f"has a list as its {name} that holds {'other things than texts' if value else 'nothing'}"
    return f"has {KINDS[type(value)]} as its {name}, not a text"


def _no_name(path: str) -> str:
    """Why a text can name no file."""
    if not path.strip():
        return "has an empty file name"
    if "\0" in path:
        return "is no file name: it holds a NUL"
    if whole_letters(path) != path:
        return "is no file name: it holds half a letter; rename the file"
    return ""
