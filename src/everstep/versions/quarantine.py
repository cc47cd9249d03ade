"""Where versions go that were found damaged. Nothing is ever deleted from there."""

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

from everstep.versions import fsops
from everstep.versions.layout import RunLayout


def set_aside(layout: RunLayout, path: Path, why: str, report: Callable[[str], None]) -> None:
    """Move a version away with all its files, and say so. Crash: where it was, or in quarantine/."""
    fsops.ensure_folder(layout.quarantine)
    stamp = datetime.now(UTC).strftime("%Y%m%dT%H%M%S")
    target = layout.quarantine / f"{path.name}-{stamp}"
    fsops.rename(path, target)
    fsops.flush_folder(layout.quarantine)
    fsops.flush_folder(layout.root)
    report(f"{path.name} is damaged: it {why}. It was set aside as {target}; nothing was deleted.")
