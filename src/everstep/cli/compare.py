"""everstep compare"""

import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from everstep.cli.place import open_version
from everstep.cli.printing import beside, print_json, print_table
from everstep.errors import UserError
from everstep.evaluation.comparison.differences import block_of, names_of
from everstep.evaluation.comparison.distance import distances
from everstep.evaluation.comparison.ground import Common, common_ground
from everstep.evaluation.comparison.page import Table
from everstep.evaluation.comparison.tables import Side, block_table, comparison_json, sampling_in_words, version_table
from everstep.places import here, refuse_unwritable
from everstep.versions import Run, Version

if TYPE_CHECKING:
    from everstep.evaluation.pictures.draw import Shown


def compare_(*versions: str, out: Path | None = None, html: Path | None = None, json: bool = False) -> int:
    """Draw the same held-out pairs with several versions: one contact sheet and one table.

    Parameters
    ----------
    versions
        RUN@A RUN@B ..., of one run or of several with the same base; distances are from the first.
    out
        PNG file of the contact sheet; left out, a name in the folder that the command runs in.
    html
        Write a page too: one file with the pictures, the tables and what differs.
    json
        Print as JSON.
    """
    if len(versions) < 2:
        raise UserError("There is nothing to compare with: everstep compare RUN@A RUN@B, and more if you like.")
    opened = [open_version(spec) for spec in versions]
    names = names_of([version for _, version in opened])
    target = _writable("--out", out or _default_name(names))
    page = None if html is None else _writable("--html", html)
    drawn = compared(opened)
    common, sides = drawn.common, drawn.sides
    from everstep.evaluation.comparison.side_by_side import comparison_sheet

    comparison_sheet(drawn.title, drawn.shown, sides).save(target)
    if page is not None:
        page.write_text(drawn.page(), encoding="utf-8")
    if json:
        print_json(
            {"sheet": str(target), "html": None if page is None else str(page), **comparison_json(sides, common)}
        )
        return 0
    for table in (version_table(sides), block_table(sides)):
        _print(table)
    for sentence in (sampling_in_words(common), *common.notes, f"Contact sheet: {target}"):
        print(sentence)
    if page is not None:
        print(f"Page: {page}")
    return 0


@dataclass(frozen=True, slots=True)
class Compared:
    """Versions side by side, drawn."""

    common: Common
    shown: "Sequence[Shown]"
    sides: list[Side]

    @property
    def title(self) -> str:
        return ", ".join(side.name for side in self.sides)

    def page(self) -> str:
        """As one HTML file."""
        from everstep.evaluation.comparison.side_by_side import page_of

        return page_of(self.title, self.sides, self.common, self.shown)


def compared(opened: Sequence[tuple[Run, Version]]) -> Compared:
    """Draw them all, saying how far it is. Raises: UserError where they cannot be compared."""
    found = [version for _, version in opened]
    names = names_of(found)
    common = common_ground(found, names)
    with beside("Comparing weights"):
        apart = distances(found[0], found, block_of)
    _say("Loading PyTorch and the base ...")
    from everstep.evaluation.comparison.side_by_side import draw_all, shown_in

    shown, sides = shown_in(common), []
    began = time.monotonic()
    rows = draw_all(found, common, shown)
    for (run, version), name, distance in zip(opened, names, apart, strict=True):
        with beside(f"Drawing with {name}"):
            row = next(rows)
        sides.append(Side(name, version, run.annotation(version.number), distance, row.pictures, row.averaged))
        _say(f"{name} drew {len(shown)} pictures ({time.monotonic() - began:.1f} s)")
    return Compared(common, shown, sides)


def _default_name(names: list[str]) -> Path:
    first, last = (name.rpartition("/")[2] for name in (names[0], names[-1]))
    return Path(f"{first}-{'to-' if len(names) > 2 else ''}{last}.png")


def _writable(flag: str, path: Path) -> Path:
    """Raises: UserError before anything is drawn, if it cannot be written there."""
    here()  # PyTorch loads from nowhere else
    refuse_unwritable(flag, path)
    if flag == "--out" and path.suffix.lower() != ".png":
        raise UserError(f"{flag} {path}: the contact sheet is a PNG; give it a name that ends in .png.")
    return path


def _print(table: Table) -> None:
    print(f"{table.heading}:")
    print_table(table.columns, table.rows, right=table.columns[1:])
    print()


def _say(sentence: str) -> None:
    """Progress, apart from what is printed for programs."""
    print(sentence, file=sys.stderr, flush=True)
