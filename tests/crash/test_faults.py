"""The table of faults says what a run counted, and nothing else."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from fault_table import BEGIN, END, filled

DOCS = Path(__file__).parents[2] / "docs"
KINDS = 35
EXAMPLE = """
import pytest

@pytest.mark.fault("counted {many} times")
@pytest.mark.parametrize("many", [3])
def test_counts(seen, many):
    for _ in range(many):
        seen.both()
    seen.injected()  # and one that missed

@pytest.mark.fault("once")
def test_once(): pass

@pytest.mark.fault("not survived")
def test_fails(seen):
    seen.both()
    seen.lost(2)
    assert False

@pytest.mark.fault("expected to fail")
@pytest.mark.xfail(strict=True, reason="not mended yet")
def test_expected(): assert False

@pytest.mark.fault("left out")
def test_skipped(): pytest.skip("no tool")
"""


def test_the_page_is_what_was_counted() -> None:
    page, counted = (DOCS / "reliability.md").read_text(), json.loads((DOCS / "reliability.json").read_text())
    assert filled(page, counted) == page
    assert len(counted["faults"]) >= KINDS
    assert sum(row["steps_lost"] for row in counted["faults"]) == 0
    for row in counted["faults"]:
        assert row["hit"] or row["not_run"], f"{row['fault']} never hit anything"


def test_a_run_is_counted_by_fault(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table = tmp_path / "counted.json"
    (tmp_path / "test_example.py").write_text(EXAMPLE)
    monkeypatch.setenv("EVERSTEP_FAULT_TABLE", str(table))
    words = ["-q", "-p", "no:cacheprovider", f"--rootdir={tmp_path}", "-c", "/dev/null", str(tmp_path)]
    run_apart(words)
    rows = {row["fault"]: row for row in json.loads(table.read_text())["faults"]}
    keys = ("injected", "hit", "survived", "steps_lost")
    counts = {name: tuple(row[key] for key in keys) for name, row in rows.items()}
    assert counts == {
        "counted 3 times": (4, 3, 3, 0),
        "once": (1, 1, 1, 0),
        "not survived": (2, 2, 1, 2),
        "expected to fail": (1, 1, 0, 0),
        "left out": (0, 0, 0, 0),
    }
    assert rows["left out"]["not_run"] == ["no tool"]
    assert rows["expected to fail"]["failed"] == ["not mended yet"]
    page = filled(f"before {BEGIN} old {END} after", json.loads(table.read_text()))
    assert page.startswith(f"before {BEGIN}")
    assert page.endswith(f"{END} after")
    assert "| left out | not run here: no tool | | | | `test_example.py` |" in page
    with pytest.raises(ValueError, match="no part between"):
        filled("", json.loads(table.read_text()))


def run_apart(words: list[str]) -> None:
    """In a process of its own, with this plugin alone."""
    paths = os.pathsep.join([str(Path(__file__).parent), *filter(None, [os.environ.get("PYTHONPATH")])])
    command = [sys.executable, "-m", "pytest", "-p", "faults", *words]
    subprocess.run(command, env={**os.environ, "PYTHONPATH": paths}, capture_output=True, check=False)
