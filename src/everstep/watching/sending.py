"""A run whole as it goes to a browser: small, and not put together again while nothing of it has changed."""

import json
import math
import time
from collections.abc import Mapping
from typing import Any

from everstep.records.scores import FILE as SCORES
from everstep.records.steps import FILE as METRICS
from everstep.watching.remembered import SETTLED_S, RememberedRun
from everstep.watching.views import lasting, now, shown_as


def sent(run: RememberedRun) -> bytes:
    """As JSON. Raises: EverstepError if its settings cannot be read."""
    rest = run.once("sent", _state(run), lambda: encoded(packed(lasting(run))))
    return b"".join((rest[:-1], b',"standing":', encoded(now(run)), b"}"))


def packed(told: Mapping[str, Any]) -> dict[str, Any]:
    """A run whole, as it is sent: thousands of rows as columns, a third of the size."""
    rows = told["versions"]
    names = dict.fromkeys(name for row in rows for name in row["scores"])
    scores = {name: shown_as(*(row["scores"].get(name) for row in rows)) for name in names}
    return {**told, "versions": {**_columns(rows), "scores": scores}, "scores": _columns(told["scores"])}


def _columns(rows: list[dict[str, Any]]) -> dict[str, list[Any]]:
    return {key: [row[key] for row in rows] for key in (rows[0] if rows else ())}


def encoded(told: Any) -> bytes:
    """As JSON of browsers, which knows no NaN: of a training that became sick there is null in its place."""
    try:
        text = json.dumps(told, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    except ValueError:
        text = json.dumps(_finite(told), ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return text.encode("utf-8", "backslashreplace")  # names of files need not be text


def _finite(told: Any) -> Any:
    if isinstance(told, float):
        return told if math.isfinite(told) else None
    if isinstance(told, Mapping):
        return {key: _finite(value) for key, value in told.items()}
    return [_finite(value) for value in told] if isinstance(told, list | tuple) else told


def _state(run: RememberedRun) -> object:
    """Equal as long as nothing was written that is shown; never, where something was just now."""
    layout = run.layout
    folders = (layout.root, layout.trash, layout.quarantine, layout.records, layout.samples)
    files = (layout.hparams, layout.records / SCORES, layout.records / METRICS)
    times = []
    for path in (*folders, *files):
        try:
            times.append(path.stat().st_mtime)
        except OSError:
            times.append(0.0)
    return object() if time.time() - max(times) < SETTLED_S else (times, run.stamps())
