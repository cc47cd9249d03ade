"""Single pictures out of versions' contact sheets, small enough to be moved through."""

import io
from functools import lru_cache
from pathlib import Path

from PIL import Image

from everstep.errors import UserError
from everstep.records.sheets import ROWS, SheetFacts, place_on_sheet, read_sheet, sheet_path
from everstep.versions import Run, Version

QUALITY, METHOD = 92, 1  # of WebP: what is looked at closely are edges; slower methods save a tenth
OPENED = 8  # sheets of a few megabytes


def sheet_of(run: Run, version: Version) -> SheetFacts | None:
    """What its sheet was drawn with, if it has one that is its own."""
    try:
        return read_sheet(run, version) if sheet_path(run, version.number).is_file() else None
    except UserError:
        return None


def drawing(sheet: Path) -> str:
    """Names this very drawing of a sheet: a version that is scored again is drawn anew. Raises: OSError."""
    return f"{sheet.stat().st_mtime_ns:x}"


def picture(sheet: Path, drawn: str, row: str, pair: int) -> bytes:
    """One picture of a sheet, as WebP. Raises: UserError if there is none at this place, or it cannot be read.

    Args:
        drawn: which drawing of the sheet, as `drawing` names it.
    """
    if row not in ROWS or pair < 0:
        raise UserError(f"A sheet has the rows {', '.join(ROWS)}, and pairs from 0.")
    place, opened = place_on_sheet(row, pair), _opened(sheet, drawn)
    if place[2] > opened.width or place[3] > opened.height:
        raise UserError(f"{sheet.name} has no pair {pair}.")
    kept = io.BytesIO()
    opened.crop(place).save(kept, "WEBP", quality=QUALITY, method=METHOD)
    return kept.getvalue()


@lru_cache(maxsize=OPENED)
def _opened(sheet: Path, drawn: str) -> Image.Image:
    """All pictures of a sheet are asked for at once; it is decoded once."""
    try:
        with Image.open(sheet) as found:
            return found.convert("RGB")
    except (OSError, SyntaxError) as error:
        raise UserError(f"{sheet} cannot be read ({error}).") from None
