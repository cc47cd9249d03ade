"""A file that records are added to ends with a whole one, on disks that are really full."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from disks import fill, remount, small_disk
from everstep.train import appended
from everstep.train.appended import AppendedFile, WaitingLines


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    with small_disk(tmp_path / "disk", "size=1m") as folder:
        yield folder


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every write is tried, as if time had gone by."""
    monkeypatch.setattr(appended, "RETRY_S", 0.0)
    monkeypatch.setattr("everstep.telling.DEAR", 0)


def test_half_a_record_is_cut_off_and_the_next_one_follows_the_last_whole_one(disk: Path) -> None:
    file = AppendedFile(disk / "records")
    file.append(b"whole\n")
    fill(disk)
    with pytest.raises(OSError, match="No space left"):
        file.append(b"x" * 10_000 + b"\n")
    assert (disk / "records").read_bytes() == b"whole\n"
    (disk / "ballast").unlink()
    file.append(b"next\n")
    file.close()
    assert (disk / "records").read_bytes() == b"whole\nnext\n"


def test_what_a_crash_left_of_a_record_goes(tmp_path: Path) -> None:
    (tmp_path / "records").write_bytes(b"whole\nha")
    file = AppendedFile(tmp_path / "records", 6)
    file.append(b"next\n")
    file.close()
    assert (tmp_path / "records").read_bytes() == b"whole\nnext\n"


def test_lines_wait_for_a_full_disk_and_none_is_lost(disk: Path, impatient: None) -> None:
    said: list[str] = []
    lines = WaitingLines(AppendedFile(disk / "lines"), "lines", said.append)
    fill(disk, left_bytes=4096)
    for number in range(5000):
        lines.add(f"line {number}")
        if number % 100 == 0:
            lines.write()
    lines.write()
    assert len((disk / "lines").read_text()) <= 4096
    (disk / "ballast").unlink()
    lines.write()
    lines.close()
    assert (disk / "lines").read_text().splitlines() == [f"line {number}" for number in range(5000)]
    assert [sentence.split(" (")[0] for sentence in said] == ["Writing lines failed", "Writing lines: works again."]


def test_lines_beyond_what_may_wait_are_dropped_from_the_old_end_and_counted(disk: Path, impatient: None) -> None:
    said: list[str] = []
    lines = WaitingLines(AppendedFile(disk / "lines"), "lines", said.append, most=100)
    fill(disk)
    for number in range(250):
        lines.add(f"line {number}")
        lines.write()
    (disk / "ballast").unlink()
    lines.write()
    lines.close()
    assert (disk / "lines").read_text().splitlines() == [f"line {number}" for number in range(150, 250)]
    assert said[1] == "lines: 100 lines wait for the disk; the oldest are dropped from now on."
    assert said[-1] == "lines: 150 lines were dropped meanwhile."


def test_the_end_says_what_is_lost(disk: Path) -> None:
    said: list[str] = []
    lines = WaitingLines(AppendedFile(disk / "lines"), "lines", said.append)
    fill(disk)
    for line in ("a", "b"):
        lines.add(line)
        lines.write()
    lines.close()
    assert said[-1] == "lines: 2 more lines could not be written."


def test_a_disk_that_cannot_be_written_at_all(disk: Path, impatient: None) -> None:
    said: list[str] = []
    remount(disk, "ro")
    lines = WaitingLines(AppendedFile(disk / "records" / "lines"), "lines", said.append)
    lines.add("a")
    lines.write()
    assert "Read-only file system" in said[0]
    remount(disk, "rw")
    lines.close()
    assert (disk / "records/lines").read_text() == "a\n"
