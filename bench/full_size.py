"""Writes into RESULTS.md what `make full-size` measured.

    make full-size

Each case of tests/full_size leaves its figures in build/full-size.
"""

import json
from pathlib import Path
from typing import Any

from everstep.units import duration, size
from machine import record

FIGURES = Path(__file__).parents[1] / "build/full-size"
STEP = "step of "


def main() -> None:
    """Write RESULTS.md."""
    found = [json.loads(path.read_text()) for path in sorted(FIGURES.glob("*.json"))]
    steps = [row for row in found if row["name"].startswith(STEP)]
    cases = [row for row in found if row not in steps]
    record("Full size (make full-size)", "\n".join([*table_of_cases(cases), "", *table_of_steps(steps)]))


def table_of_cases(rows: list[dict[str, Any]]) -> list[str]:
    """How long, how large, and the most memory that a process had."""
    head = ["Random weights at true shapes: made, committed, killed, rescued from shared memory, verified, exported "
            "for diffusers and ComfyUI, imported again, every tensor compared.", ""]  # fmt: skip
    keys = [key for row in rows for key in row if key != "name"]
    columns = list(dict.fromkeys(keys))
    words = [column.removesuffix("_bytes").removesuffix("_s").replace("_", " ") for column in columns]
    lines = [f"| | {' | '.join(words)} |", "| --- |" + " --- |" * len(columns)]
    for row in rows:
        lines.append(f"| {row['name']} | {' | '.join(in_words(column, row.get(column)) for column in columns)} |")
    return [*head, *lines]


def table_of_steps(rows: list[dict[str, Any]]) -> list[str]:
    """What plan told beside what was measured."""
    head = ["What `everstep plan` said of a step's memory beside what the trainer had, without snapshots; the peak is "
            "from its start on, and counts reading the base (asked: within 10 %).", "",
            "| step | told | measured | ratio | told peak | measured | ratio |",
            "| --- | --- | --- | --- | --- | --- | --- |"]  # fmt: skip
    lines = []
    for row in rows:
        cells = [row["name"].removeprefix(STEP)]
        for told, most in ((row["told_step_bytes"], row["step_bytes"]), (row["told_peak_bytes"], row["peak_bytes"])):
            cells += [size(told), size(most), f"{told / most:.3f}"]
        lines.append(f"| {' | '.join(cells)} |")
    return [*head, *lines]


def in_words(column: str, value: float | None) -> str:
    """By the unit in the column's name."""
    if value is None:
        return ""
    return duration(value) if column.endswith("_s") else size(value)


if __name__ == "__main__":
    main()
