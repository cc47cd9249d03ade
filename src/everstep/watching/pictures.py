"""Single pictures out of versions' contact sheets, small enough to be moved through."""

import io
from pathlib import Path

from PIL import Image

from everstep.errors import UserError
from everstep.records.sheets import ROWS, SheetFacts, place_on_sheet, read_sheet, sheet_path
from everstep.versions import Run, Version

QUALITY = 92  # of WebP: what is looked at closely are edges


def sheet_of(run: Run, version: Version) -> SheetFacts | None:
    """What its sheet was drawn with, if it has one that is its own."""
    try:
        return read_sheet(run, version) if sheet_path(run, version.number).is_file() else None
    except UserError:
        return None


def drawing(sheet: Path) -> str:
    """Names this very drawing of a sheet: a version that is scored again is drawn anew. Raises: OSError."""
    return f"{sheet.stat().st_mtime_ns:x}"


def picture(sheet: Path, row: str, pair: int) -> bytes:
    """One picture of a sheet, as WebP. Raises: UserError if there is none at this place, or it cannot be read."""
    if row not in ROWS or pair < 0:
        raise UserError(f"A sheet has the rows {', '.join(ROWS)}, and pairs from 0.")
    place = place_on_sheet(row, pair)
    try:
        with Image.open(sheet) as opened:
            if place[2] > opened.width or place[3] > opened.height:
                raise UserError(f"{sheet.name} has no pair {pair}.")
            cell = opened.crop(place).convert("RGB")
    except (OSError, SyntaxError) as error:
        raise UserError(f"{sheet} cannot be read ({error}).") from None
    kept = io.BytesIO()
    cell.save(kept, "WEBP", quality=QUALITY, method=4)
    return kept.getvalue()
