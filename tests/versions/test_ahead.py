"""A file is read whole and in order, past the page cache, or not past it where the file system will not have that."""

import ctypes
import errno
import mmap
import os
import random
from collections.abc import Callable
from pathlib import Path

import pytest
from drafts import OPTIMIZER

from everstep.errors import DamageFound
from everstep.versions import Run, ahead, verify
from everstep.versions.ahead import Ahead
from everstep.versions.loading import load_into
from everstep.versions.tensorfile import TensorPlace

PIECE_BYTES = 1 << 14
SIZES = (0, 1, 4095, 4096, 4097, PIECE_BYTES, PIECE_BYTES + 1, 9 * PIECE_BYTES + 1000)


@pytest.fixture(autouse=True)
def _small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ahead, "PIECE_BYTES", PIECE_BYTES)


def write(path: Path, size: int) -> bytes:
    content = random.Random(size).randbytes(size)
    path.write_bytes(content)
    return content


def read_all(path: Path, size: int) -> bytes:
    """In takes of many sizes."""
    draws, found = random.Random(7), b""
    with Ahead(path) as pieces:
        while len(found) < size:
            most = draws.choice((1, 100, 4096, PIECE_BYTES, 1 << 20))
            piece = pieces.take(most)
            assert 0 < len(piece) <= most
            found += bytes(piece)
        with pytest.raises(DamageFound, match="is cut short"):
            pieces.take(1)
    return found


class Refusing:
    """preadv that refuses to read past the page cache, at once or after so many reads."""

    def __init__(self, number: int, after: int = 0, short: int | None = None) -> None:
        self.number, self.after, self.short, self.refused, self.count = number, after, short, 0, 0
        self._real = os.preadv

    def __call__(self, descriptor: int, buffers: list[memoryview], place: int) -> int:
        self.count += 1
        is_direct = os.get_blocking(descriptor) and bool(ahead.fcntl.fcntl(descriptor, 3) & ahead.DIRECT)
        if is_direct and self.count > self.after:
            self.refused += 1
            raise OSError(self.number, os.strerror(self.number))
        return self._real(descriptor, [buffers[0][: self.short]], place)


@pytest.mark.parametrize("size", SIZES)
def test_any_file_is_read_whole(tmp_path: Path, size: int) -> None:
    content = write(tmp_path / "file", size)
    assert read_all(tmp_path / "file", size) == content


@pytest.mark.parametrize("number", [errno.EINVAL, errno.ENOTSUP])
@pytest.mark.parametrize("after", [0, 1, 5])
def test_a_refusal_to_read_past_the_cache_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, after: int
) -> None:
    content = write(tmp_path / "file", SIZES[-1])
    refusing = Refusing(number, after)
    monkeypatch.setattr(ahead.os, "preadv", refusing)
    assert read_all(tmp_path / "file", SIZES[-1]) == content
    assert 0 < refusing.refused <= ahead.READERS


def test_short_reads_are_continued(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content = write(tmp_path / "file", 3 * PIECE_BYTES)
    monkeypatch.setattr(ahead.os, "preadv", Refusing(errno.EINVAL, short=700))
    assert read_all(tmp_path / "file", len(content)) == content


def test_a_file_system_that_refuses_the_flag_at_open_is_read_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    content, real = write(tmp_path / "file", 3 * PIECE_BYTES), os.open

    def refuse(path: str, flags: int, *rest: int) -> int:
        if flags & ahead.DIRECT:
            raise OSError(errno.EINVAL, "Invalid argument")
        return real(path, flags, *rest)

    monkeypatch.setattr(ahead.os, "open", refuse)
    assert read_all(tmp_path / "file", len(content)) == content


@pytest.mark.parametrize("number", [errno.EIO, errno.EINVAL])
def test_an_error_that_stays_is_raised(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    write(tmp_path / "file", 9 * PIECE_BYTES)

    def fail(*_: object) -> int:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(ahead.os, "preadv", fail)
    with pytest.raises(OSError, match=os.strerror(number)), Ahead(tmp_path / "file") as pieces:
        pieces.take(1)


def test_a_file_that_shrinks_while_it_is_read_is_cut_short(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ahead, "BUFFERS", 1)
    content = write(tmp_path / "file", 9 * PIECE_BYTES)
    with Ahead(tmp_path / "file") as pieces:
        assert bytes(pieces.take(PIECE_BYTES)) == content[:PIECE_BYTES]
        os.truncate(tmp_path / "file", 2 * PIECE_BYTES)
        with pytest.raises(DamageFound, match="is cut short"):
            list(pieces.pieces(8 * PIECE_BYTES))


def in_cache(path: Path) -> int:
    """Pages of a file that lie in the page cache."""
    libc, size = ctypes.CDLL(None, use_errno=True), path.stat().st_size
    found = (ctypes.c_ubyte * -(-size // mmap.PAGESIZE))()
    libc.mmap.restype = ctypes.c_void_p
    with path.open("rb") as file:
        mapped = ctypes.c_void_p(
            libc.mmap(None, ctypes.c_size_t(size), mmap.PROT_READ, mmap.MAP_SHARED, file.fileno(), ctypes.c_long(0))
        )
        assert libc.mincore(mapped, ctypes.c_size_t(size), found) == 0
        libc.munmap(mapped, ctypes.c_size_t(size))
    return sum(page & 1 for page in found)


def load(run: Run) -> None:
    version = run.version(2)

    def target(_: str, place: TensorPlace) -> memoryview:
        return memoryview(bytearray(place.end - place.begin))

    assert len(list(load_into(version.path, OPTIMIZER, version.files, target))) == 3


@pytest.mark.parametrize("act", [lambda run: verify(run.version(2)), load], ids=["verify", "load"])
@pytest.mark.parametrize("is_offered", [True, False], ids=["direct", "not offered"])
def test_reading_a_version_leaves_the_page_cache_to_others(
    run: Run, monkeypatch: pytest.MonkeyPatch, act: Callable[[Run], object], is_offered: bool
) -> None:
    if not is_offered:
        monkeypatch.setattr(ahead, "DIRECT", 0)
    path = run.version(2).path / OPTIMIZER
    with path.open("rb") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    if in_cache(path):
        pytest.skip("this file system keeps all files in memory")
    act(run)
    assert in_cache(path) == 0
