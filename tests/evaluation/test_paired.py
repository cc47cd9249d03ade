"""Two versions against each other, from the errors on record."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from everstep.evaluation.paired import compared, paired_test
from everstep.records.errors import Errors, read_errors, write_errors
from everstep.records.scores import Scored, file_scores
from everstep.records.verdict import SEEN, SURE, TRUE
from everstep.versions import Run

HARD = np.random.default_rng(0).lognormal(0, 1, 64)  # what an example costs whatever the network


def errors(number: int, held_out: float, seen: float, **others: Any) -> Errors:
    noise = np.random.default_rng(number).lognormal(0, 0.05, (2, 64))
    found = {TRUE: (HARD * held_out * noise[0]).tolist(), SEEN: (HARD * seen * noise[1]).tolist()}
    return replace(Errors("design", f"digest {number}", list(range(64)), found), **others)


@pytest.fixture
def run(tmp_path: Path) -> Run:
    made = Run.create(tmp_path / "a", "a: 1\n")
    for number, (held_out, seen) in enumerate([(1.0, 1.0), (0.8, 0.8), (0.85, 0.6)]):
        write_errors(made, number, errors(number, held_out, seen))
        file_scores(made, Scored(number, 300 * number, 1200 * number, f"digest {number}", None), 4)
    return made


def test_small_differences_are_sure_where_examples_differ_much_more_than_versions(run: Run) -> None:
    larger = paired_test(run)
    first, second, third = range(3)
    assert larger(first, second, TRUE) < SURE < larger(second, first, TRUE)
    assert larger(third, second, TRUE) < SURE
    assert larger(second, third, SEEN) < SURE
    assert larger(second, second, TRUE) == 1.0


def test_what_was_measured_on_other_examples_or_of_another_version_does_not_compare(run: Run) -> None:
    larger = paired_test(run)
    write_errors(run, 1, errors(1, 0.8, 0.8, design="another"))
    assert larger(0, 1, TRUE) is None
    write_errors(run, 1, errors(1, 0.8, 0.8, manifest_digest="that of a version that had its number before"))
    assert larger(0, 1, TRUE) is None
    assert larger(0, 7, TRUE) is None
    (run.layout.records / "errors/version_1.json").write_text('{"design"')
    assert read_errors(run, 1) is None
    assert larger(0, 1, TRUE) is None


def test_how_much_better_one_is_has_an_interval(run: Run) -> None:
    def side(number: int, digest: int, base: str = "base") -> Any:
        manifest = {"base": {"digest": base}}
        return run, SimpleNamespace(number=number, manifest_digest=f"digest {digest}", manifest=manifest)

    sides = [side(number, number) for number in range(3)]
    better = compared(sides[0], sides[1])
    assert better is not None
    assert better.low < 0.2 < better.high
    assert better.high - better.low < 0.1
    worse = compared(sides[1], sides[2])
    assert worse is not None
    assert worse.high < 0
    assert compared(sides[0], side(0, 1)) is None
    assert compared(sides[0], side(1, 1, "another base")) is None


def test_the_errors_of_the_base_are_written_once(run: Run) -> None:
    write_errors(run, None, errors(0, 1.0, 1.0))
    path = run.layout.records / "errors/base.json"
    before = path.stat().st_mtime_ns, path.stat().st_ino
    write_errors(run, None, errors(0, 1.0, 1.0))
    assert (path.stat().st_mtime_ns, path.stat().st_ino) == before
    write_errors(run, None, errors(0, 0.9, 1.0))
    assert read_errors(run, None) == errors(0, 0.9, 1.0)
