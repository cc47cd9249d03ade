"""Labels, pins, scores and notes: small files beside the versions they speak of; a version itself is never touched."""

import json
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from everstep.versions import fsops
from everstep.versions.layout import RunLayout


@dataclass(frozen=True, slots=True)
class Annotation:
    """What was said of a version after it was made."""

    labels: tuple[str, ...] = ()
    pinned: bool = False
    scores: dict[str, float] = field(default_factory=dict)
    note: str = ""


def read_annotation(layout: RunLayout, number: int) -> Annotation:
    """Empty where nothing was said, or where the file cannot be read: a note must not cost a version."""
    try:
        facts = json.loads(layout.annotation(number).read_bytes())
        return Annotation(tuple(facts["labels"]), bool(facts["pinned"]), dict(facts["scores"]), str(facts["note"]))
    except (OSError, ValueError, KeyError, TypeError):
        return Annotation()


def write_annotation(layout: RunLayout, number: int, **changes: Any) -> Annotation:
    """Change what is said of a version; scores are added to those that are there. Crash: before or after, whole."""
    before = read_annotation(layout, number)
    if "scores" in changes:
        changes["scores"] = {**before.scores, **changes["scores"]}
    after = replace(before, **changes)
    fsops.replace_file(layout.annotation(number), (json.dumps(asdict(after), indent=1) + "\n").encode())
    return after
