"""What the page is told is what the disk says, and what was read is not read again."""

import json
from pathlib import Path

import pytest
from drafts import draft

from everstep.versions import Run, manifest, write_annotation
from everstep.watching.remembered import RememberedRun
from everstep.watching.views import card, folders_below, log_of, version_of, whole


def test_a_run_is_shown_whole(trained: RememberedRun) -> None:
    told = json.loads(json.dumps(whole(trained)))
    assert [row["version"] for row in told["versions"]] == [0, 1, 2]
    assert told["standing"]["condition"] == "complete"
    assert told["curve"]["step"] == [1, 2, 3, 4]
    assert [row["version"] for row in told["scores"]] == [0, 1, 2]
    assert told["scores"][2]["gain"][1] <= told["scores"][2]["gain"][0] <= told["scores"][2]["gain"][2]
    assert set(told["sheets"]) == {"0", "1", "2"}
    assert len(told["captions"][told["sheets"]["1"][0]]) == 2
    assert "max_steps: 4" in told["settings"]
    assert "from_pretrained" in version_of(trained, 1)["load"]
    assert [line["event"] for line in log_of(trained)].count("commit") == 3


def test_a_run_that_cannot_be_understood_is_a_card_that_says_why(trained: RememberedRun) -> None:
    trained.layout.hparams.write_text("optim: {max_steps: many}\n")
    assert "max_steps" in card(trained)["error"]


def test_loops_of_somebodys_own_and_empty_runs_are_shown_too(tmp_path: Path) -> None:
    made = Run.create(tmp_path / "runs/own", "lr: 1\n")
    seen = RememberedRun(made.path)
    made.tell_best_score("")
    assert card(seen)["condition"] == "empty"
    made.commit(draft(3))
    told = whole(seen)
    assert told["versions"][0]["step"] == 3
    assert (told["sheets"], told["scores"]) == ({}, [])


def test_runs_are_found_in_a_folder_or_are_it(trained: Run, tmp_path: Path) -> None:
    (trained.path.parent / "notes").mkdir()
    (trained.path.parent / ".hidden").mkdir()
    assert [path.name for path in folders_below(trained.path.parent)] == ["a"]
    assert folders_below(trained.path) == [trained.path]
    assert folders_below(tmp_path / "nothing") == []


def test_what_is_remembered_is_what_is_there(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = RememberedRun(run.path)
    assert seen.versions() == run.versions()
    reads: list[Path] = []
    read = manifest.read
    monkeypatch.setattr(manifest, "read", lambda path: (reads.append(path), read(path))[1])
    assert [version.number for version in seen.versions()] == [0, 1, 2]
    assert reads == []
    run.commit(draft(30))
    reads.clear()
    assert [version.step for version in seen.versions()] == [0, 10, 20, 30]
    assert [path.name for path in reads] == ["version_3"]
    write_annotation(run.layout, 1, labels=("good",))
    assert seen.annotation(1).labels == ("good",)
    write_annotation(run.layout, 1, labels=("better",))
    assert seen.annotation(1).labels == ("better",)
    (run.path / "version_2/manifest.json").chmod(0o644)
    (run.path / "version_2/manifest.json").write_text("{}")
    assert [version.number for version in seen.versions()] == [0, 1, 3]
