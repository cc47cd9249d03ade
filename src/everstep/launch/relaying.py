"""The process that reads and writes a mirror for a machine that meets others there: `relay.py` is who asks it.

It does one thing after the other, and each until the mirror takes it: a mirror may be away for a while. It ends with
who started it, and hears no signal: when all processes of a job are asked to stop, the end of the training has still
to be told.
"""

import contextlib
import ctypes
import json
import os
import select
import signal
import sys
import time
from collections.abc import Iterator
from typing import Any

from everstep.errors import EverstepError
from everstep.keeping.signals import SAVE, STOP
from everstep.mirror.addresses import place_of
from everstep.mirror.backend import Place
from everstep.mirror.folder import Folder
from everstep.places import told

FOLDER = ".nodes"  # of the place: beside the versions, and none of them
AGAIN_S = 2.0  # after an error
LIVES_S = 5.0  # how often it looks whether who started it lives
SET_PARENT_DEATH_SIGNAL = 1  # prctl(2)


def relay(target: str, run_name: str, parent: int) -> None:
    """Until who started it ends, or closes standard input."""
    for number in (*STOP, *SAVE):
        signal.signal(number, signal.SIG_IGN)
    with contextlib.suppress(AttributeError, OSError):  # only a pause would be longer without it
        ctypes.CDLL(None, use_errno=True).prctl(SET_PARENT_DEATH_SIGNAL, signal.SIGKILL, 0, 0, 0)
    place: Place | None = None
    for asked in _asked(parent):
        while _lives(parent):
            try:
                place = place or place_of(target, run_name)
                found = _done(place, asked)
            except (OSError, EverstepError) as error:
                place = None  # of a connection that is gone nothing comes any more
                _say(trouble=told(error) if isinstance(error, OSError) else str(error))
                time.sleep(AGAIN_S)
            else:
                _say(done=asked["number"], **found)
                break


def _done(place: Place, asked: dict[str, Any]) -> dict[str, Any]:
    """Raises: OSError, EverstepError; then it can be tried again."""
    kind = asked["kind"]
    if kind == "read":
        contents = {path: place.read(path) for path in asked["paths"]}
        return {"seen": {path: None if had is None else had.decode(errors="replace") for path, had in contents.items()}}
    if kind == "write":
        content = asked["content"].encode()
        place.put(asked["path"], [content], len(content))
    else:
        _clear(place, asked["but"])
    return {}


def _clear(place: Place, but: list[str]) -> None:
    for name in place.names(FOLDER):
        if name not in but:
            place.delete(f"{FOLDER}/{name}")
    if isinstance(place, Folder) and not but:  # of a run that came to nothing
        for folder in (place.root / FOLDER, place.root):
            with contextlib.suppress(OSError):
                folder.rmdir()


def _asked(parent: int) -> Iterator[dict[str, Any]]:
    """Line by line. That the other end is closed may never be seen: what it has forked holds it open too."""
    begun = b""
    while _lives(parent):
        if not select.select([0], [], [], LIVES_S)[0]:
            continue
        piece = os.read(0, 1 << 16)
        if not piece:
            return
        *lines, begun = (begun + piece).split(b"\n")
        yield from map(json.loads, lines)


def _lives(parent: int) -> bool:
    return os.getppid() == parent


def _say(**facts: Any) -> None:
    os.write(1, json.dumps(facts).encode() + b"\n")


if __name__ == "__main__":
    relay(sys.argv[1], sys.argv[2], int(sys.argv[3]))
