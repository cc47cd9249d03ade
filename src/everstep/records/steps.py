"""records/metrics.jsonl: one line a step, as whoever trained wrote it. Never imports torch."""

import json
from pathlib import Path
from typing import Any

FILE = "metrics.jsonl"


def read_metrics(records: Path) -> list[dict[str, Any]]:
    """The steps that count, in order. Raises: OSError.

    A line cut short by a crash is left out. Where a step comes again, training went back to the one before it, and what
    was written from there on before does not count.
    """
    path = records / FILE
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines() if path.exists() else []
    measured: list[dict[str, Any]] = []
    for line in map(_parsed, lines):
        if line is not None:
            while measured and measured[-1]["step"] >= line["step"]:
                measured.pop()
            measured.append(line)
    return measured


def _parsed(text: str) -> dict[str, Any] | None:
    try:
        line = json.loads(text)
        return line if line["step"] >= 0 and "loss" in line else None
    except (ValueError, KeyError, TypeError):
        return None
