"""Requests are heard once each, and a disk that fails costs whoever asks an answer, never the training."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from disks import fill, remount, small_disk
from everstep.versions import (
    LiveStatus,
    Run,
    answer,
    clear_requests,
    drop_request,
    is_waiting,
    read_answer,
    read_live,
    read_requests,
    write_live,
    write_request,
)


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    with small_disk(tmp_path / "disk", "size=1m") as folder:
        yield folder


@pytest.fixture
def run(disk: Path) -> Run:
    return Run.create(disk / "a", "a: 1\n")


def live(step: int) -> LiveStatus:
    facts = {"state": "running", "step": step, "max_steps": 9, "images_seen": 1, "loss": None}
    return LiveStatus.now(**facts, images_per_second=None, last_version=None, next_version_step=None)


def test_two_of_a_kind_are_two_requests_and_are_answered_apart(run: Run) -> None:
    one, two = write_request(run.layout, "save", label="one"), write_request(run.layout, "save", label=None)
    assert {(asked.kind, asked.id, asked.details.get("label")) for asked in read_requests(run.layout)} == {
        ("save", one.id, "one"),
        ("save", two.id, None),
    }
    answer(run.layout, one, "no room: é")
    assert [asked.id for asked in read_requests(run.layout)] == [two.id]
    assert (is_waiting(run.layout, one), is_waiting(run.layout, two)) == (False, True)
    drop_request(run.layout, two)
    assert (read_answer(run.layout, one), read_answer(run.layout, two)) == ("no room: é", None)
    assert list(run.layout.requests.iterdir()) == []


def test_a_start_forgets_requests_answers_and_leftovers(run: Run) -> None:
    answer(run.layout, write_request(run.layout, "save"), "no")
    write_request(run.layout, "stop")
    (run.layout.requests / ".save-1.json.7.new").touch()
    clear_requests(run.layout)
    assert list(run.layout.requests.iterdir()) == []


def test_a_full_disk_takes_a_request_that_says_nothing_more(run: Run, disk: Path) -> None:
    fill(disk)
    asked = write_request(run.layout, "stop")
    assert read_requests(run.layout) == [asked]
    with pytest.raises(OSError, match="No space left"):
        write_request(run.layout, "save", label="kept")
    answer(run.layout, asked, "an answer that finds no room")
    assert list(run.layout.requests.iterdir()) == []
    assert read_answer(run.layout, asked) is None


def test_a_disk_that_is_read_only_raises_nothing_in_the_training(run: Run, disk: Path) -> None:
    asked = write_request(run.layout, "stop")
    write_live(run.layout, live(1))
    remount(disk, "ro")
    write_live(run.layout, live(2))
    answer(run.layout, asked, "no")
    drop_request(run.layout, asked)
    clear_requests(run.layout)
    assert read_requests(run.layout) == [asked]
    found = read_live(run.layout)
    assert found is not None
    assert found.step == 1


def test_a_live_file_that_a_full_disk_refuses_leaves_the_old_one_and_nothing_beside(run: Run, disk: Path) -> None:
    write_live(run.layout, live(1))
    fill(disk)
    write_live(run.layout, live(2))
    found = read_live(run.layout)
    assert found is not None
    assert found.step == 1
    assert [path.name for path in run.layout.records.iterdir()] == ["live.json"]


def test_a_folder_that_cannot_be_listed_asks_nothing(run: Run) -> None:
    run.layout.requests.write_text("a file where the folder should be")
    assert read_requests(run.layout) == []
    clear_requests(run.layout)
