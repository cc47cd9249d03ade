"""Where damaged versions go, and which is the newest that is not damaged. Nothing is ever deleted from there."""

from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from pathlib import Path

from everstep.contracts import Report
from everstep.errors import DamageFound, UserError
from everstep.versions import fsops, manifest
from everstep.versions.layout import TRAINING, RunLayout
from everstep.versions.version import Version, describe_damage, verify

Found = tuple[Path, Version | DamageFound]
Judge = Callable[[Version], str]  # what is wrong with a version, as a clause; empty if nothing is


def set_aside(layout: RunLayout, path: Path, why: str, report: Report) -> None:
    """Move a version away with all its files, and say so. Crash: where it was, or in quarantine/."""
    fsops.ensure_folder(layout.quarantine)
    stamp = datetime.now(UTC).strftime("%Y%m%dT%H%M%S")
    target = layout.quarantine / f"{path.name}-{stamp}"
    fsops.rename(path, target)
    fsops.flush_folder(layout.quarantine)
    fsops.flush_folder(layout.root)
    report(f"{path.name} is damaged: it {why}. It was set aside as {target}; nothing was deleted.")


def newest(layout: RunLayout, newest_first: Iterable[Found], judge: Judge, report: Report) -> Version | None:
    """The first resumable version with which nothing is wrong; those with which something is are set aside.

    Raises: UserError at a version of a newer format; UnreachableDisk.
    Crash: a damaged version is where it was or in quarantine/, with all its files.
    """
    for path, found in newest_first:
        is_slim = isinstance(found, Version) and not found.resumable and not _has_lost_files(found)
        if not is_slim and not _goes_aside(layout, (path, found), judge, report) and isinstance(found, Version):
            return found
    return None


def aside_if_damaged(layout: RunLayout, found: Iterable[Found], report: Report) -> bool:
    """Read versions whole and set aside those that are damaged; returns whether one was. Raises, Crash: as newest."""
    return any(_goes_aside(layout, one, by_digests, report) for one in found)


def by_digests(version: Version) -> str:
    """Reads it whole."""
    wrong = verify(version)
    return describe_damage(version, wrong) if wrong else ""


def by_sizes(version: Version) -> str:
    """Reads nothing but names and sizes."""
    wrong = version.size_faults(version.sizes_on_disk())
    return describe_damage(version, wrong) if wrong else ""


def _goes_aside(layout: RunLayout, one: Found, judge: Judge, report: Report) -> bool:
    path, found = one
    if isinstance(found, manifest.NewerFormat):
        raise UserError(f"{path} {found}. Nothing was changed.")
    if isinstance(found, manifest.NoManifest):
        report(f"{path.name} {found}, so it is no version; it was left as it is.")
        return False
    why = str(found) if isinstance(found, DamageFound) else judge(found)
    if why:
        set_aside(layout, path, why, report)
    return bool(why)


def _has_lost_files(version: Version) -> bool:
    """Slim removes training/ as a whole; a part of it missing is damage."""
    return (version.path / TRAINING).exists()
