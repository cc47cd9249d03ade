"""Pairs in tables: parquet files, and what `datasets` saves. Pictures lie in the rows, or are named by them.

A file is known as "train-00000.parquet#17/image", of several pictures in one cell as "...#17/image/2".
"""

import itertools
import json
import os
import threading
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol

from everstep.data.layouts.columns import Columns, guess
from everstep.data.layouts.files import FolderFiles, refuse_another
from everstep.data.layouts.listing import Finding, Listed, Listing, made, texts
from everstep.errors import UserError
from everstep.stamps import NO_STAMP, stamp_of

KEPT_BYTES = 256 << 20  # of row groups that were read; what is asked for in order is read once
ROWS = 10_000  # captions listed at once
LISTS = ("list<", "large_list<", "fixed_size_list<")
PICTURE_TYPES = ("binary", "large_binary", "string", "large_string")


class Table(Protocol):
    """One file of rows."""

    path: Path
    rows: int
    schema: Any

    def cell(self, row: int, column: str) -> Any: ...
    def cells(self, column: str) -> Iterator[Any]:
        """All of a column, some rows at a time."""
        ...


class ParquetTable:
    """A parquet file. Row groups that were read last are kept."""

    def __init__(self, path: Path) -> None:
        self.path, self._parquet = path, _library("pyarrow.parquet")
        self._file = self._parquet.ParquetFile(path)
        self.schema, self.rows = self._file.schema_arrow, int(self._file.metadata.num_rows)
        self._begins = [0]
        for group in range(self._file.num_row_groups):
            self._begins.append(self._begins[-1] + self._file.metadata.row_group(group).num_rows)
        self._lock = threading.Lock()
        self._kept: OrderedDict[tuple[int, str], Any] = OrderedDict()

    def cell(self, row: int, column: str) -> Any:
        group = bisect_right(self._begins, row) - 1
        with self._lock:  # a file is read at one place at a time
            cells = self._group(group, column)
        return cells[row - self._begins[group]].as_py()

    def cells(self, column: str) -> Iterator[Any]:
        for batch in self._file.iter_batches(ROWS, columns=[column]):
            yield batch.column(0)

    def _group(self, group: int, column: str) -> Any:
        key = (group, column)
        if key not in self._kept:
            self._kept[key] = self._file.read_row_group(group, columns=[column]).column(0)
            while sum(kept.nbytes for kept in self._kept.values()) > KEPT_BYTES and len(self._kept) > 2:
                self._kept.popitem(last=False)
        self._kept.move_to_end(key)
        return self._kept[key]


class ArrowTable:
    """A file as `datasets` saves it, mapped into memory."""

    def __init__(self, path: Path) -> None:
        self.path, arrow = path, _library("pyarrow")
        self._table = arrow.ipc.open_stream(arrow.memory_map(str(path))).read_all()
        self.schema, self.rows = self._table.schema, int(self._table.num_rows)

    def cell(self, row: int, column: str) -> Any:
        return self._table.column(column)[row].as_py()

    def cells(self, column: str) -> Iterator[Any]:
        whole = self._table.column(column.partition(".")[0])
        yield from (whole.slice(first, ROWS) for first in range(0, self.rows, ROWS))


class TableFiles:
    """Pictures in the rows of tables."""

    def __init__(self, root: Path, tables: dict[str, Table]) -> None:
        self._root, self._tables, self._beside = root, tables, FolderFiles(root)
        self._stamps = {name: stamp_of(str(table.path)) for name, table in tables.items()}

    def read(self, name: str) -> bytes:
        table, row, column, number = self._split(name)
        path = self._tables[table].path
        refuse_another(path, self._stamps[table])  # one that is open could still be read, but not at the next start
        cell = self._tables[table].cell(row, column)
        if isinstance(cell, list):
            cell = cell[number] if number < len(cell) else None
        if isinstance(cell, dict):
            cell = cell.get("bytes") or cell.get("path")
        if isinstance(cell, str):
            return self._beside.read(cell)
        if not cell:
            raise ValueError("holds no picture")
        return bytes(cell)

    def stamp(self, name: str) -> bytes | None:
        return self._stamps[self._split(name)[0]]

    def stamps(self, names: Sequence[str]) -> Iterator[bytes]:
        return (self.stamp(name) or NO_STAMP for name in names)

    def place(self, name: str) -> str:
        """The file as if it were a folder: it is then asked for once, not for every row."""
        table, _, rest = name.partition("#")
        return f"{self._tables[table].path}/{rest.replace('/', '#')}"

    def where(self, name: str) -> str:
        return f"{self._root}/{name}"

    def in_order(self, names: Iterable[str]) -> Iterable[str]:
        return names

    def _split(self, name: str) -> tuple[str, int, str, int]:
        table, _, rest = name.rpartition("#")
        row, column, *number = rest.split("/")
        return table, int(row), column, int(number[0]) if number else 0


def read_parquet(where: Path, files: list[Path], asked: Columns) -> Listing:
    """Pairs of parquet files of one schema. Raises: UserError."""
    root = where if where.is_dir() else where.parent
    tables = {str(file.relative_to(root)): _opened(ParquetTable, file) for file in files}
    return _read(where, root, "parquet", tables, asked)


def is_saved(folder: Path) -> bool:
    """Whether it was written by `datasets.save_to_disk`."""
    return (folder / "state.json").is_file() or (folder / "dataset_dict.json").is_file()


def read_saved(folder: Path, asked: Columns) -> Listing:
    """Pairs of a saved dataset; of several, those of the training. Raises: UserError."""
    root = folder
    try:
        if (folder / "dataset_dict.json").is_file():
            splits = json.loads((folder / "dataset_dict.json").read_text())["splits"]
            if "train" not in splits and len(splits) != 1:
                one = folder / (splits[0] if splits else "train")
                raise UserError(f"{folder} has no split train, but {', '.join(splits)}. Nothing was started. Give the "
                                f"folder of one of them: {one}")  # fmt: skip
            root = folder / ("train" if "train" in splits else splits[0])
        names = [str(file["filename"]) for file in json.loads((root / "state.json").read_text())["_data_files"]]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{folder} is a saved dataset that is not whole ({error}). Nothing was started.") from None
    tables = {name: _opened(ArrowTable, root / name) for name in names}
    return _read(folder, root, "saved dataset", tables, asked)


def _read(where: Path, root: Path, kind: str, tables: dict[str, Any], asked: Columns) -> Listing:
    if not tables or not sum(table.rows for table in tables.values()):
        raise UserError(f"{where} lists no pairs. Nothing was started.")
    first = next(iter(tables.values())).schema
    columns = guess(str(where), first.names, asked)
    for role, column in (("targets", columns.target), ("conditions", columns.condition)):
        if column is not None and not _holds_pictures(first.field(column).type):
            raise UserError(
                f"{where} holds no pictures in {column}, which would be its {role}, but {first.field(column).type}. "
                f"Nothing was started. It has {', '.join(first.names)}; --data.{role[:-1]}-column says which is meant."
            )
    for name, table in tables.items():
        if lacking := [
            c for c in (columns.target, columns.condition, columns.caption) if c and c not in table.schema.names
        ]:
            raise UserError(f"{root / name} has no column {lacking[0]}, which others have. Nothing was started.")
    pairs: list[Listed] = []
    findings: list[Finding] = []
    begin = 0
    for name, table in tables.items():
        _list_rows(name, table, columns, pairs, findings, begin)
        begin += table.rows
    said = f"{kind} ({columns.in_words()})"
    files, is_captioned = TableFiles(root, tables), columns.caption is not None
    return Listing(str(where), str(where), said, tuple(pairs), tuple(findings), files, is_captioned)


def _list_rows(
    name: str, table: Table, columns: Columns, pairs: list[Listed], findings: list[Finding], begin: int
) -> None:
    """Append what the rows of one table are; begin: rows of the tables before it."""
    counts, captions = _how_many(table, columns.condition), _captions(table, columns.caption)
    for row in range(table.rows):
        of_row, count, said = f"{name}#{row}/", next(counts), next(captions)
        target, condition = f"{of_row}{columns.target}", f"{of_row}{columns.condition}"
        if said is None:
            findings.append(Finding(begin + row + 1, target, f"has no text as its {columns.caption}"))
            continue
        conditions = [condition] if count == 1 else [f"{condition}/{number}" for number in range(count)]
        pair, odd = made(begin + row + 1, target, conditions, said)
        pairs.append(pair)
        findings += odd


def _how_many(table: Table, column: str | None) -> Iterator[int]:
    """Pictures in each cell, which are not read for it."""
    if column is None:
        yield from itertools.repeat(0)
    elif not str(kind := table.schema.field(column).type).startswith(LISTS):
        yield from itertools.repeat(1)
    else:
        is_named = str(kind.value_type).startswith("struct<") and "path:" in str(kind.value_type)
        for cells in table.cells(f"{column}.list.element.path" if is_named else column):
            lengths = _library("pyarrow.compute").list_value_length(cells).to_pylist()
            yield from (length or 0 for length in lengths)


def _captions(table: Table, column: str | None) -> Iterator[list[str] | None]:
    if column is None:
        yield from itertools.repeat([""])
    else:
        for cells in table.cells(column):
            yield from map(texts, cells.to_pylist())


def _holds_pictures(kind: Any) -> bool:
    """Bytes, a name, or a struct of both; or a list of such."""
    text = str(kind)
    if text.startswith(LISTS):
        return _holds_pictures(kind.value_type)
    return text in PICTURE_TYPES or (text.startswith("struct<") and ("bytes:" in text or "path:" in text))


def _opened(make: Any, path: Path) -> Any:
    """Raises: UserError if it is not there, or was cut short."""
    try:
        if not os.path.getsize(path):
            raise ValueError("it is empty")
        return make(path)
    except UserError:
        raise
    except Exception as error:  # as pyarrow has it, of many kinds
        why = "is missing" if isinstance(error, FileNotFoundError) else f"cannot be read ({str(error).split('. ')[0]})"
        raise UserError(f"{path} {why}. Nothing was started.") from None


def _library(name: str) -> Any:
    """Raises: UserError with what to install."""
    try:
        return import_module(name)
    except ImportError:
        raise UserError(
            f"Parquet and saved datasets need {name.split('.')[0]}, which is not installed. Nothing was started. "
            "pip install 'everstep[data]'"
        ) from None
