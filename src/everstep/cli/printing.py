"""How facts are printed: tables for people, JSON for programs."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

UNITS = ("B", "kB", "MB", "GB", "TB")


def print_json(facts: Any) -> None:
    print(json.dumps(facts, indent=2, ensure_ascii=False))


def print_table(columns: Sequence[str], rows: Sequence[Sequence[str]], right: Sequence[str] = ()) -> None:
    """A table as wide as the terminal allows; piped into a file nothing is cut."""
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    for column in columns:
        table.add_column(column, justify="right" if column in right else "left", overflow="fold")
    for row in rows:
        table.add_row(*row)
    console = Console(highlight=False)
    console.print(table, width=console.width if console.is_terminal else 200)


def print_facts(facts: Mapping[str, str]) -> None:
    """Names and values, one line each."""
    width = max(len(name) for name in facts)
    for name, value in facts.items():
        print(f"{name:<{width}}  {value}")


def size(size_bytes: float) -> str:
    """1_230_000 -> 1.2 MB; units of a thousand, as disks are sold."""
    for unit in UNITS:
        if size_bytes < 1000 or unit == UNITS[-1]:
            return f"{size_bytes:.0f} B" if unit == "B" else f"{size_bytes:.1f} {unit}"
        size_bytes /= 1000
    raise AssertionError
