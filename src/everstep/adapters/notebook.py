"""A run in a notebook's cell: where it is, its versions with their scores, the newest contact sheet.

from everstep.adapters.notebook import show

show("mine")
"""

import base64
import time
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from everstep.records.sheets import sheet_path
from everstep.units import duration, size
from everstep.versions import LiveStatus, Run, read_live, rows, run_folder

MOST_ROWS = 20
STALE_S = 30.0  # a running training writes twice a second
TABLE = "<table style='text-align:right'>{}</table>"


def show(run: str | Path) -> "Shown":
    """What there is to see of a run now; again for what there is then.

    Args:
        run: a name in runs/, or a path.

    Raises: UserError if there is no such run.
    """
    return Shown(Run.open(run_folder(str(run))))


class Shown:
    """Rich where a notebook shows it, a few lines elsewhere."""

    def __init__(self, run: Run) -> None:
        self.run = run

    def __repr__(self) -> str:
        versions = rows(self.run)
        newest = f"version_{versions[-1]['version']}, step {versions[-1]['step']:,}" if versions else "none yet"
        return f"{self.run.name}: {_where(read_live(self.run.layout))}; newest version: {newest} ({self.run.path})"

    def _repr_html_(self) -> str:
        versions = rows(self.run)
        live = read_live(self.run.layout)
        parts = [f"<b>{escape(self.run.name)}</b> {escape(_where(live))}", _progress(live)]
        if len(versions) > MOST_ROWS:
            parts.append(f"<p>The newest {MOST_ROWS} of {len(versions):,} versions:</p>")
        parts += [_table(versions[-MOST_ROWS:]), self._sheet(versions)]
        return "<div>" + "".join(parts) + "</div>"

    def _sheet(self, versions: Sequence[Mapping[str, Any]]) -> str:
        """The newest that was drawn."""
        for row in reversed(versions):
            path = sheet_path(self.run, row["version"])
            try:
                drawn = base64.b64encode(path.read_bytes()).decode()
            except OSError:
                continue
            named = escape(f"contact sheet of version_{row['version']}", quote=True)
            return f"<img style='max-width:100%' alt='{named}' src='data:image/png;base64,{drawn}'>"
        return ""


def _where(live: LiveStatus | None) -> str:
    if live is None:
        return "has not been trained yet"
    behind = time.time() - live.updated_at
    state = live.state if live.state != "running" or behind < STALE_S else f"not heard of for {duration(behind)}"
    risk = "" if live.snapshot_step is None else f", {max(0, live.step - live.snapshot_step):,} steps at risk"
    return f"{state}, step {live.step:,} of {live.max_steps:,}, {live.images_seen:,} images{risk}"


def _progress(live: LiveStatus | None) -> str:
    if live is None or not live.max_steps:
        return ""
    return f"<br><progress style='width:30em' value='{live.step}' max='{live.max_steps}'></progress>"


def _table(versions: Sequence[Mapping[str, Any]]) -> str:
    scores = sorted({name for row in versions for name in row["scores"]})
    heads = ("version", "step", "images", "reason", "size", *scores, "labels")
    lines = [_line("th", heads)]
    for row in versions:
        told = (f"{row['scores'][name]:z.4f}" if name in row["scores"] else "" for name in scores)
        first = (f"version_{row['version']}", f"{row['step']:,}", f"{row['images_seen']:,}", row["reason"])
        lines.append(_line("td", (*first, size(row["size_bytes"]), *told, ", ".join(row["labels"]))))
    return TABLE.format("".join(lines))


def _line(kind: str, cells: Sequence[str]) -> str:
    return "<tr>" + "".join(f"<{kind}>{escape(cell)}</{kind}>" for cell in cells) + "</tr>"
