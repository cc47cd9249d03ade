"""The curve of the training loss, thinned: as many points as a screen shows, whatever there were.

A long training's file is not read whole: of places spread evenly over it a block each is, and what stands in it is
averaged. Where a step comes again, training went back, and what was written from there on before does not count.
"""

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from everstep.records.steps import FILE

MOST_POINTS = 600
BLOCK_BYTES = 2048
Curve = dict[str, list[float]]


def loss_curve(records: Path, most: int = MOST_POINTS) -> Curve:
    """Columns of equal length: step, images_seen, and of the steps around it the loss's mean, lowest and highest.

    Empty where nothing was written yet, or nothing can be read.
    """
    try:
        with (records / FILE).open("rb") as file:
            groups = list(_groups(file, os.fstat(file.fileno()).st_size, most))
    except OSError:
        groups = []
    rows = [_row(group) for group in _that_count(groups)]
    names = ("step", "images_seen", "loss", "lowest", "highest")
    return {name: [row[place] for row in rows] for place, name in enumerate(names)}


def _groups(file: BinaryIO, size: int, most: int) -> Iterator[list[dict[str, Any]]]:
    """Lines that belong to one point, from the file's beginning to its end."""
    if size <= most * BLOCK_BYTES:
        lines = [line for text in file.read().splitlines() if (line := _parsed(text)) is not None]
        per = -(-len(lines) // most) or 1
        yield from (lines[first : first + per] for first in range(0, len(lines), per))
        return
    for place in range(most):
        file.seek(place * (size - BLOCK_BYTES) // (most - 1))
        texts = file.read(BLOCK_BYTES).split(b"\n")[1:-1]  # the first and the last may be cut
        lines = [line for text in texts if (line := _parsed(text)) is not None]
        if lines:
            yield lines


def _that_count(groups: list[list[dict[str, Any]]]) -> list[list[dict[str, Any]]]:
    kept: list[list[dict[str, Any]]] = []
    for group in groups:
        first = group[0]["step"]
        while kept and kept[-1][-1]["step"] >= first:
            kept[-1] = [line for line in kept[-1] if line["step"] < first]
            if kept[-1]:
                break
            kept.pop()
        kept.append(group)
    return kept


def _row(group: list[dict[str, Any]]) -> tuple[float, ...]:
    losses = [line["loss"] for line in group]
    last = group[-1]
    return last["step"], last["images_seen"], sum(losses) / len(losses), min(losses), max(losses)


def _parsed(text: bytes) -> dict[str, Any] | None:
    """Raises nothing: a line that a crash cut short is left out, and so is a loss that is no number."""
    try:
        line = json.loads(text)
        good = line["step"] >= 0 and line["images_seen"] >= 0 and abs(line["loss"]) < float("inf")
        return line if good else None
    except (ValueError, KeyError, TypeError):
        return None
