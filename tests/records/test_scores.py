"""What was measured is read back, whatever became of the file."""

import json
from pathlib import Path

from everstep.records.scores import Scored, file_scores, read_scores, sentence_of
from everstep.versions import Run


def test_the_latest_verdict_is_read_and_a_broken_one_costs_nothing(tmp_path: Path) -> None:
    run = Run.create(tmp_path / "a", "a: 1\n")
    verdict = run.layout.records / "verdict.json"
    assert sentence_of(run) is None
    verdict.write_text(json.dumps({"sentence": "obeyed since step 5,400 (version_18)", "state": "obeyed"}))
    assert sentence_of(run) == "obeyed since step 5,400 (version_18)"
    verdict.write_text("{")
    assert sentence_of(run) is None


OLD = (
    '{"version": 3, "step": 900, "images_seen": 3600, "manifest_digest": "xxh3-128:1", "gain": null, '
    '"others": {"loss": 0.1, "circle_iou": 0.7}, "failed": {}, "scored_at": "2026-11-01T00:00:00+00:00"}'
)


def test_a_line_from_before_scores_had_intervals_is_read_and_new_ones_keep_theirs(tmp_path: Path) -> None:
    run = Run.create(tmp_path / "a", "a: 1\n")
    (run.layout.records / "scores.jsonl").write_text(OLD + "\n")
    old = read_scores(run)[3]
    assert (old.others["circle_iou"], old.intervals, old.pictures) == (0.7, {}, None)
    new = Scored(
        4, 1200, 4800, "xxh3-128:2", None, {"circle_iou": 0.75}, intervals={"circle_iou": (0.7, 0.8)}, pictures=32
    )
    file_scores(run, new, 4)
    assert read_scores(run) == {3: old, 4: new}
