"""Single pictures out of versions' contact sheets, small enough to be moved through."""

import base64
import io
from pathlib import Path

from PIL import Image

from everstep.errors import UserError
from everstep.records.sheets import ROWS, SheetFacts, place_on_sheet, read_sheet, sheet_path
from everstep.versions import Run, Version

QUALITY, METHOD = 92, 1  # of WebP: what is looked at closely are edges; slower methods save a tenth


def sheet_of(run: Run, version: Version) -> SheetFacts | None:
    """What its sheet was drawn with, if it has one that is its own."""
    try:
        return read_sheet(run, version) if sheet_path(run, version.number).is_file() else None
    except UserError:
        return None


def drawing(sheet: Path) -> str:
    """Names this very drawing of a sheet: a version that is scored again is drawn anew. Raises: OSError."""
    return f"{sheet.stat().st_mtime_ns:x}"


def pictures_on(sheet: Path, pairs: int) -> dict[str, list[bytes]]:
    """By row, of so many pairs, each as WebP. Raises: UserError if the sheet cannot be read, or has fewer."""
    try:
        with Image.open(sheet) as found:
            opened = found.convert("RGB")
    except (OSError, SyntaxError) as error:
        raise UserError(f"{sheet} cannot be read ({error}).") from None
    if pairs and place_on_sheet(ROWS[-1], pairs - 1)[2:] > opened.size:
        raise UserError(f"{sheet} is smaller than its {pairs} pairs.")
    return {row: [_cut(opened, row, pair) for pair in range(pairs)] for row in ROWS}


def _cut(opened: Image.Image, row: str, pair: int) -> bytes:
    kept = io.BytesIO()
    opened.crop(place_on_sheet(row, pair)).save(kept, "WEBP", quality=QUALITY, method=METHOD)
    return kept.getvalue()


def as_address(picture: bytes) -> str:
    """A WebP as a data address."""
    return f"data:image/webp;base64,{base64.b64encode(picture).decode()}"
