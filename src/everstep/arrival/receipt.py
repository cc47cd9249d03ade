"""What an import says of itself: in receipt.json, and in lines for people."""

import hashlib
from collections import Counter
from pathlib import Path
from typing import Any

from everstep import __version__
from everstep.arrival.taking import Taken
from everstep.exchange.architecture import TITLES
from everstep.models.weights import listed

CHUNK_BYTES = 8 << 20
WHOLE = 64  # names that a receipt lists one by one


def receipt_of(taken: Taken, source: str, moments: str | None) -> dict[str, Any]:
    """Everything that was taken, and what was not."""
    finding = taken.finding
    dtypes = Counter(finding.tensors[link.theirs][1].dtype for link in taken.links.values())
    others = Counter(name.split(".")[0] for name in taken.others)
    return {
        "everstep": __version__,
        "source": source,
        "path": str(finding.path),
        "files": [{"path": str(f), "size_bytes": f.stat().st_size, "sha256": _sha256(f)} for f in finding.files],
        "layout": taken.layout.name,
        "family": taken.kind,
        "tensors": len(taken.shapes),
        "parameters": sum(_items(shape) for shape in taken.shapes.values()),
        "dtypes": dict(dtypes),
        "base": None if taken.base is None else taken.base.name,
        "begins_as_the_base": taken.begun,
        "surplus": list(taken.surplus),
        "other_tensors": dict(others),
        "steps_before": finding.steps_before,
        "moments": moments,
        "not_taken": [*finding.left, *_others(others), *sorted(map(str, finding.beside))[:WHOLE]],
    }


def _others(others: Counter[str]) -> list[str]:
    return [f"{number:,} tensor{'' if number == 1 else 's'} of {name}" for name, number in others.items()]


def _items(shape: tuple[int, ...]) -> int:
    items = 1
    for length in shape:
        items *= length
    return items


def _sha256(path: Path) -> str:
    """As the hub tells it of its files."""
    total = hashlib.sha256()
    with path.open("rb") as file:
        while piece := file.read(CHUNK_BYTES):
            total.update(piece)
    return total.hexdigest()


def lines(receipt: dict[str, Any]) -> list[str]:
    """For people, most of them one line each."""
    title = TITLES.get(receipt["family"] or "", "a base of its own shape")
    numbers = " and ".join(sorted(receipt["dtypes"]))
    told = [f"{receipt['path']}: a ControlNet for {title}, {receipt['tensors']:,} tensors, "
            f"{receipt['parameters']:,} numbers as {numbers}, in {receipt['layout']}."]  # fmt: skip
    if begun := receipt["begins_as_the_base"]:
        told.append(f"{len(begun):,} tensors begin as {receipt['base']} does: {listed(begun)}.")
    if surplus := receipt["surplus"]:
        told.append(f"{len(surplus):,} tensors have no place in it: {listed(surplus)}.")
    if receipt["steps_before"] is not None:
        told.append(f"It was trained for {receipt['steps_before']:,} steps before.")
    if moments := receipt["moments"]:
        told.append(moments)
    if not_taken := receipt["not_taken"]:
        told.append(f"Not taken: {', '.join(not_taken[:8])}{' and more' if len(not_taken) > 8 else ''}.")
    return told
