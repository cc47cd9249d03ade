"""What the versions of a run that are still to be made will take of its disk, and what is free there."""

import time
from dataclasses import replace
from pathlib import Path

from everstep.places import absolute
from everstep.versions import fsops
from everstep.versions.forecast import Course, Footprint, Forecast, coming_versions, forecast
from everstep.versions.live import read_live
from everstep.versions.pruning import held_versions
from everstep.versions.retention import Policy
from everstep.versions.run import Run
from everstep.versions.version import Version


def as_found(run: Run, course: Course) -> Course:
    """With the interval that the run's training found by itself, where that was left to it and was told."""
    live = read_live(run.layout)
    if live is None or live.versions_every_s is None or not course.is_timeless:
        return course
    return replace(course, every_s=live.versions_every_s)


def look_ahead(run: Run, course: Course, last: Version | None, step: int, step_s: float | None) -> Forecast:
    """What the versions that are still to be made will take."""
    course = as_found(run, course)
    there = held_versions(run, course.policy or Policy())
    footprint = Footprint({} if last is None else {path: int(entry["size"]) for path, entry in last.files.items()})
    coming = coming_versions(course, footprint, run.next_number(), step, step_s)
    return forecast(there, coming, course.policy, time.time())


def seconds_per_step(run: Run, course: Course) -> float | None:
    """As it was when the run was last seen training; None if it never was."""
    live = read_live(run.layout)
    return course.images_per_step / live.images_per_second if live and live.images_per_second else None


def free_bytes(folder: Path) -> int:
    """Free where the folder is or will be."""
    place = absolute(folder)
    while not place.exists():
        place = place.parent
    return fsops.free_bytes(place)
