"""records/tried/: what somebody drew to try versions, with what drawing it again takes. Never imports torch."""

import json
import re
import secrets
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from everstep.versions import Run, fsops
from everstep.versions.reach import writing

FACTS, CONDITION = "tried.json", "condition"
NAME = re.compile(r"\d{8}-\d{6}-[0-9a-f]{4}")


def keep_tried(run: Run, facts: Mapping[str, Any], condition: bytes, pictures: Mapping[int, bytes]) -> Path:
    """Keep a condition and what versions drew for it, as PNG, in a folder of their own.

    Raises: UserError, DiskFull; nothing is kept then. Crash: all of it or nothing under its name.
    """
    parent = run.layout.tried
    name = f"{datetime.now(UTC):%Y%m%d-%H%M%S}-{secrets.token_hex(2)}"
    beside, folder = parent / f".{name}.part", parent / name
    with writing(parent, f"What was drawn cannot be kept with {run.name}"):
        run.layout.records.mkdir(exist_ok=True)
        parent.mkdir(exist_ok=True)
        try:
            beside.mkdir()
            fsops.replace_file(beside / f"{CONDITION}.png", condition)
            for number, picture in pictures.items():
                fsops.replace_file(picture_path(beside, number), picture)
            fsops.replace_file(beside / FACTS, (json.dumps(facts, indent=1, ensure_ascii=False) + "\n").encode())
            fsops.rename(beside, folder)
        finally:
            if beside.is_dir():
                fsops.remove_tree(beside)
        fsops.flush_folder(parent)
    return folder


def list_tried(run: Run) -> list[dict[str, Any]]:
    """The facts of all that was kept, with their names; the newest first. What cannot be read is left out."""
    found = []
    names = [entry.name for entry in run.layout.tried.iterdir()] if run.layout.tried.is_dir() else []
    for name in sorted(filter(NAME.fullmatch, names), reverse=True):
        try:
            facts = json.loads((run.layout.tried / name / FACTS).read_bytes())
            versions = [int(number) for number in facts["versions"]]
            found.append({**facts, "name": name, "versions": versions, "prompt": str(facts["prompt"])})
        except (OSError, ValueError, TypeError, KeyError):
            continue
    return found


def tried_picture(run: Run, name: str, number: int | None) -> bytes | None:
    """One that was kept: what a version drew, or without a number the condition."""
    if NAME.fullmatch(name) is None:
        return None
    folder = run.layout.tried / name
    try:
        return (folder / f"{CONDITION}.png" if number is None else picture_path(folder, number)).read_bytes()
    except OSError:
        return None


def picture_path(folder: Path, number: int) -> Path:
    """Of what a version drew."""
    return folder / f"version_{number}.png"
