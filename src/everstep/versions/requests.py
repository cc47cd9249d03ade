"""What other shells ask of a running training: one small file for each request, no connection."""

import json
import os
from dataclasses import dataclass
from typing import Any

from everstep.versions import fsops
from everstep.versions.layout import RunLayout


@dataclass(frozen=True, slots=True)
class Request:
    """Something asked of a running training."""

    kind: str
    details: dict[str, Any]


def write_request(layout: RunLayout, kind: str, **details: Any) -> None:
    """Ask. The newest request of a kind counts."""
    fsops.ensure_folder(layout.requests)
    fsops.replace_file(layout.requests / f"{kind}.json", json.dumps(details).encode())


def read_requests(layout: RunLayout) -> list[Request]:
    """All that was asked; cheap enough for every step."""
    found = []
    try:
        names = sorted(name for name in os.listdir(layout.requests) if not name.startswith("."))
    except FileNotFoundError:
        return []
    for name in names:
        try:
            details = json.loads((layout.requests / name).read_bytes())
        except (OSError, ValueError):
            details = {}
        found.append(Request(name.removesuffix(".json"), details))
    return found


def clear_requests(layout: RunLayout, kind: str | None = None) -> None:
    """Forget what was asked: all of it at a start, one kind when it was done."""
    for request in read_requests(layout):
        if kind in (None, request.kind):
            fsops.remove_file(layout.requests / f"{request.kind}.json")
