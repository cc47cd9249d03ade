"""Records under keys, in files that are whole or not there: found again, verified, made once by several at a time."""

import multiprocessing
import os
import signal
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as some

from everstep.encoded.records import pack, pack_picture, unpack, unpack_picture
from everstep.encoded.shard import read_shard, shards_in, write_shard
from everstep.encoded.shelf import DAMAGED, MadeBy, Shelf, key_of
from everstep.errors import DamageFound

RECIPE = MadeBy("latents", {"files": {"vae/model": "xxh3-128:00"}, "side": 64})


def shelf_in(folder: Path, said: list[str] | None = None, shard_bytes: int = 1000) -> Shelf:
    return Shelf(folder, RECIPE, (said if said is not None else []).append, shard_bytes)


def record(number: int) -> bytes:
    return np.random.Generator(np.random.Philox(key=number)).bytes(100)


def filled(folder: Path, numbers: range) -> Shelf:
    shelf = shelf_in(folder)
    for number in numbers:
        shelf.add(key_of(number), record(number))
    shelf.flush()
    return shelf


def test_what_was_added_is_found_by_the_next(tmp_path: Path) -> None:
    filled(tmp_path, range(95))
    again = shelf_in(tmp_path)
    assert len(list(shards_in(again.folder))) == 10
    assert [again.get(key_of(number)) for number in range(95)] == [record(number) for number in range(95)]
    assert again.get(key_of("another")) is None
    assert again.missing([key_of(number) for number in range(97)]) == [95, 96]


def test_the_root_depends_on_what_is_there_and_not_on_how_it_came_there(tmp_path: Path) -> None:
    keys = [key_of(number) for number in range(30)]
    straight = filled(tmp_path / "a", range(30))
    backwards = filled(tmp_path / "b", range(20, 30))
    for number in range(19):
        backwards.add(key_of(number), record(number))
    assert backwards.root(keys) is None
    backwards.add(key_of(19), record(19))
    backwards.flush()
    assert straight.root(keys) == backwards.root(list(reversed(keys))) is not None
    assert straight.root([*keys, key_of(30)]) is None
    other = filled(tmp_path / "c", range(29))
    other.add(keys[29], b"made elsewhere")
    other.flush()
    assert other.root(keys) not in (None, straight.root(keys))


def test_of_two_that_were_made_the_first_counts_for_everybody(tmp_path: Path) -> None:
    one, two = shelf_in(tmp_path), shelf_in(tmp_path)
    one.add(key_of(1), b"first")
    one.flush()
    two.add(key_of(1), b"second")
    two.flush()
    two.look_again()
    assert one.get(key_of(1)) == two.get(key_of(1)) == shelf_in(tmp_path).get(key_of(1)) == b"first"


@pytest.mark.parametrize("place", ["header", "table", "record", "end"])
def test_what_rots_is_named_set_aside_and_no_longer_there(tmp_path: Path, place: str) -> None:
    filled(tmp_path, range(30))
    path = next(shards_in(tmp_path / RECIPE.folder_name))
    content = bytearray(path.read_bytes())
    shard = read_shard(path)
    at = {"header": 20, "table": int(shard.begins[0]) - 60, "record": int(shard.begins[3]) + 5, "end": 0}[place]
    content[at] ^= 1
    path.write_bytes(content[:-7] if place == "end" else content)
    said: list[str] = []
    again = shelf_in(tmp_path, said)
    if place == "record":
        assert not said
        with pytest.raises(DamageFound, match=path.name):
            again.get(key_of(3))
        assert again.get(key_of(4)) is None
        assert path.name in str(again.fault)  # who misses a record can say why
    else:
        assert path.name in said[0]
        assert "made again" in said[0]
    assert (again.folder / DAMAGED / path.name).exists()
    assert again.missing([key_of(number) for number in range(30)]) == list(range(10))
    assert filled(tmp_path, range(30)).missing([key_of(number) for number in range(30)]) == []


def test_a_shard_that_vanishes_is_missed_at_the_next_look(tmp_path: Path) -> None:
    shelf = filled(tmp_path, range(30))
    path = next(shards_in(shelf.folder))
    path.unlink()
    with pytest.raises(FileNotFoundError, match=path.name):
        shelf.get(key_of(3))
    assert shelf.missing([key_of(number) for number in range(30)]) == list(range(10))


def _fill_for_ever(folder: Path) -> None:
    shelf = shelf_in(folder)
    number = 0
    while True:
        shelf.add(key_of(number), record(number))
        number += 1


@pytest.mark.fault("SIGKILL while a cache is written, at 10 moments")
def test_a_kill_leaves_whole_shards(tmp_path: Path) -> None:
    (tmp_path / RECIPE.folder_name).mkdir()
    for moment in range(10):
        writer = multiprocessing.get_context("fork").Process(target=_fill_for_ever, args=(tmp_path,))
        writer.start()
        while moment and not any(shards_in(tmp_path / RECIPE.folder_name)):
            time.sleep(0.001)
        time.sleep(0.02 + 0.01 * moment)
        assert writer.pid is not None
        os.kill(writer.pid, signal.SIGKILL)
        writer.join()
        said: list[str] = []
        shelf = shelf_in(tmp_path, said)
        assert not said
        with shelf.alone(said.append):
            pass
        assert not list(shelf.folder.glob(".*.new"))
        known = [number for number in range(5000) if shelf.get(key_of(number)) is not None]
        assert [shelf.get(key_of(number)) for number in known] == [record(number) for number in known]
        if moment:
            assert known


def _fill_alone(folder: Path, made: "multiprocessing.Queue[int]") -> None:
    shelf = shelf_in(folder)
    with shelf.alone(lambda text: None):
        keys = [key_of(number) for number in range(50)]
        missing = shelf.missing(keys)
        for place in missing:
            shelf.add(keys[place], record(place))
            time.sleep(0.002)
        shelf.flush()
    made.put(len(missing))


def test_of_two_that_fill_at_once_one_waits_and_finds_everything(tmp_path: Path) -> None:
    (tmp_path / RECIPE.folder_name).mkdir()
    processes = multiprocessing.get_context("fork")
    made: multiprocessing.Queue[int] = processes.Queue()
    both = [processes.Process(target=_fill_alone, args=(tmp_path, made)) for _ in range(2)]
    for process in both:
        process.start()
    assert sorted([made.get(timeout=30), made.get(timeout=30)]) == [0, 50]
    for process in both:
        process.join()


def test_a_full_disk_leaves_what_was_written_and_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shelf = filled(tmp_path, range(30))

    def refuse(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("everstep.versions.fsops.write_all", refuse)
    with pytest.raises(OSError, match="No space left"):
        write_shard(shelf.folder, 99, [(key_of(99), b"more")])
    assert len(list(shards_in(shelf.folder))) == 3
    assert not list(shelf.folder.glob(".*.new"))


@given(some.integers(0, 2**32 - 1), some.sampled_from(["F32", "F16", "BF16"]))
def test_numbers_come_back_as_they_were(seed: int, dtype: str) -> None:
    drawn = np.random.default_rng(seed).standard_normal((3, 5, 2)).astype(np.float32)
    kept = {
        "F32": drawn,
        "F16": drawn.astype(np.float16),
        "BF16": (drawn.view(np.uint32) >> 16).astype(np.uint16),
    }[dtype]
    found = unpack(pack({"frame": ("I64", np.arange(6)), "mean": (dtype, kept)}))
    assert found["frame"].tolist() == list(range(6))
    assert found["mean"].dtype == np.float32
    if dtype == "BF16":
        np.testing.assert_array_equal(found["mean"].view(np.uint32) >> 16, kept)
        np.testing.assert_allclose(found["mean"], drawn, rtol=1 / 128)
    else:
        np.testing.assert_array_equal(found["mean"], kept.astype(np.float32))


@pytest.mark.parametrize("is_grey", [True, False])
def test_pictures_come_back_as_they_were(is_grey: bool) -> None:
    picture = np.random.default_rng(0).integers(0, 256, (12, 20, 3), dtype=np.uint8)
    if is_grey:
        picture = picture[..., :1].repeat(3, axis=2)
    packed = pack_picture(picture)
    np.testing.assert_array_equal(unpack_picture(packed), picture)
    lines = np.zeros((512, 512, 3), np.uint8)
    lines[100, 50:400] = 255
    assert len(pack_picture(lines)) < 3000
