"""Labels, pins, scores and notes: small files beside the versions they speak of; a version itself is never touched."""

import fcntl
import json
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from everstep.versions import fsops
from everstep.versions.layout import RunLayout
from everstep.versions.lock import folder_lock
from everstep.versions.reach import writing


@dataclass(frozen=True, slots=True)
class Annotation:
    """What was said of a version after it was made."""

    labels: tuple[str, ...] = ()
    pinned: bool = False
    scores: dict[str, float] = field(default_factory=dict)
    note: str = ""
    is_readable: bool = True  # not written: False where there is a file that cannot be read


def read_annotation(layout: RunLayout, number: int) -> Annotation:
    """Empty where nothing was said, or where the file cannot be read; then is_readable says so."""
    try:
        with open(f"{layout.records}/version_{number}.json", "rb", buffering=0) as file:
            facts = json.loads(file.read())
        return Annotation(tuple(facts["labels"]), bool(facts["pinned"]), dict(facts["scores"]), str(facts["note"]))
    except FileNotFoundError:
        return Annotation()
    except (OSError, ValueError, KeyError, TypeError):
        return Annotation(is_readable=False)


def write_annotation(layout: RunLayout, number: int, **changes: Any) -> Annotation:
    """Change what is said of a version; scores are added to those that are there. Crash: before or after, whole.

    Several processes may do so at once; none loses what another said.
    """
    with writing(layout.records, f"Nothing can be noted of version_{number} of {layout.root.name}"), annotating(layout):
        before = read_annotation(layout, number)
        if "scores" in changes:
            changes["scores"] = {**before.scores, **changes["scores"]}
        after = replace(before, **changes, is_readable=True)
        facts = {key: value for key, value in asdict(after).items() if key != "is_readable"}
        fsops.replace_file(layout.annotation(number), (json.dumps(facts, indent=1) + "\n").encode())
    return after


def annotating(layout: RunLayout) -> AbstractContextManager[bool]:
    """Inside, nobody else changes what is said of a version."""
    if not layout.records.is_dir():
        fsops.ensure_folder(layout.records)  # whoever copied the run left out an empty folder
    return folder_lock(layout.records, fcntl.LOCK_EX)
