"""A comparison as one HTML file: pictures inside of it, nothing fetched from anywhere, readable on a phone.

Knows nothing of versions: it is given headings, pictures and tables.
"""

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from PIL import Image

from everstep.contracts import Uint8Array

HARD_PIXELS_BELOW = 192  # smaller pictures are enlarged with hard edges: what is seen is what was drawn


@dataclass(frozen=True, slots=True)
class PictureRow:
    """One row of the sheet: its name, a line of facts below it, a picture for each column or None."""

    name: str
    facts: str
    pictures: Sequence[Uint8Array | None]


@dataclass(frozen=True, slots=True)
class Sheet:
    """The sheet: captions above its columns."""

    captions: Sequence[str]
    rows: Sequence[PictureRow]


@dataclass(frozen=True, slots=True)
class Table:
    """A table with a heading; the first column names the row. Shares, 0 to 1, shade their cells."""

    heading: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    shares: Sequence[Sequence[float]] | None = None
    note: str = ""


def page(title: str, lead: Sequence[str], sheet: Sheet, tables: Sequence[Table]) -> str:
    """The whole file."""
    paragraphs = "".join(f"<p>{escape(sentence)}</p>" for sentence in lead)
    body = f"<header><h1>{escape(title)}</h1>{paragraphs}</header>{_sheet(sheet)}{''.join(map(_table, tables))}"
    return (
        "<!doctype html>\n"
        f'<html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="color-scheme" content="light dark">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">\n'
        f"<style>{STYLE}</style></head>\n<body>{body}\n{DIALOG}<script>{SCRIPT}</script></body></html>\n"
    )


def _sheet(sheet: Sheet) -> str:
    captions = "".join(f'<th scope="col">{escape(caption)}</th>' for caption in sheet.captions)
    rows = "".join(_picture_row(row, sheet.captions) for row in sheet.rows)
    return (
        '<section><h2>Pictures</h2><div class="wide"><table class="sheet">'
        f"<thead><tr><td></td>{captions}</tr></thead><tbody>{rows}</tbody></table></div>"
        "<p class=hint>A picture opens large; there the arrow keys go up and down between versions, left and right "
        "between pairs.</p></section>"
    )


def _picture_row(row: PictureRow, captions: Sequence[str]) -> str:
    cells = "".join(
        "<td></td>" if pixels is None else f"<td>{_picture(pixels, f'{row.name}: {caption}')}</td>"
        for pixels, caption in zip(row.pictures, captions, strict=True)
    )
    facts = f"<small>{escape(row.facts)}</small>" if row.facts else ""
    return f'<tr><th scope="row">{escape(row.name)}{facts}</th>{cells}</tr>\n'


def _picture(pixels_HWC: Uint8Array, words: str) -> str:
    buffer = io.BytesIO()
    Image.fromarray(pixels_HWC).save(buffer, "PNG", optimize=True)
    hard = " class=hard" if pixels_HWC.shape[1] < HARD_PIXELS_BELOW else ""
    data = base64.b64encode(buffer.getvalue()).decode()
    return f'<button type="button"><img{hard} alt="{escape(words)}" src="data:image/png;base64,{data}"></button>'


def _table(table: Table) -> str:
    head = "".join(f'<th scope="col">{escape(column)}</th>' for column in table.columns)
    rows = []
    for number, row in enumerate(table.rows):
        shares = table.shares[number] if table.shares is not None else [0.0] * (len(row) - 1)
        cells = "".join(_cell(text, share) for text, share in zip(row[1:], shares, strict=True))
        rows.append(f'<tr><th scope="row">{escape(row[0])}</th>{cells}</tr>\n')
    note = f"<p class=hint>{escape(table.note)}</p>" if table.note else ""
    return (
        f'<section><h2>{escape(table.heading)}</h2><div class="wide"><table class="facts">'
        f"<thead><tr>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table></div>{note}</section>"
    )


def _cell(text: str, share: float) -> str:
    shade = f' style="--share:{min(share, 1.0):.3f}"' if share > 0 else ""
    return f"<td{shade}>{escape(text)}</td>"


POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'"

STYLE = """
:root{--paper:#fafaf8;--ink:#26262a;--soft:#6a6a72;--line:#dcdcd6;--bar:#3b7dd833;--raised:#fff}
@media (prefers-color-scheme:dark){
:root{--paper:#17181b;--ink:#e8e8e4;--soft:#a0a0a8;--line:#34353a;--bar:#6aa5f040;--raised:#202126}}
*{box-sizing:border-box}
body{margin:0 auto;padding:1.2rem clamp(.8rem,3vw,2.5rem) 3rem;max-width:110rem;background:var(--paper);
color:var(--ink);font:16px/1.45 system-ui,sans-serif}
h1{font-size:1.45rem;line-height:1.25;margin:.2rem 0 .5rem;overflow-wrap:anywhere}
h2{font-size:1.05rem;margin:1.8rem 0 .5rem}
p{margin:.2rem 0;max-width:75ch}
.hint{color:var(--soft);font-size:.88rem;margin-top:.4rem}
.wide{overflow-x:auto;margin:0 -.3rem;padding:0 .3rem}
table{border-collapse:collapse}
.sheet th[scope=col]{font-weight:400;font-size:.8rem;color:var(--soft);vertical-align:bottom;text-align:left;
line-height:1.25;padding:0 3px 4px}
.sheet th[scope=row]{position:sticky;left:0;background:var(--paper);text-align:left;padding-right:.7rem;z-index:1;
font-size:.9rem;min-width:5.6rem;max-width:11rem;overflow-wrap:break-word}
small{display:block;font-weight:400;color:var(--soft)}
.sheet td{padding:3px}
.sheet button{border:0;padding:0;background:none;cursor:zoom-in;display:block;border-radius:4px}
.sheet button:focus-visible{outline:3px solid #3b7dd8}
.sheet img{width:clamp(96px,10.5vw,192px);aspect-ratio:1;display:block;border-radius:4px}
.hard{image-rendering:pixelated}
.facts{font-variant-numeric:tabular-nums;font-size:.92rem}
.facts th,.facts td{padding:.32rem .9rem .32rem .3rem;border-bottom:1px solid var(--line);text-align:left;
vertical-align:top}
.facts thead th{color:var(--soft);font-weight:600;white-space:nowrap}
.facts tbody th{font-weight:600;white-space:nowrap}
.facts td{overflow-wrap:anywhere;min-width:4.5rem;
background:linear-gradient(to right,var(--bar) calc(var(--share,0)*100%),transparent 0)}
dialog{border:0;padding:.8rem;background:var(--raised);color:var(--ink);border-radius:10px;max-width:96vw;
max-height:96vh;text-align:center;cursor:zoom-out}
dialog::backdrop{background:#000a}
dialog img{width:min(88vw,80vh,64rem);aspect-ratio:1;display:block;margin:0 auto .5rem;border-radius:4px}
"""

DIALOG = '<dialog aria-label="Picture"><img alt=""><div></div></dialog>\n'

SCRIPT = """
const box=document.querySelector('dialog'),large=box.querySelector('img'),words=box.querySelector('div');
const grid=[...document.querySelectorAll('.sheet tbody tr')].map(r=>[...r.querySelectorAll('td')].map(
c=>c.querySelector('img')));
let row=0,column=0;
function show(){const i=grid[row][column];large.src=i.src;large.alt=i.alt;large.className=i.className;
words.textContent=i.alt}
grid.forEach((r,y)=>r.forEach((i,x)=>i&&i.parentElement.addEventListener('click',()=>{
row=y;column=x;show();box.showModal()})));
box.addEventListener('click',()=>box.close());
box.addEventListener('keydown',e=>{const s={ArrowUp:[-1,0],ArrowDown:[1,0],ArrowLeft:[0,-1],ArrowRight:[0,1]}[e.key];
if(!s)return;e.preventDefault();const y=row+s[0],x=column+s[1];if(grid[y]&&grid[y][x]){row=y;column=x;show()}});
"""
