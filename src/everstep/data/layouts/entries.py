"""The text of a list of pairs as entries with their lines: one object a line, one array, or objects over many lines.

Knows encodings and JSON. Does not know what an entry means.
"""

import csv
import io
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from everstep.errors import UserError
from everstep.plain_files import read_plain

# Bytes that are no UTF-8 stand in the text as these, until their line is looked at.
NOT_UTF8 = re.compile("[\udc80-\udcff]")
NEXT_OBJECT = re.compile(r"^[ \t]*\{", re.MULTILINE)
BETWEEN = re.compile(r"[\s,]*")
DECODER = json.JSONDecoder()
Scan = Callable[[str, int], tuple[Any, int]]
MOST_FAULTS = 100  # of a list that is not one object a line


class Entry(NamedTuple):
    """What begins at one line of the list: a value, or why there is none."""

    line: int
    value: Any = None
    fault: str = ""


def read_content(path: Path) -> bytes:
    """All of a list, as it lies there. Raises: UserError."""
    try:
        return read_plain(path)
    except (OSError, ValueError) as error:
        raise UserError(f"{path} {_why_unread(error)}. Nothing was started.") from None


def read_entries(path: Path, content: bytes) -> Iterator[Entry]:
    """Everything that is listed, in its order. Raises: UserError if the file as a whole is no text."""
    text = _text(path, content).replace("\r\n", "\n").replace("\r", "\n")
    start = _start_of_stream(text)
    return _of_lines(text) if start is None else _of_stream(text, start)


def read_rows(path: Path, content: bytes) -> tuple[list[str], Iterator[Entry]]:
    """The names of the columns of a table in text, and its rows by name. Raises: UserError if it is none."""
    text = _text(path, content).replace("\r\n", "\n").replace("\r", "\n")
    first = next((line for line in text.split("\n") if line.strip()), "")
    between = max(",;\t|", key=first.count)
    rows = csv.reader(io.StringIO(text), delimiter=between)
    names = next((row for row in _whole_rows(path, rows) if any(map(str.strip, row))), [])
    names = [name.strip() for name in names]
    return names, _of_rows(path, names, rows)


def _of_rows(path: Path, names: list[str], rows: Any) -> Iterator[Entry]:
    for row in _whole_rows(path, rows):
        line = rows.line_num
        if not any(map(str.strip, row)):
            continue
        if fault := _encoding_fault(" ".join(row)):
            yield Entry(line, fault=fault)
        elif len(row) != len(names):
            yield Entry(line, fault=f"has {len(row)} fields, but there are {len(names)} columns")
        else:
            yield Entry(line, dict(zip(names, row, strict=True)))


def _whole_rows(path: Path, rows: Any) -> Iterator[list[str]]:
    try:
        yield from rows
    except csv.Error as error:
        raise UserError(f"{path} is no table in text at line {rows.line_num} ({error}). Nothing was started.") from None


def _text(path: Path, content: bytes) -> str:
    if content.startswith(b"version https://git-lfs"):
        raise UserError(f"{path} is a git-lfs pointer, not the list itself. Nothing was started. git lfs pull gets it.")
    if content and not content.strip(b"\0"):
        raise UserError(f"{path} holds nothing but zeros: a copy of it was cut short. Nothing was started.")
    encoding = json.detect_encoding(content[:4])
    if encoding.startswith("utf-8"):
        return content.decode(encoding, "surrogateescape")
    return content.decode(encoding, "replace").removeprefix("\ufeff")


def _why_unread(error: OSError | ValueError) -> str:
    return f"cannot be read ({error.strerror})" if isinstance(error, OSError) and error.strerror else str(error)


def _start_of_stream(text: str) -> int | None:
    """Where values that go over several lines begin; None where every line is an object of its own."""
    found = re.search(r"\S", text)
    if found is None:
        return None
    begin = found.start()
    if text[begin] != "{":
        return begin if text[begin] == "[" else None
    whole = _loaded(_line_at(text, begin))
    if whole is None:
        try:
            whole, _ = DECODER.raw_decode(text, begin)
        except (ValueError, RecursionError):
            return None  # a first line that is broken, with others below it
        return _array_inside(text, begin, whole) or begin
    return _array_inside(text, begin, whole)


def _array_inside(text: str, begin: int, whole: Any) -> int | None:
    """Of {"data": [{...}, ...]}: where the one array begins."""
    values = list(whole.values()) if isinstance(whole, dict) else []
    if len(values) == 1 and isinstance(values[0], list) and all(isinstance(value, dict) for value in values[0]):
        return text.index("[", text.index(":", begin))
    return None


def _loaded(text: str) -> Any:
    """The value, or None where it is no JSON."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def _of_lines(text: str) -> Iterator[Entry]:
    scan: Scan = getattr(DECODER, "scan_once")  # noqa: B009 (no stub has it); what json.loads does beside it takes as long
    for line, written in enumerate(text.split("\n"), start=1):
        if written.isascii() and written[:1] == "{" and written[-1:] == "}":
            try:
                value, end = scan(written, 0)
            except (ValueError, RecursionError, StopIteration):
                end = -1
            if end == len(written):
                yield Entry(line, value)
                continue
        if written.strip():
            yield _parsed(line, written)


def _parsed(line: int, written: str) -> Entry:
    if fault := _encoding_fault(written):
        return Entry(line, fault=fault)
    try:
        return Entry(line, json.loads(written))
    except (ValueError, RecursionError) as error:
        return Entry(line, fault=_no_json(error))


def _encoding_fault(written: str) -> str:
    found = None if written.isascii() else NOT_UTF8.search(written)
    if found is None:
        return ""
    return f"is not UTF-8 text at column {found.start() + 1} (byte {ord(found[0]) - 0xDC00:#04x})"


def _no_json(error: Exception) -> str:
    if isinstance(error, json.JSONDecodeError):
        return f"is no JSON ({error.msg.removesuffix(' at')} at column {error.colno})"
    why = "nested too deeply" if isinstance(error, RecursionError) else "a number has too many digits"
    return f"is no JSON that can be read ({why})"


def _of_stream(text: str, start: int) -> Iterator[Entry]:
    """Values one after another, in an array or not; after what cannot be read, from the next line with an object on."""
    place, line, counted, faults, is_array = start, 1, 0, 0, False
    while True:
        place = _after_space(text, place)
        line, counted = line + text.count("\n", counted, place), place
        if place == len(text):
            if is_array:
                yield Entry(line, fault="ends within its array: the file was cut short")
            return
        if text[place] == ("]" if is_array else "["):
            place, is_array = place + 1, not is_array
            continue
        if text[place] == "}" and text[start - 1 : start].strip() in (":", "") and not text[place + 1 :].strip():
            return  # the end of the object that the array lies in
        try:
            value, end = DECODER.raw_decode(text, place)
        except (ValueError, RecursionError) as error:
            where = error.lineno if isinstance(error, json.JSONDecodeError) else line
            yield Entry(where, fault=_encoding_fault(_line_at(text, place)) or _no_json(error))
            following, faults = NEXT_OBJECT.search(text, _end_of_line(text, place)), faults + 1
            if following is None:
                return
            if faults == MOST_FAULTS:  # each costs a look at the whole text
                yield Entry(where, fault=f"is where reading ended, after {faults} faults")
                return
            place = following.start()
            continue
        yield Entry(line, value, _encoding_fault(text[place:end]))
        place = end


def _after_space(text: str, place: int) -> int:
    found = BETWEEN.match(text, place)
    return found.end() if found else place


def _end_of_line(text: str, place: int) -> int:
    end = text.find("\n", place)
    return len(text) if end < 0 else end


def _line_at(text: str, place: int) -> str:
    return text[place : _end_of_line(text, place)]
