"""How facts are printed: tables for people, JSON for programs."""

import json
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any
from unicodedata import east_asian_width

from everstep.contracts import Counted


@contextmanager
def beside(what: str, unit: str = "", count: Callable[[int], str] = "{:,}".format) -> Iterator[Counted]:
    """While what is inside takes more than two seconds, stderr says what: apart from what is printed for programs.

    Args:
        what: as a sentence begins: Drawing with version_3.
        unit, count: what is counted, and a number of it in words.
    """
    from everstep.train.lasting import PLAIN_PERIOD_S, TERMINAL_PERIOD_S, Lasting

    is_terminal = sys.stderr.isatty()
    before, after = ("\r\033[K", "") if is_terminal else ("", " ...\n")

    def show(lasting: Lasting) -> bool:
        print(f"{before}{lasting.text()}{after}", end="", file=sys.stderr, flush=True)
        return True

    lasting = Lasting(what, unit, count, show, TERMINAL_PERIOD_S if is_terminal else PLAIN_PERIOD_S)
    lasting.begin()
    try:
        yield lasting.said
    finally:
        lasting.end()
        if lasting.was_shown:
            print(before, end="", file=sys.stderr, flush=True)


def print_json(facts: Any) -> None:
    print(json.dumps(facts, indent=2, ensure_ascii=False))


def print_table(columns: Sequence[str], rows: Sequence[Sequence[str]], right: Sequence[str] = ()) -> None:
    """A table; what is wider than the terminal is folded, and piped into a file nothing is cut."""
    cells = [[str(cell) for cell in row] for row in (columns, *rows)]
    widths = [max(map(_width, column)) for column in zip(*cells, strict=True)]
    is_terminal = sys.stdout.isatty()
    if is_terminal and sum(widths) + 2 * len(widths) > shutil.get_terminal_size().columns:
        _print_folded(columns, rows, right)
        return
    lines = [
        "  ".join(
            " " * (width - _width(cell)) + cell if column in right else cell + " " * (width - _width(cell))
            for column, cell, width in zip(columns, row, widths, strict=True)
        ).rstrip()
        for row in cells
    ]
    if is_terminal:
        lines[0] = f"\033[1m{lines[0]}\033[0m"
    print("\n".join(lines))


def _width(text: str) -> int:
    """Columns of a terminal that a text takes."""
    return len(text) if text.isascii() else sum(1 + (east_asian_width(letter) in "WF") for letter in text)


def _print_folded(columns: Sequence[str], rows: Sequence[Sequence[str]], right: Sequence[str]) -> None:
    from rich.console import Console  # a tenth of a second, which most tables do without
    from rich.table import Table

    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    for column in columns:
        table.add_column(column, justify="right" if column in right else "left", overflow="fold")
    for row in rows:
        table.add_row(*row)
    Console(highlight=False, markup=False).print(table)


def print_facts(facts: Mapping[str, str]) -> None:
    """Names and values, one line each."""
    print("\n".join(lines(facts)))


def lines(facts: Mapping[str, str], width: int = 0) -> list[str]:
    """Names and values.

    Args:
        width: of the names, in letters, at least.
    """
    width = max(width, *map(len, facts))
    return [f"{name:<{width}}  {value}" for name, value in facts.items()]
