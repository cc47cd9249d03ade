"""What a running training tells other shells: one small file, no connection."""

import json
import os
import platform
import time
from dataclasses import asdict, dataclass
from typing import Any

from everstep.versions import fsops
from everstep.versions.layout import RunLayout


@dataclass(frozen=True, slots=True)
class LiveStatus:
    """Where a training is; some tenths of a second old while it runs."""

    pid: int
    host: str
    updated_at: float  # seconds since 1970
    state: str  # running, stopped, complete
    step: int
    max_steps: int
    images_seen: int
    images_per_second: float | None
    loss: float | None
    last_version: str | None
    next_version_step: int | None
    resumed_from: int | None = None  # number of the version that this training went on from
    snapshot_step: int | None = None  # of the newest whole state in memory that survives the trainer
    next_version_in_s: float | None = None  # after updated_at, where time decides
    versions_every_s: float | None = None  # found by the training itself
    versions_why: str | None = None

    @classmethod
    def now(cls, **facts: Any) -> "LiveStatus":
        return cls(pid=os.getpid(), host=platform.node(), updated_at=time.time(), **facts)


def write_live(layout: RunLayout, status: LiveStatus) -> None:
    """Replace the live file. Not flushed: it means nothing after a crash. A disk that refuses it costs nothing."""
    try:
        fsops.replace_unflushed(layout.live, json.dumps(asdict(status)).encode())
    except OSError:
        return


def read_live(layout: RunLayout) -> LiveStatus | None:
    try:
        return LiveStatus(**json.loads(layout.live.read_bytes()))
    except (OSError, ValueError, TypeError):
        return None
