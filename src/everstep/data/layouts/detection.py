"""Which layout lies at a path: one is found and read, or one sentence says why none is."""

import difflib
import gc
import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from everstep.data.layouts.beside import has_pictures, read_pictures
from everstep.data.layouts.columns import NOTHING_ASKED, Columns
from everstep.data.layouts.folder import EXAMPLE, LAYOUTS, read_list
from everstep.data.layouts.hub import download, is_hub_id
from everstep.data.layouts.listing import Listing
from everstep.data.layouts.shards import is_address, read_shards
from everstep.data.layouts.tables import is_saved, read_parquet, read_saved
from everstep.data.remembered import Memory
from everstep.errors import UserError
from everstep.places import spelled

OTHER_LISTS = ("metadata.parquet", "metadata.json", "train.jsonl", "dataset.json", "prompts.json")
Counted = Callable[[int, int], None]


def read_listing(
    path: Path | str,
    asked: Columns = NOTHING_ASKED,
    progress: Counted | None = None,
    memory: Memory | None = None,
) -> Listing:
    """Find out how the pairs lie there, and list them.

    Args:
        memory: which may hold what a long list was read as before.

    Raises: UserError if nothing that is known lies there, or more than one thing.
    """
    with _without_collection():
        return _read(path, asked, progress, memory)


@contextmanager
def _without_collection() -> Iterator[None]:
    """A list of a million is looked through for cycles again and again as it grows, and has none."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def _read(path: Path | str, asked: Columns, progress: Counted | None, memory: Memory | None) -> Listing:
    if is_address(str(path)):
        return read_shards(str(path), asked, progress)
    folder = spelled(str(path))
    if folder.is_file():
        return _of_file(folder, asked, progress)
    if folder.is_dir():
        return _of_folder(folder, asked, progress, memory)
    if is_hub_id(str(path)):
        return _of_folder(download(str(path), progress), asked, progress, memory)
    raise UserError(f"The data {path} is not a folder{_near(folder)} Nothing was started.")


def is_elsewhere(words: str) -> bool:
    """Whether it names no place on this disk: an address, or a data set on the hub."""
    return "://" in words or (not spelled(words).exists() and is_hub_id(words))


def _of_file(file: Path, asked: Columns, progress: Counted | None) -> Listing:
    if file.suffix == ".parquet":
        return read_parquet(file, [file], asked)
    if file.suffix == ".tar":
        return read_shards(str(file), asked, progress)
    if file.name in LAYOUTS:
        raise UserError(f"The data {file} is the list itself. Nothing was started. Give its folder: {file.parent}")
    raise UserError(f"The data {file} is a file, neither .parquet nor .tar, and no folder. Nothing was started.")


def _of_folder(folder: Path, asked: Columns, progress: Counted | None, memory: Memory | None) -> Listing:
    """Lists, tables and shards say what they hold; pictures beside each other only where there is none of these."""
    found: dict[str, Callable[[], Listing]] = {}
    names = sorted(os.listdir(folder))
    for name in LAYOUTS:
        if (folder / name).exists():
            found[name] = lambda name=name: read_list(folder, name, asked, memory)  # type: ignore[misc]
    if is_saved(folder):
        found["a saved dataset"] = lambda: read_saved(folder, asked)
    elif tables := _inside(folder, names, ".parquet", not found):
        found[tables[0].name] = lambda: read_parquet(folder, _training(tables), asked)
    if shards := _inside(folder, names, ".tar", not found):
        found[shards[0].name] = lambda: read_shards(str(folder), asked, progress, list(map(str, _training(shards))))
    if len(found) > 1:
        raise UserError(_several(folder, list(found)))
    if found:
        return next(iter(found.values()))()
    folders = [folder / name for name in names if (folder / name).is_dir()]
    below = sorted(path / name for name in LAYOUTS for path in folders if (path / name).exists())
    if not below and has_pictures(folder):
        return read_pictures(folder, asked)
    raise UserError(_nothing(folder, below))


def _inside(folder: Path, names: list[str], ending: str, is_deep: bool) -> list[Path]:
    """Such files of a folder, or where it has none, of those in it."""
    found = [folder / name for name in names if name.endswith(ending)]
    return found or (sorted(folder.glob(f"*/*{ending}")) if is_deep else [])


def _training(files: list[Path]) -> list[Path]:
    """Of files that are told apart as splits, those of the training."""
    of_split = [file for file in files if re.match(r"train\b|train[-_.]", file.name) or file.parent.name == "train"]
    return of_split or files


def _several(folder: Path, names: list[str]) -> str:
    both = f"both {names[0]} and {names[1]}" if len(names) == 2 else f"{', '.join(names[:-1])} and {names[-1]}"
    return (
        f"{folder} holds {both}; one of them lists the pairs. Nothing was started. Leave that one there, and move the "
        "other away."
    )


def _nothing(folder: Path, below: list[Path]) -> str:
    """Why there are no pairs, with what lies there instead."""
    near = [name for name in OTHER_LISTS if (folder / name).exists()]
    hint = f" {folder / near[0]} is not read." if near else ""
    hint = f" {below[0].parent} has one." if below else hint
    return (
        f"{folder} holds no list of pairs (metadata.jsonl, metadata.csv, prompt.json), no .parquet or .tar, no saved "
        f"dataset, and no pictures.{hint} Nothing was started. A line of metadata.jsonl: {EXAMPLE}"
    )


def _near(path: Path) -> str:
    siblings = [entry.name for entry in path.parent.iterdir() if entry.is_dir()] if path.parent.is_dir() else []
    near = difflib.get_close_matches(path.name, siblings, n=1)
    return f"; did you mean {path.parent / near[0]}?" if near else "."
