"""A contact sheet: one column for each pair; condition, what was drawn, target. Knows nothing of runs or files."""

from collections.abc import Mapping, Sequence
from typing import Any

from PIL import Image, ImageDraw

from everstep.contracts import Uint8Array
from everstep.evaluation.pictures.draw import Shown
from everstep.evaluation.pictures.lettering import drawable, font, wrapped
from everstep.records.sheets import CAPTION_PX, CELL_PX, GAP_PX, LABEL_PX, TITLE_PX

CAPTION_FONT_PX = 11
PAPER, INK = (250, 250, 248), (40, 40, 44)


def contact_sheet(title: str, shown: Sequence[Shown], drawn: Sequence[Uint8Array]) -> Image.Image:
    """One column for each pair, captions above: condition, sample, target."""
    return sheet(title, shown, {"sample": drawn})


def sheet(
    title: str, shown: Sequence[Shown], drawn: Mapping[str, Sequence[Uint8Array]], cell_px: int = CELL_PX
) -> Image.Image:
    """One column for each pair, captions above; a row for the condition, for each of `drawn`, and for the target."""
    rows: dict[str, Sequence[Uint8Array | None]] = {
        "condition": [item.condition_HWC for item in shown],
        **drawn,
        "target": [item.target_HWC for item in shown],
    }
    title = drawable(title)
    label_font, title_font = font(13), font(15)
    label_px = max(LABEL_PX, *(_width(name, label_font) + 3 * GAP_PX for name in rows))
    first_row = TITLE_PX + CAPTION_PX
    width = max(label_px + len(shown) * (cell_px + GAP_PX), _width(title, title_font) + 2 * GAP_PX)
    page = Image.new("RGB", (width, first_row + len(rows) * (cell_px + GAP_PX)), PAPER)
    pen = ImageDraw.Draw(page)
    pen.text((GAP_PX, 5), title, INK, title_font)
    for column, item in enumerate(shown):
        caption = wrapped(item.caption, cell_px, CAPTION_FONT_PX, 3)
        place = (label_px + column * (cell_px + GAP_PX), TITLE_PX)
        pen.multiline_text(place, caption, INK, font(CAPTION_FONT_PX), spacing=1)
    for row, (name, pictures) in enumerate(rows.items()):
        top = first_row + row * (cell_px + GAP_PX)
        pen.multiline_text((GAP_PX, top + cell_px // 2 - 8 - 7 * name.count("\n")), name, INK, label_font)
        for column, pixels in enumerate(pictures):
            if pixels is not None:
                page.paste(_cell(pixels, cell_px), (label_px + column * (cell_px + GAP_PX), top))
    return page


def _width(text: str, font: Any) -> int:
    """Of the longest line, in pixels."""
    return max(round(float(font.getlength(line))) for line in text.split("\n"))


def _cell(pixels_HWC: Uint8Array, cell_px: int) -> Image.Image:
    """As large as the cell allows, in its middle. Small ones get hard pixels: what is seen is what was drawn."""
    picture = Image.fromarray(pixels_HWC)
    filter_ = Image.Resampling.NEAREST if max(picture.size) < cell_px else Image.Resampling.LANCZOS
    width, height = (max(1, round(side * cell_px / max(picture.size))) for side in picture.size)
    cell = Image.new("RGB", (cell_px, cell_px), PAPER)
    cell.paste(picture.resize((width, height), filter_), ((cell_px - width) // 2, (cell_px - height) // 2))
    return cell
