"""records/scores.jsonl: what was measured of each version, one line a measurement, and the verdict on all of them.

Append-only: the newest line of a version counts. Scores outlive the versions they speak of. Never imports torch.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from typing import Any

from everstep.records.verdict import Gain, PairedTest, Point, Verdict, verdict
from everstep.versions import Run, fsops, write_annotation
from everstep.versions.recovery import end_cut_line

CONTROL_GAIN, BENEFIT = "control_gain", "benefit"
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
        """One number for each score that versions are ranked by."""
        gain = {} if self.gain is None else {CONTROL_GAIN: self.gain.value}
        benefit = {} if self.gain is None or self.gain.benefit is None else {BENEFIT: self.gain.benefit}
        return {**gain, **benefit, **self.others}

    @property
    def curves(self) -> dict[str, float]:
        """All that is worth a curve."""
        seen = None if self.gain is None else self.gain.seen_benefit
        return self.headlines | ({} if seen is None else {"benefit_on_training_pairs": seen})


def file_scores(run: Run, scored: Scored, images_per_step: int, paired: PairedTest | None = None) -> Verdict:
    """Note what was measured in the records and on the version's note; returns the new verdict. Raises: OSError."""
    line = {**asdict(scored), "scored_at": datetime.now(UTC).isoformat(timespec="seconds")}
    end_cut_line(run.layout.records / FILE)
    fsops.append_line(run.layout.records / FILE, json.dumps(line))
    write_annotation(run.layout, scored.version, scores=scored.headlines)
    found = verdict(points(run), images_per_step, paired)
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


def latest_verdict(run: Run) -> dict[str, Any] | None:
    """What was said last, as verdict.json has it; None where there is nothing, or nothing that can be read."""
    try:
        found = json.loads((run.layout.records / VERDICT).read_bytes())
        return found if isinstance(found["sentence"], str) else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def points(run: Run) -> list[Point]:
    """What was measured of all versions that ever were, gone ones included."""
    return [
        Point(scored.version, scored.step, scored.gain)
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
            bands = {key: tuple(gain[key]) for key in ("by_band", "benefit_by_band") if gain.get(key) is not None}
            gain = Gain(**{**gain, **bands})
        intervals = {name: (low, high) for name, (low, high) in facts.pop("intervals", {}).items()}
        return Scored(gain=gain, intervals=intervals, **facts)
    except (ValueError, TypeError, KeyError):
        return None
