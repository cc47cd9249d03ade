"""Which older versions go after a new one, and what stays since a mirror lacks it."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from drafts import draft

from disks import fill, small_disk
from everstep.config.load import dump, resolve
from everstep.config.schema import Config
from everstep.mirror.backend import Place
from everstep.mirror.copies import Terms, send
from everstep.mirror.folder import Folder
from everstep.train.retiring import following, mirrors_of, retiring
from everstep.versions import Run, write_annotation

KEEP = {"last": 1, "best": 0, "every": "none"}


def settings(target: Path | str, **keep: object) -> Config:
    return resolve(None, {"keep": {**KEEP, **keep}, "mirror": {"targets": [str(target)]}})


def numbers(run: Run) -> list[int]:
    return [version.number for version in run.versions()]


@pytest.fixture
def place(tmp_path: Path) -> Folder:
    (tmp_path / "there").mkdir()
    return Folder(tmp_path / "there/r")


def mirror(run: Run, place: Place, **terms: Any) -> None:
    send(run, place, Terms(**terms), lambda text: None)


def test_what_a_mirror_lacks_stays_until_it_is_there(run: Run, place: Folder) -> None:
    retire = retiring(settings(place.root.parent), None)
    assert (retire(run), numbers(run)) == ("", [0, 1, 2])
    mirror(run, place)
    run.commit(draft(30))
    run.commit(draft(40))
    assert "Dropped: version_0, version_1, version_2." in retire(run)
    assert numbers(run) == [3, 4]


def test_without_mirrors_nothing_waits(run: Run) -> None:
    retire = retiring(resolve(None, {"keep": KEEP}), None)
    assert "Dropped: version_0, version_1." in retire(run)


def test_a_budget_is_kept_and_what_is_not_mirrored_goes_last(run: Run, place: Folder) -> None:
    mirror(run, place)
    for step in (30, 40):
        run.commit(draft(step))
    room = run.version(0).size_bytes * 8 // 5
    retire = retiring(settings(place.root.parent, last=5, budget=str(room)), None)
    retire(run)
    sizes = {version.number: version.resumable for version in run.versions()}
    assert sizes == {3: False, 4: True}


def test_a_mirror_that_is_away_does_not_fill_the_disk(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", "size=2m") as disk:
        run = Run.create(disk / "r", "a: 1\n")
        for step in range(3):
            run.commit(draft(step))
        retire = retiring(settings(tmp_path / "away"), None)
        assert (retire(run), numbers(run)) == ("", [0, 1, 2])
        fill(disk, 30_000)
        retire(run)
        assert numbers(run) == [2]


@pytest.mark.parametrize("is_slim", [False, True])
def test_what_is_pinned_never_goes_whatever_a_mirror_has(run: Run, place: Folder, is_slim: bool) -> None:
    write_annotation(run.layout, 0, pinned=True)
    mirror(run, place, is_slim=is_slim)
    retire = retiring(settings(place.root.parent, budget="1"), None)
    assert "Dropped: version_1." in retire(run)
    assert [version.number for version in run.versions() if version.resumable] == [0, 2]


def test_a_version_that_the_mirrors_own_policy_does_not_take_is_not_waited_for(run: Run, place: Folder) -> None:
    from everstep.versions.retention import Policy

    mirror(run, place, policy=Policy(last=1, best=0, every_versions=None))
    assert "Dropped: version_0, version_1." in retiring(settings(place.root.parent), None)(run)


def test_the_verb_waits_as_a_training_does(everstep: Callable[..., Any], run: Run, place: Folder) -> None:
    run.replace_hparams(dump(settings(place.root.parent)))
    run.tell_best_score("benefit")  # as a training of ours does, whose settings are read
    shown = everstep("prune", run.path, "--dry-run").out
    assert shown.count("not mirrored yet") == 3
    mirror(run, place)
    assert "Dropped: version_0, version_1." in everstep("prune", run.path).out


def test_a_mirror_is_started_with_what_the_settings_say_of_it(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    told = {"targets": ["s3://b/p"], "slim": True, "rate": "20MB", "keep": "last 5, daily 7"}
    mirrors, started = mirrors_of(resolve(None, {"mirror": told})), list[list[str]]()
    monkeypatch.setattr("subprocess.Popen.__init__", lambda self, words, **more: started.append(words))
    monkeypatch.setattr("subprocess.Popen.__del__", lambda self: None)
    monkeypatch.setattr("os.setpriority", lambda *which: None)
    monkeypatch.setattr("subprocess.Popen.pid", 0, raising=False)
    following(resolve(None, {"keep": {"everything": True}}), None, mirrors)(run)
    assert started[0][3:] == ["mirror", "send", "--wait", "--slim", "--rate", "20MB", "--keep", "last 5, daily 7",
                              str(run.path), "s3://b/p"]  # fmt: skip
