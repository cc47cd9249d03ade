"""What a run knows of its copies elsewhere, without asking there: a record a place, which only who sends there writes.

Retention goes by it, so it must not say more than was seen at the last send.
"""

import contextlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from everstep.versions import Run, fsops
from everstep.versions.digests import digest
from everstep.versions.layout import RunLayout

RECORD = "mirror-"  # of records, with a key for the place
KEY_LETTERS = 16


@dataclass(frozen=True, slots=True)
class Known:
    """What was seen in a place when copies were last sent there."""

    address: str
    is_slim: bool = False
    beside: Mapping[str, str] = field(default_factory=dict)  # what is said of versions, as it was sent: name -> digest
    settled: tuple[int, ...] = ()  # versions that are there, and those that the mirror's own policy does not take


def known(run: Run, address: str) -> Known | None:
    """None where no copies were ever sent there, or nothing can be read of it."""
    try:
        told = json.loads(_path(run.layout, address).read_bytes())
        settled = tuple(int(number) for number in told["settled"])
        return Known(str(told["place"]), bool(told["slim"]), dict(told["beside"]), settled)
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return None


def remember(run: Run, seen: Known) -> None:
    """Crash: as it was before, or all of the new."""
    if seen == known(run, seen.address):
        return
    told = {"place": seen.address, "slim": seen.is_slim, "settled": list(seen.settled), "beside": dict(seen.beside)}
    with contextlib.suppress(OSError):  # the run may be read from a disk that cannot be written
        run.layout.records.mkdir(exist_ok=True)
        fsops.replace_file(_path(run.layout, seen.address), f"{json.dumps(told)}\n".encode())


def awaited(run: Run, addresses: Sequence[str], numbers: Iterable[int]) -> set[int]:
    """Of these versions those that one of these places lacks."""
    wanted = set(numbers)
    missing = set[int]()
    for address in addresses:
        seen = known(run, address)
        missing |= wanted if seen is None else wanted - set(seen.settled)
    return missing


def _path(layout: RunLayout, address: str) -> Path:
    key = digest(address.encode("utf-8", "surrogateescape")).rpartition(":")[2][:KEY_LETTERS]
    return layout.records / f"{RECORD}{key}.json"
