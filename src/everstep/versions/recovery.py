"""What every start does first: the leftovers of a crash are cleared, and nothing else is touched."""

import json
import re
from pathlib import Path
from typing import Any

from everstep.errors import DamageFound
from everstep.versions import fsops, manifest
from everstep.versions.commit import append_log
from everstep.versions.layout import RunLayout, is_staging, version_number
from everstep.versions.trash import empty_unless_busy

NUMBER = re.compile(rb'"version": ?(\d+)')


def recover(layout: RunLayout) -> list[str]:
    """Mend a run whose lock is held. Returns a sentence for everything that was done.

    Crash: any part of it done; the next start does the rest.
    """
    done = []
    for entry in sorted(layout.root.iterdir()):
        if is_staging(entry.name):
            fsops.remove_tree(entry)
            done.append(f"Removed {entry.name}, which a crash had left unfinished; it was never a version.")
    empty_unless_busy(layout)
    for leftover in layout.root.glob(".*.new"):
        fsops.remove_file(leftover)
    missing = _missing_in_log(layout)
    for committed in missing:
        append_log(layout, committed)
    if missing:
        done.append(f"Added {len(missing)} missing lines to {layout.log.name}.")
    return done


def _missing_in_log(layout: RunLayout) -> list[dict[str, Any]]:
    end_cut_line(layout.log)
    logged = {line.get("digest") for line in read_log(layout)}
    found = [read for entry in layout.root.iterdir() if (read := _manifest(entry)) is not None]
    return [read for read in sorted(found, key=lambda read: int(read["version"])) if read["digest"] not in logged]


def read_log(layout: RunLayout) -> list[dict[str, Any]]:
    """All whole lines of the log."""
    try:
        lines = layout.log.read_bytes().splitlines()
    except FileNotFoundError:
        return []
    parsed = []
    for line in lines:
        try:
            event = json.loads(line)
        except ValueError:
            continue
        if isinstance(event, dict):
            parsed.append(event)
    return parsed


def last_logged(layout: RunLayout) -> int:
    """The highest number of a version that the log ever named, or -1. Quick: numbers are looked for, lines not read."""
    try:
        content = layout.log.read_bytes()
    except FileNotFoundError:
        return -1
    return max(map(int, NUMBER.findall(content)), default=-1)


def end_cut_line(log: Path) -> None:
    """A line that a crash cut short must not swallow the next one."""
    if log.is_file() and (content := log.read_bytes()) and not content.endswith(b"\n"):
        fsops.append_line(log, "")


def _manifest(entry: Path) -> dict[str, Any] | None:
    if version_number(entry.name) is None or not entry.is_dir():
        return None
    try:
        return manifest.read(entry)
    except DamageFound:
        return None
