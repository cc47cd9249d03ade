"""records/scores.jsonl: what was measured of each version, one line a measurement, and the verdict on all of them.

Append-only: the newest line of a version counts. Scores outlive the versions they speak of. Never imports torch.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from typing import Any

from everstep.records.verdict import Gain, Point, Verdict, verdict
from everstep.versions import Run, fsops, write_annotation
from everstep.versions.recovery import end_cut_line

CONTROL_GAIN = "control_gain"
FILE, VERDICT = "scores.jsonl", "verdict.json"


@dataclass(frozen=True, slots=True)
class Scored:
    """What was measured of a version. failed: what could not be, with the reason."""

    version: int
    step: int
    images_seen: int
    manifest_digest: str
    gain: Gain | None
    others: Mapping[str, float] = field(default_factory=dict)  # loss, circle_iou, canny_f1 ...
    failed: Mapping[str, str] = field(default_factory=dict)
    intervals: Mapping[str, tuple[float, float]] = field(default_factory=dict)  # 95 %, of scores of pictures
    pictures: int | None = None  # that those rest on

    @property
    def headlines(self) -> dict[str, float]:
        """One number for each score."""
        return {**({} if self.gain is None else {CONTROL_GAIN: self.gain.value}), **self.others}


def file_scores(run: Run, scored: Scored, images_per_step: int) -> Verdict:
    """Note what was measured in the records and on the version's note; returns the new verdict. Raises: OSError."""
    line = {**asdict(scored), "scored_at": datetime.now(UTC).isoformat(timespec="seconds")}
    end_cut_line(run.layout.records / FILE)
    fsops.append_line(run.layout.records / FILE, json.dumps(line))
    write_annotation(run.layout, scored.version, scores=scored.headlines)
    found = verdict(points(run), images_per_step)
    fsops.replace_file(run.layout.records / VERDICT, (json.dumps(asdict(found), indent=1) + "\n").encode())
    return found


def read_scores(run: Run) -> dict[int, Scored]:
    """The newest measurement of each version, by number; lines that a crash cut short are left out."""
    path, found = run.layout.records / FILE, {}
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else ():
        scored = _parsed(line)
        if scored is not None:
            found[scored.version] = scored
    return found


def sentence_of(run: Run) -> str | None:
    """The latest verdict in words; None where there is none, or none that can be read."""
    try:
        return str(json.loads((run.layout.records / VERDICT).read_bytes())["sentence"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def points(run: Run) -> list[Point]:
    """The gains of all versions that were ever measured, gone ones included."""
    return [
        Point(scored.version, scored.step, scored.gain.value, scored.gain.low, scored.gain.high)
        for scored in read_scores(run).values()
        if scored.gain is not None
    ]


def marks(run: Run) -> dict[int, str]:
    """The versions at the jump, which the default policy keeps, with what they are."""
    found = verdict(points(run), 1)
    named = {found.before: "just before the jump", found.after: "just after the jump"}
    return {version: mark for version, mark in named.items() if version is not None}


def _parsed(line: str) -> Scored | None:
    try:
        facts: dict[str, Any] = json.loads(line)
        facts.pop("scored_at")
        gain = facts.pop("gain")
        if gain is not None:
            gain = Gain(**{**gain, "by_band": tuple(gain["by_band"])})
        intervals = {name: (low, high) for name, (low, high) in facts.pop("intervals", {}).items()}
        return Scored(gain=gain, intervals=intervals, **facts)
    except (ValueError, TypeError, KeyError):
        return None
