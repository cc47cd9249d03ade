"""What the page is told is what the disk says, and what was read is not read again."""

import json
import os
import shutil
import time
from pathlib import Path

import pytest
from drafts import draft

from disks import fill, small_disk
from everstep.versions import LiveStatus, Run, manifest, write_annotation, write_live
from everstep.watching.remembered import RememberedRun
from everstep.watching.report import report
from everstep.watching.sending import encoded, packed, sent
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


def test_what_is_damaged_set_aside_and_gone_is_told(trained: RememberedRun) -> None:
    shutil.rmtree(trained.path / "version_1")
    manifest_path = trained.path / "version_2/manifest.json"
    manifest_path.chmod(0o644)
    manifest_path.write_text("{")
    (trained.layout.quarantine / "version_7").mkdir(parents=True)
    told = whole(RememberedRun(trained.path))
    assert [row["version"] for row in told["versions"]] == [0]
    assert {one["name"] for one in told["damaged"]} == {"version_2", "version_7"}
    assert all(one["why"] for one in told["damaged"])
    assert [row["version"] for row in told["scores"]] == [0, 1, 2]  # what was measured outlives it


@pytest.mark.fault("disk that is full, seen from the page")
def test_a_training_whose_disk_is_full_looks_so(trained: RememberedRun, tmp_path: Path) -> None:
    with small_disk(tmp_path / "small", "size=8m") as disk:
        run = RememberedRun(Path(shutil.copytree(trained.path, disk / "a")))
        settings = run.layout.hparams.read_text()
        run.layout.hparams.write_text(settings.replace("max_steps: 4", "max_steps: 400"))
        facts = {"images_seen": 8, "images_per_second": 1.0, "last_version": "version_2", "snapshot_step": None}
        more = {"state": "running", "max_steps": 400, "next_version_step": None, "loss": 0.1}
        with run.lock("test"):
            write_live(run.layout, LiveStatus.now(step=5, **more, **facts))
            assert card(run)["condition"] == "running"
            fill(disk, 4096)
            assert card(RememberedRun(run.path))["condition"] == "disk full"
            (disk / "ballast").unlink()


def test_a_slim_version_is_seen_as_such(trained: RememberedRun) -> None:
    assert [row["resumable"] for row in whole(trained)["versions"]] == [True, True, True]
    shutil.move(trained.path / "version_1/training", trained.path.parent / "aside")
    assert [row["resumable"] for row in whole(trained)["versions"]] == [True, False, True]


def test_rows_are_sent_as_columns_and_are_the_same(trained: RememberedRun) -> None:
    told = whole(trained)
    columns = packed(told)
    assert columns["versions"]["step"] == [0, 2, 4]
    names = {name for row in told["versions"] for name in row["scores"]}
    assert set(columns["versions"]["scores"]) == names
    for name, column in columns["versions"]["scores"].items():
        assert column == [pytest.approx(row["scores"].get(name), abs=1e-6) for row in told["versions"]]
    assert packed({**told, "versions": [], "scores": []})["versions"] == {"scores": {}}
    whole_then = json.loads(sent(trained))
    assert {key: whole_then[key] for key in ("versions", "jump", "captions")} == {
        key: json.loads(json.dumps(columns[key])) for key in ("versions", "jump", "captions")
    }


def test_what_is_dear_is_made_anew_as_often_as_its_share_allows(tmp_path: Path) -> None:
    run, made = RememberedRun(tmp_path), iter(range(10))
    assert [run.once("a", 1, lambda: next(made)), run.once("a", 1, lambda: next(made))] == [0, 0]
    assert run.once("a", 2, lambda: next(made)) == 1  # another stamp
    assert run.once("a", 2, lambda: next(made), lasts_s=0) == 2  # too old

    def slow() -> int:
        time.sleep(0.05)
        return next(made)

    assert run.once("b", 1, slow, share=0.001) == 3
    assert run.once("b", 2, slow, share=0.001) == 3  # 0.05 s may be taken every 50 s
    assert run.once("b", 2, slow) == 4


def test_what_is_sent_again_is_what_is_there_now(trained: RememberedRun) -> None:
    long_ago = time.time() - 100
    for path in (trained.path, *trained.path.rglob("*")):
        os.utime(path, (long_ago, long_ago))
    before = json.loads(sent(trained))
    assert json.loads(sent(trained))["versions"] == before["versions"]
    write_annotation(trained.layout, 1, pinned=True)
    assert json.loads(sent(trained))["versions"]["pinned"] == [False, True, False]
    shutil.move(trained.path / "version_1/training", trained.path.parent / "aside")
    assert json.loads(sent(trained))["versions"]["resumable"] == [True, False, True]
    assert json.loads(sent(trained))["standing"]["state"] == "complete"


def test_a_training_that_became_sick_can_be_looked_at(trained: RememberedRun) -> None:
    """Its loss is no number, and what browsers read knows no such thing."""
    facts = {"images_seen": 8, "images_per_second": 1.0, "last_version": "version_2", "snapshot_step": None}
    live = LiveStatus.now(step=5, state="running", max_steps=4, next_version_step=None, loss=float("nan"), **facts)
    write_live(trained.layout, live)
    write_annotation(trained.layout, 1, scores={"loss": float("inf")})

    def refuse(word: str) -> None:
        raise AssertionError(f"{word} is no JSON")

    told = json.loads(sent(trained), parse_constant=refuse)
    assert told["standing"]["loss"] is None
    assert told["versions"]["scores"]["loss"][1] is None
    assert json.loads(encoded(card(trained)), parse_constant=refuse)["name"] == "a"
    assert "NaN" not in report(trained)
