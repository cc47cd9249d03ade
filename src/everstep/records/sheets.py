"""records/samples/: where the contact sheets lie, and what each was drawn with. Never imports torch."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from everstep.errors import UserError
from everstep.versions import Run, Version

# Where the pictures of a sheet lie on it, in pixels: a column for each pair, captions above.
CELL_PX, GAP_PX, LABEL_PX, TITLE_PX, CAPTION_PX = 144, 6, 78, 26, 40
ROWS = ("condition", "sample", "target")


def place_on_sheet(row: str, pair: int) -> tuple[int, int, int, int]:
    """Left, upper, right and lower edge of one picture of a version's sheet, in pixels; pairs are counted from 0."""
    left = LABEL_PX + pair * (CELL_PX + GAP_PX)
    upper = TITLE_PX + CAPTION_PX + ROWS.index(row) * (CELL_PX + GAP_PX)
    return left, upper, left + CELL_PX, upper + CELL_PX


@dataclass(frozen=True, slots=True)
class SheetFacts:
    """What the pictures of a sheet were drawn with."""

    run: str
    version: int
    step: int
    images_seen: int
    manifest_digest: str
    base: dict[str, Any]
    sampler: dict[str, Any]  # every setting of sampling, and the scheduler's own
    averaged: bool
    device: str
    precision: str
    threads: int
    libraries: dict[str, str]
    pairs: list[int]  # numbers in their source
    captions: list[str]
    digests: list[str]  # of each picture's pixels
    drawn_together: int = 8  # at once, on which bits depend; sheets that do not say it were drawn by 8

    @property
    def title(self) -> str:
        return f"{self.run} · version_{self.version} · step {self.step:,} · {self.images_seen:,} images"


def sheet_path(run: Run, version: int) -> Path:
    """Of the PNG; the JSON is beside it."""
    return run.layout.samples / f"version_{version}.png"


def read_sheet(run: Run, version: Version) -> SheetFacts:
    """Raises: UserError if the version has no sheet, or one of a version that had its number before."""
    path = sheet_path(run, version.number).with_suffix(".json")
    try:
        facts = SheetFacts(**json.loads(path.read_text(encoding="utf-8")))
    except FileNotFoundError:
        raise UserError(
            f"{version.name} has no contact sheet that could be drawn again: there is no {path}. "
            f"everstep score {run.word}@{version.number} draws one."
        ) from None
    except (ValueError, TypeError) as error:
        raise UserError(
            f"{path} cannot be read ({error}); everstep score {run.word}@{version.number} draws anew."
        ) from None
    if facts.manifest_digest != version.manifest_digest:
        raise UserError(f"{path} speaks of another {version.name}: its manifest's digest differs.")
    return facts
