"""What was measured is read back, whatever became of the file."""

import json
from pathlib import Path

from everstep.records.scores import Scored, file_scores, latest_verdict, points, read_scores
from everstep.records.verdict import Gain
from everstep.versions import Run


def test_the_latest_verdict_is_read_and_a_broken_one_costs_nothing(tmp_path: Path) -> None:
    run = Run.create(tmp_path / "a", "a: 1\n")
    verdict = run.layout.records / "verdict.json"
    assert latest_verdict(run) is None
    verdict.write_text(json.dumps({"sentence": "obeyed since step 5,400 (version_18)", "state": "obeyed"}))
    assert latest_verdict(run) == {"sentence": "obeyed since step 5,400 (version_18)", "state": "obeyed"}
    verdict.write_text("{")
    assert latest_verdict(run) is None


OLD = (
    '{"version": 1, "step": 300, "images_seen": 1200, "manifest_digest": "xxh3-128:1", '
    '"gain": {"value": 0.3, "low": 0.28, "high": 0.32, "by_band": [0.1, 0.2, 0.4, 0.5], "over_blank": 0.2, '
    '"examples": 80, "pairs": 64}, "others": {"loss": 0.1}, "failed": {}, "scored_at": "2026-11-20T10:00:00+00:00"}'
)


def test_what_earlier_programs_measured_is_read(tmp_path: Path) -> None:
    run = Run.create(tmp_path / "a", "a: 1\n")
    (run.layout.records / "scores.jsonl").write_text(OLD + "\n" + '{"version": 2, "cut')
    scored = read_scores(run)[1]
    assert scored.gain is not None
    assert (scored.gain.value, scored.gain.over_blank, scored.gain.p, scored.gain.benefit) == (0.3, 0.2, None, None)
    assert scored.headlines == {"control_gain": 0.3, "loss": 0.1}
    assert points(run)[0].gain.is_clear


def test_gain_and_benefit_are_scores_and_the_benefit_on_training_pairs_a_curve(tmp_path: Path) -> None:
    run = Run.create(tmp_path / "a", "a: 1\n")
    gain = Gain(0.5, 0.4, 0.6, (0.5,) * 4, 64, 64, 0.0001, None, 0.2, 0.1, 0.3, (0.2,) * 4, 0.25, "xxh3-128:2")
    filed = Scored(1, 300, 1200, "xxh3-128:1", gain, {"loss": 0.1})
    verdict = file_scores(run, filed, 4)
    assert read_scores(run) == {1: filed}
    assert filed.headlines == {"control_gain": 0.5, "benefit": 0.2, "loss": 0.1}
    assert filed.curves == {**filed.headlines, "benefit_on_training_pairs": 0.25}
    assert run.annotation(1).scores == filed.headlines
    told = latest_verdict(run)
    assert told is not None
    assert (told["sentence"], told["gain"], told["benefit"]) == (verdict.sentence, 0.5, 0.2)


UNSURE = (
    '{"version": 3, "step": 900, "images_seen": 3600, "manifest_digest": "xxh3-128:1", "gain": null, '
    '"others": {"loss": 0.1, "circle_iou": 0.7}, "failed": {}, "scored_at": "2026-11-01T00:00:00+00:00"}'
)


def test_a_line_from_before_scores_had_intervals_is_read_and_new_ones_keep_theirs(tmp_path: Path) -> None:
    run = Run.create(tmp_path / "a", "a: 1\n")
    (run.layout.records / "scores.jsonl").write_text(UNSURE + "\n")
    old = read_scores(run)[3]
    assert (old.others["circle_iou"], old.intervals, old.pictures) == (0.7, {}, None)
    new = Scored(
        4, 1200, 4800, "xxh3-128:2", None, {"circle_iou": 0.75}, intervals={"circle_iou": (0.7, 0.8)}, pictures=32
    )
    file_scores(run, new, 4)
    assert read_scores(run) == {3: old, 4: new}
