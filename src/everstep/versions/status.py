"""What can be said of a run from outside: alive or not, where it is, and what would be lost now."""

import time
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from everstep.versions import fsops
from everstep.versions.annotations import Annotation
from everstep.versions.capacity import look_ahead, seconds_per_step
from everstep.versions.forecast import Course, Forecast
from everstep.versions.live import LiveStatus, read_live
from everstep.versions.reach import reaching
from everstep.versions.run import Run
from everstep.versions.version import Version


@dataclass(frozen=True, slots=True)
class RunStatus:
    """The answer of `everstep status`. State: running, stopped, complete, died, or empty."""

    run: str
    state: str
    pid: int | None
    host: str | None
    step: int
    max_steps: int
    images_seen: int
    images_per_second: float | None
    loss: float | None
    last_version: str | None
    last_version_path: str | None
    last_version_age_s: float | None
    next_version_step: int | None
    steps_at_risk: int
    version_bytes: int
    free_bytes: int
    seconds_left: float | None  # at the rate of now
    next_version_in_s: float | None
    disk_peak_bytes: int  # the most that versions will take before the run is complete
    disk_full_after_versions: int | None  # so many more find room; None if all do
    disk_full_in_s: float | None
    told_age_s: float | None  # since a running training last wrote where it is; a disk that is full keeps it from that
    versions_every_s: float | None  # that the training found by itself, and why
    versions_why: str | None


@dataclass(frozen=True, slots=True)
class Outlook:
    """What versions take of the disk, and will. Of all that is told of a run the dearest: every file is looked at."""

    version_bytes: int
    ahead: Forecast


def outlook(run: Run, course: Course) -> Outlook:
    """Raises: UnreachableDisk."""
    with reaching(run.path):
        versions = run.versions()
        last = versions[-1] if versions else None
        step, _ = _position(read_live(run.layout), last, run.holder() is not None)
        ahead = look_ahead(run, course, last, step, seconds_per_step(run, course))
        return Outlook(sum(version.disk_bytes for version in versions), ahead)


def status(run: Run, course: Course, seen: Outlook | None = None) -> RunStatus:
    """Assemble it from the lock, the live file and the versions; nothing is written.

    Args:
        seen: an outlook of a moment ago; without one the disk is asked.

    Raises: UnreachableDisk.
    """
    with reaching(run.path):
        return _status(run, course, seen or outlook(run, course))


def _status(run: Run, course: Course, seen: Outlook) -> RunStatus:
    held, live, versions = run.holder(), read_live(run.layout), run.versions()
    last = versions[-1] if versions else None
    is_running = held is not None
    step, images_seen = _position(live, last, is_running)
    step_s, free, ahead = seconds_per_step(run, course), fsops.free_bytes(run.path), seen.ahead
    full = ahead.fills_at(free)
    next_step = live.next_version_step if live and is_running else None
    return RunStatus(
        run=run.name,
        state=_state(is_running, live, last, course.max_steps),
        pid=held.pid if held else None,
        host=held.host if held else None,
        step=step,
        max_steps=course.max_steps,
        images_seen=images_seen,
        images_per_second=live.images_per_second if live and is_running else None,
        loss=live.loss if live else None,
        last_version=last.name if last else None,
        last_version_path=str(last.path) if last else None,
        last_version_age_s=_age_s(last) if last else None,
        next_version_step=next_step,
        steps_at_risk=_at_risk(step, last, live) if is_running else 0,
        version_bytes=seen.version_bytes,
        free_bytes=free,
        seconds_left=step_s * (course.max_steps - step) if step_s and is_running else None,
        next_version_in_s=_next_in_s(live, step_s, step) if is_running else None,
        disk_peak_bytes=ahead.peak_bytes,
        disk_full_after_versions=None if full is None else full - 1,
        disk_full_in_s=full * ahead.seconds_apart if full is not None and step_s and is_running else None,
        told_age_s=max(0.0, time.time() - live.updated_at) if live and is_running else None,
        versions_every_s=live.versions_every_s if live and is_running else None,
        versions_why=live.versions_why if live and is_running else None,
    )


def rows(run: Run) -> list[dict[str, Any]]:
    """One row for each version, oldest first: what `everstep list --json` prints."""
    return [row(version, run.annotation(version.number)) for version in run.versions()]


def row(version: Version, note: Annotation) -> dict[str, Any]:
    """A version, and what was said of it, as `everstep list --json` prints it."""
    return {
        "version": version.number,
        "step": version.step,
        "images_seen": version.images_seen,
        "path": str(version.path),
        "reason": version.reason,
        "size_bytes": version.disk_bytes,
        "resumable": version.resumable,
        "parent": None if version.parent is None else f"{version.parent.run}@{version.parent.version}",
        "labels": list(note.labels),
        "pinned": note.pinned,
        "scores": note.scores,
    }


def _next_in_s(live: LiveStatus | None, step_s: float | None, step: int) -> float | None:
    """Seconds to the next version: by steps, by time, or whichever comes first."""
    if live is None:
        return None
    by_steps = live.next_version_step
    known = [] if by_steps is None or not step_s else [step_s * (by_steps - step)]
    if live.next_version_in_s is not None:
        known.append(max(0.0, live.next_version_in_s - (time.time() - live.updated_at)))
    return min(known, default=None)


def _position(live: LiveStatus | None, last: Version | None, is_running: bool) -> tuple[int, int]:
    """A dead process's live file may be ahead of what was kept; then the last version is where the run is."""
    if is_running and live is not None and (last is None or live.step >= last.step):
        return live.step, live.images_seen
    return (last.step, last.images_seen) if last else (0, 0)


def _at_risk(step: int, last: Version | None, live: LiveStatus | None) -> int:
    """Steps that are lost if the trainer dies now."""
    kept = [0 if last is None else last.step, (live.snapshot_step if live else None) or 0]
    return max(0, step - max(kept))


def _state(is_running: bool, live: LiveStatus | None, last: Version | None, max_steps: int) -> str:
    if is_running:
        return "running"
    if last is None:
        return "empty"
    if last.step >= max_steps:
        return "complete"
    return "died" if live is not None and live.state == "running" else "stopped"


def _age_s(version: Version) -> float:
    return max(0.0, time.time() - datetime.fromisoformat(version.created_at).timestamp())
