"""What records/metrics.jsonl says of the steps of one version: only lines of its own line of training count.

A run that went back to an earlier version wrote its new steps over the lines of those that it left.
"""

from datetime import datetime
from typing import Any

from everstep.errors import DamageFound
from everstep.records.steps import read_metrics
from everstep.versions import LiveStatus, Run, Version, read_live
from everstep.versions.layout import version_number
from everstep.versions.lineage import ancestors
from everstep.versions.recovery import read_log

Line = dict[str, Any]


def recorded_steps(run: Run, version: Version, first_step: int) -> dict[int, Line]:
    """The lines of the steps after `first_step` up to the version, by step, as far as they are there."""
    last_step = min(version.step, _last_step_told(run, version))
    lines = read_metrics(run.layout.records)
    return {line["step"]: line for line in lines if first_step < line["step"] <= last_step}


def _last_step_told(run: Run, version: Version) -> int:
    """Up to which step the records tell of the version's own line of training."""
    live = read_live(run.layout)
    writer = _last_version_of_writer(run, live)
    mine, theirs = _line(run, version), _line(run, writer)
    if writer.number in mine:
        # Either it was rescued after the writer died, or the writer had gone back behind it and has no version yet.
        return version.step if live is not None and _made_at(version) >= live.updated_at else writer.step
    return max((step for number, step in mine.items() if number in theirs), default=0)


def _last_version_of_writer(run: Run, live: LiveStatus | None) -> Version:
    """The last version of whoever wrote the records last, going by what it told of itself."""
    number = None if live is None or live.last_version is None else version_number(live.last_version)
    versions = run.versions()
    return next((found for found in versions if found.number == number), versions[-1])


def _line(run: Run, version: Version) -> dict[int, int]:
    """Number and step of a version and of all its ancestors in the run, those that are gone included."""
    logged = {line["digest"]: line["step"] for line in read_log(run.layout) if "digest" in line and "step" in line}
    line = {version.number: version.step}
    for folder, number, digest in ancestors(version):
        if folder != run.path:
            break
        step = logged.get(digest)
        line[number] = _step_of(run, number) if step is None else step
    return line


def _step_of(run: Run, number: int) -> int:
    try:
        return run.version(number).step
    except DamageFound:
        return 0


def _made_at(version: Version) -> float:
    """Units: seconds since 1970."""
    return datetime.fromisoformat(version.created_at).timestamp()
