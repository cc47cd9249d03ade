"""What other shells ask of a running training: one small file for each request, and one for its answer; no connection.

Whoever asks waits until the request is gone. Then there is an answer, which is why it was refused, or it was done.
"""

import contextlib
import json
import os
import secrets
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from everstep.versions import fsops
from everstep.versions.layout import RunLayout

REQUEST, ANSWER = ".json", ".answer"


@dataclass(frozen=True, slots=True)
class Request:
    """Something asked of a running training. The id tells it from others of its kind: two may ask at once."""

    kind: str
    details: dict[str, Any] = field(default_factory=dict)
    id: str = ""

    @property
    def name(self) -> str:
        """Of its files, without what they end in."""
        return f"{self.kind}-{self.id}" if self.id else self.kind


def write_request(layout: RunLayout, kind: str, **details: Any) -> Request:
    """Ask; details that are None are left out.

    One without details is an empty file, which a full disk takes too where it takes names.
    Raises: OSError; no request is left behind then.
    """
    request = Request(kind, {key: value for key, value in details.items() if value is not None}, secrets.token_hex(4))
    content = json.dumps(request.details).encode() if request.details else b""
    fsops.ensure_folder(layout.requests)
    fsops.replace_file(_path(layout, request, REQUEST), content)
    return request


def read_requests(layout: RunLayout) -> list[Request]:
    """All that was asked; cheap enough for every step. A disk that cannot be read asks nothing."""
    return [_read(layout, name) for name in _names(layout, REQUEST)]


def is_waiting(layout: RunLayout, request: Request) -> bool:
    """Whether it was neither done nor answered yet."""
    try:
        os.stat(_path(layout, request, REQUEST))
    except FileNotFoundError:
        return False
    except OSError:  # cannot be told now
        return True
    return True


def answer(layout: RunLayout, request: Request, text: str) -> None:
    """Say why it was refused, and forget it. A disk that takes no answer leaves none; never raises.

    Crash: the request, with or without its answer; the next start forgets both.
    """
    with contextlib.suppress(OSError):
        fsops.replace_file(_path(layout, request, ANSWER), text.encode())
    drop_request(layout, request)  # last: whoever asked looks for the answer when the request is gone


def read_answer(layout: RunLayout, request: Request) -> str | None:
    """Why it was refused, to be read once; None where it was done, or the disk took no answer."""
    path = _path(layout, request, ANSWER)
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    _remove(path)
    return text


def drop_request(layout: RunLayout, request: Request) -> None:
    """Forget one, since it was done; never raises. Where the disk does not let it go it is read again."""
    _remove(_path(layout, request, REQUEST))


def clear_requests(layout: RunLayout) -> None:
    """Forget all that was asked and answered, at a start; never raises."""
    for name in _names(layout, ""):
        _remove(layout.requests / name)


def _names(layout: RunLayout, ending: str) -> Iterator[str]:
    try:
        names = sorted(os.listdir(layout.requests))
    except OSError:
        return
    for name in names:
        if name.endswith(ending) and (not ending or not name.startswith(".")):
            yield name


def _read(layout: RunLayout, name: str) -> Request:
    kind, _, id_ = name.removesuffix(REQUEST).partition("-")
    try:
        details = json.loads((layout.requests / name).read_bytes())
    except (OSError, ValueError):
        details = None
    return Request(kind, details if isinstance(details, dict) else {}, id_)


def _path(layout: RunLayout, request: Request, ending: str) -> Path:
    return layout.requests / f"{request.name}{ending}"


def _remove(path: Path) -> None:
    with contextlib.suppress(OSError):
        fsops.remove_file(path)
