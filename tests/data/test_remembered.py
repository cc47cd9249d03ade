"""A check goes on where it was interrupted, trusts no stamp that could lie, and loses nothing but time to its cache."""

import json
import os
import random
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from disks import fill, remount, small_disk
from everstep.data import check, examining
from everstep.data.layouts.files import Files
from everstep.data.remembered import ImageFacts
from remembered_pairs import PAIRS, grow_old, picture, write_pairs

SRC = Path(__file__).parents[2] / "src"


@pytest.fixture(scope="module")
def old(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pairs that were written a while ago. Tests must not write to them."""
    folder = write_pairs(tmp_path_factory.mktemp("old") / "pairs", PAIRS)
    grow_old()
    return folder


@contextmanager
def looked_at() -> Iterator[list[str]]:
    """The names of the files that are decoded inside."""
    names: list[str] = []
    examine_one = examining._examine_one

    def examine(files: Files, name: str) -> ImageFacts:
        names.append(name.rpartition("/")[2])
        return examine_one(files, name)

    examining._examine_one = examine
    try:
        yield names
    finally:
        examining._examine_one = examine_one


def test_the_second_check_decodes_nothing_and_finds_the_same(old: Path, cache: Path) -> None:
    with looked_at() as names:
        first = check(old, resolution=32)
    assert len(names) == 2 * PAIRS
    with looked_at() as names:
        again = check(old, resolution=32)  # the whole list is remembered
        other = check(old, resolution=8)  # its files are
    assert names == []
    assert (again.usable, again.findings, again.fingerprint, again.sizes) == (
        (first.usable, first.findings, first.fingerprint, first.sizes)
    )
    assert len(again.findings) == PAIRS  # smaller than what is trained on
    assert other.fingerprint == first.fingerprint
    assert other.findings == ()


def test_a_remembered_list_knows_a_file_that_changed_since(tmp_path: Path, cache: Path) -> None:
    folder = write_pairs(tmp_path / "pairs", 3)
    grow_old()
    first = check(folder)
    times = (folder / "1.png").stat()
    picture(77).save(folder / "1.png")
    os.utime(folder / "1.png", ns=(times.st_atime_ns, times.st_mtime_ns))
    with looked_at() as names:
        assert check(folder).fingerprint != first.fingerprint
    assert names == ["1.png"]


def test_a_file_that_was_just_written_is_not_remembered_yet(tmp_path: Path, cache: Path) -> None:
    folder = write_pairs(tmp_path / "pairs", 2)
    for _ in range(2):
        with looked_at() as names:
            check(folder)
        assert len(names) == 4
    grow_old()
    check(folder)
    with looked_at() as names:
        check(folder)
    assert names == []


def test_a_failure_is_never_remembered(tmp_path: Path, cache: Path) -> None:
    folder = write_pairs(tmp_path / "pairs", 3)
    good = (folder / "1.png").read_bytes()
    (folder / "1.png").write_bytes(good[: len(good) // 2])
    (folder / "2.png").rename(folder / "away.png")
    grow_old()
    for _ in range(2):
        with looked_at() as names:
            assert [finding.line for finding in check(folder).errors] == [2, 3]
    assert sorted(names) == ["1.png", "2.png"]
    (folder / "away.png").rename(folder / "2.png")
    assert [finding.line for finding in check(folder).errors] == [2]


def test_a_file_is_known_however_one_came_to_it(old: Path, tmp_path: Path, cache: Path) -> None:
    check(old)
    (tmp_path / "link").symlink_to(old)
    with looked_at() as names:
        check(tmp_path / "link")
    assert names == []


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_what_an_interrupted_check_has_decoded_is_remembered(
    number: signal.Signals, tmp_path: Path, cache: Path
) -> None:
    folder = write_pairs(tmp_path / "pairs", 40)
    grow_old()
    began = subprocess.Popen([sys.executable, "-c", SLOW_CHECK, str(folder)], env=surroundings())
    for _ in range(600):
        if rows(cache):
            break
        time.sleep(0.05)
    began.send_signal(number)
    assert began.wait(10) != 0
    kept = rows(cache)
    assert 0 < kept < 80
    with looked_at() as names:
        check(folder)
    assert len(names) == 80 - kept


def test_two_checks_at_once_find_the_same_and_remember_it(tmp_path: Path, cache: Path) -> None:
    folder = write_pairs(tmp_path / "pairs", 40, side=200)
    grow_old()
    words = [sys.executable, "-m", "everstep", "check", "--json", str(folder)]
    both = [subprocess.Popen(words, env=surroundings(), stdout=subprocess.PIPE) for _ in range(3)]
    said = [json.loads(each.communicate(timeout=60)[0]) for each in both]
    assert [each.returncode for each in both] == [0, 0, 0]
    assert said[0] == said[1] == said[2]
    with looked_at() as names:
        assert check(folder).fingerprint == said[0]["fingerprint"]
    assert names == []


# The program, on a disk that takes a tenth of a second for each picture, on a machine of two cores.
SLOW_CHECK = """
import os, sys, time
from everstep.cli.main import main
from everstep.data import examining, remembered
os.cpu_count, remembered.WRITE_PERIOD_S = lambda: 2, 0.2
examine_one = examining._examine_one
def examine(files, name):
    time.sleep(0.1)
    return examine_one(files, name)
examining._examine_one = examine
sys.argv = ["everstep", "check", sys.argv[1]]
main()
"""


def surroundings() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(SRC)}


def rows(cache: Path) -> int:
    """How many files are remembered, as another process sees it."""
    try:
        with sqlite3.connect(f"file:{cache}?mode=ro", uri=True) as connection:
            return int(connection.execute("SELECT count(*) FROM pictures").fetchone()[0])
    except sqlite3.Error:
        return 0


def test_one_that_writes_for_long_delays_nobody_for_long(old: Path, cache: Path) -> None:
    first = check(old)
    with sqlite3.connect(cache, isolation_level=None) as other:
        other.execute("BEGIN EXCLUSIVE")
        began = time.monotonic()
        assert check(old).fingerprint == first.fingerprint
        assert time.monotonic() - began < 20
        other.execute("ROLLBACK")


# --- a cache that is not what it should be -----------------------------------------------------------------


def test_a_cache_that_is_no_database_is_begun_anew(old: Path, cache: Path) -> None:
    cache.parent.mkdir(parents=True)
    cache.write_bytes(b"no database " * 1000)
    first = check(old)
    with looked_at() as names:
        assert check(old).fingerprint == first.fingerprint
    assert names == []


def test_a_cache_of_other_tables_is_begun_anew(old: Path, cache: Path) -> None:
    cache.parent.mkdir(parents=True)
    with sqlite3.connect(cache) as connection:
        connection.execute("CREATE TABLE pictures (other TEXT)")
    check(old)
    with looked_at() as names:
        check(old)
    assert names == []


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 1 << 30), flips=st.integers(1, 200), cut=st.booleans())
def test_a_torn_cache_costs_time_only(old: Path, cache: Path, seed: int, flips: int, cut: bool) -> None:
    cache.unlink(missing_ok=True)
    first = check(old)
    chance = random.Random(seed)
    content = bytearray(cache.read_bytes())
    for _ in range(flips):
        content[chance.randrange(len(content))] ^= 1 << chance.randrange(8)
    cache.write_bytes(content[: chance.randrange(len(content))] if cut else content)
    for resolution in (None, 8):
        again = check(old, resolution=resolution)
        assert (again.usable, again.fingerprint) == (first.usable, first.fingerprint)


def test_one_flipped_bit_of_a_row_is_seen(old: Path, cache: Path) -> None:
    check(old)
    with sqlite3.connect(cache) as connection:
        for name, told in connection.execute("SELECT name, told FROM pictures").fetchall():
            place = random.Random(name).randrange(24, len(told))
            flipped = told[:place] + bytes([told[place] ^ 1]) + told[place + 1 :]
            connection.execute("UPDATE pictures SET told = ? WHERE name = ?", (flipped, name))
    with looked_at() as names:
        check(old, resolution=8)
    assert len(names) == 2 * PAIRS


@pytest.mark.parametrize("kind", ["a file in the folder's place", "a folder in the file's place", "no home"])
def test_without_a_cache_everything_is_looked_at(
    kind: str, old: Path, tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if kind == "a file in the folder's place":
        (tmp_path / "cache").write_text("")
    elif kind == "a folder in the file's place":
        cache.mkdir(parents=True)
    else:
        monkeypatch.delenv("XDG_CACHE_HOME")
        monkeypatch.setattr(Path, "home", no_home)
    for _ in range(2):
        with looked_at() as names:
            assert not check(old).errors
        assert len(names) == 2 * PAIRS


def no_home() -> Path:
    raise RuntimeError("Could not determine home directory.")


def test_a_cache_that_cannot_be_written_to_is_read(old: Path, tmp_path: Path, cache: Path) -> None:
    with small_disk(tmp_path / "cache", "size=2m") as disk:
        check(old)
        remount(disk, "ro")
        with looked_at() as names:
            assert not check(old, resolution=8).errors
            assert not check(old).errors
        assert names == []


def test_a_full_disk_under_the_cache_costs_time_only(old: Path, tmp_path: Path, cache: Path) -> None:
    with small_disk(tmp_path / "cache", "size=256k") as disk:
        (disk / "everstep").mkdir()
        ballast = fill(disk)
        for _ in range(2):
            with looked_at() as names:
                assert not check(old).errors
            assert len(names) == 2 * PAIRS
        ballast.unlink()
        check(old)
        with looked_at() as names:
            check(old)
        assert names == []


def test_progress_is_told_at_a_pace_a_person_can_read(old: Path, cache: Path) -> None:
    told: list[tuple[int, int]] = []
    for _ in range(2):
        told.clear()
        check(old, lambda done, total: told.append((done, total)))
        assert told[-1] == (2 * PAIRS, 2 * PAIRS)
        assert told == sorted(told)
        assert len(told) < 2 * PAIRS
