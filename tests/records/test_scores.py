"""What was measured is read back, whatever became of the file."""

import json
from pathlib import Path

from everstep.records.scores import sentence_of
from everstep.versions import Run


def test_the_latest_verdict_is_read_and_a_broken_one_costs_nothing(tmp_path: Path) -> None:
    run = Run.create(tmp_path / "a", "a: 1\n")
    verdict = run.layout.records / "verdict.json"
    assert sentence_of(run) is None
    verdict.write_text(json.dumps({"sentence": "obeyed since step 5,400 (version_18)", "state": "obeyed"}))
    assert sentence_of(run) == "obeyed since step 5,400 (version_18)"
    verdict.write_text("{")
    assert sentence_of(run) is None
