"""Only lines of a version's own line of training are held against it."""

import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

from everstep.train.replay_records import recorded_steps
from everstep.versions import Run, read_live
from program import Ended, Program


def test_lines_of_a_training_that_went_back_and_has_no_version_yet_do_not_count(
    everstep: Callable[..., Ended], start: Callable[..., Program], copied: Run
) -> None:
    changed = ("--set", "optim.learning_rate=5e-4", "--set", "optim.max_steps=100000", "--set", "versions.every=100000")
    program = start("resume", "a@1", *changed)
    program.wait_for(lambda: (live := read_live(copied.layout)) is not None and live.resumed_from and live.step > 20)
    ended = everstep("replay", "a@2")
    assert ended.code == 0, ended.out
    assert "10 of 10 steps have no line of theirs" in ended.out
    assert everstep("stop", "a").code == 0
    assert program.wait() == 3
    assert len(recorded_steps(copied, copied.version(1), 0)) == 10
    assert recorded_steps(copied, copied.version(2), 10) == {}
    latest = copied.find("latest")
    assert len(recorded_steps(copied, latest, 10)) == latest.step - 10


def test_lines_of_a_version_that_was_rescued_after_the_writer_died_count(copied: Run) -> None:
    live = read_live(copied.layout)
    assert live is not None
    told = {**asdict(live), "last_version": "version_3", "updated_at": live.updated_at - 3600}
    copied.layout.live.write_text(json.dumps(told))
    assert sorted(recorded_steps(copied, copied.version(4), 30)) == list(range(31, 41))
    told["updated_at"] = live.updated_at + 3600  # it still trained when version_4 had long been there
    copied.layout.live.write_text(json.dumps(told))
    assert recorded_steps(copied, copied.version(4), 30) == {}
    assert len(recorded_steps(copied, copied.version(3), 20)) == 10


def test_without_a_live_file_the_newest_version_tells_the_line(copied: Run) -> None:
    copied.layout.live.unlink()
    assert sorted(recorded_steps(copied, copied.version(2), 10)) == list(range(11, 21))


def test_a_line_that_is_lost_is_only_missing(everstep: Callable[..., Ended], copied: Run) -> None:
    path: Path = copied.layout.records / "metrics.jsonl"
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(lines[:33] + lines[36:]))
    ended = everstep("replay", "a@4")
    assert ended.code == 0, ended.out
    assert "3 of 10 steps have no line of theirs in records/metrics.jsonl" in ended.out
    path.unlink()
    ended = everstep("replay", "a@4")
    assert ended.code == 0, ended.out
    assert "10 of 10 steps have no line" in ended.out
