"""What pictures and lists were found to be, remembered in the user's cache, so that only the first look takes long.

Anything that goes wrong with the cache costs time only: it may be missing, full, read-only, torn, or written by others.
A failure is never remembered, and a file that was written a moment ago is not yet: one more write within the same tick
of its disk's clock would leave no trace in its times.
"""

import contextlib
import os
import sqlite3
import struct
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from importlib.metadata import version as installed
from pathlib import Path
from typing import Any

import xxhash

from everstep import __version__
from everstep.places import cache_folder
from everstep.stamps import STAMP

FILE = "images-2.sqlite"  # the number is the format's; a file of another is left as it is
FRESH_NS = 2_000_000_000  # the coarsest clock in use, FAT's, ticks every two seconds
WRITE_PERIOD_S = 1.0  # what a kill may take back
PATIENCE_S = 2.0  # for others that are writing; what could not be written waits for the next time ...
MOST_WAITS = 3  # ... and whoever holds it for longer has it alone
AT_ONCE = 500  # names asked for in one statement

# What the library may raise; it reads the names of what is torn as text.
TORN = (sqlite3.Error, ValueError, OverflowError, MemoryError)
BUSY = (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)
UNWRITABLE = (sqlite3.SQLITE_READONLY, sqlite3.SQLITE_FULL, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_IOERR)

_FACTS = struct.Struct("<16sIId")
_CHECK_BYTES = 8
TABLES = """
CREATE TABLE IF NOT EXISTS pictures (folder INTEGER, name BLOB, told BLOB, PRIMARY KEY (folder, name)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS lists (place BLOB PRIMARY KEY, told BLOB) WITHOUT ROWID;
"""


@dataclass(frozen=True, slots=True)
class ImageFacts:
    """What decoding one file told: fault is empty where it is an image that can be used."""

    digest: str
    width: int
    height: int
    spread: float
    fault: str
    look: bytes = b""  # see `looks`


def is_fresh(stamp: bytes, now_ns: int) -> bool:
    """Whether a file was written so shortly before that another write may leave the same stamp."""
    written: int
    changed: int
    _, written, changed = STAMP.unpack(stamp)
    return abs(now_ns - written) < FRESH_NS or abs(now_ns - changed) < FRESH_NS


@cache
def program() -> str:
    """What reads and judges: of another version, another Pillow, or other lines nothing is taken over."""
    code = b"".join(path.read_bytes() for path in sorted(Path(__file__).parent.rglob("*.py")))
    return f"{__version__} {installed('pillow')} {xxhash.xxh3_128_hexdigest(code)}"


class Memory:
    """The cache, opened. Used by one thread; any number of processes at once."""

    def __init__(self) -> None:
        self._connection: sqlite3.Connection | None = None
        self._is_writable, self._waits = True, 0
        self._places: dict[str, tuple[int, bytes]] = {}
        self._waiting: list[tuple[int, bytes, bytes]] = []
        self._written_at = time.monotonic()
        self._open()

    def __enter__(self) -> "Memory":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def recall(self, stamps: Mapping[str, bytes | None]) -> dict[str, ImageFacts]:
        """What is known of those files, by their paths, whose stamps are what they were."""
        wanted: dict[int, dict[bytes, str]] = {}
        for path, stamp in stamps.items():
            if stamp is not None and (key := self._key(path)) is not None:
                wanted.setdefault(key[0], {})[key[1]] = path
        found = {}
        for folder, paths in wanted.items():
            for name, told in self._told(folder, list(paths)):
                path = paths.get(name, "")
                if not path or not isinstance(told, bytes):
                    continue  # torn
                if told[: STAMP.size] == stamps[path] and (facts := _read(name, told)) is not None:
                    found[path] = facts
        return found

    def remember(self, path: str, stamp: bytes | None, facts: ImageFacts) -> None:
        """Keep what was found, unless it is a failure; on disk within about a second of the next that is kept."""
        if stamp is None or facts.fault or not self._may_write() or (key := self._key(path)) is None:
            return
        self._waiting.append((*key, _told(key[1], stamp, facts)))
        if time.monotonic() - self._written_at >= WRITE_PERIOD_S:
            self._write()

    def recall_list(self, place: str, stamp: bytes) -> bytes | None:
        """What was kept of a whole list, if its stamp is what it was."""
        try:
            rows = self._ask("SELECT told FROM lists WHERE place = ?", (os.fsencode(place),))
        except UnicodeError:
            return None
        told = rows[0][0] if rows and isinstance(rows[0][0], bytes) else b""
        digest = xxhash.xxh3_128_digest(told[32:])
        return told[32:] if told[:16] == stamp and told[16:32] == digest else None

    def remember_list(self, place: str, stamp: bytes, told: bytes) -> None:
        """Keep what was found of a whole list; of each place only the newest is kept."""
        with contextlib.suppress(UnicodeError):
            row = (os.fsencode(place), stamp + xxhash.xxh3_128_digest(told) + told)
            self._put("INSERT OR REPLACE INTO lists VALUES (?, ?)", [row])

    def close(self) -> None:
        """Write what waits, and let go of the file."""
        if self._waiting:
            self._write()
        connection, self._connection = self._connection, None
        if connection is not None:
            with contextlib.suppress(*TORN):
                connection.close()

    # --- the file ------------------------------------------------------------------------------------------

    def _open(self, is_again: bool = False) -> None:
        try:
            ours = cache_folder()
            if ours is None:
                return
            self._file = ours / "everstep" / FILE
            with contextlib.suppress(OSError):  # of another user, perhaps, where it can still be read
                self._file.parent.mkdir(parents=True, exist_ok=True)
            # Without transactions of the library's own: ours begin as writers, so that none fails half way.
            self._connection = sqlite3.connect(self._file, timeout=PATIENCE_S, isolation_level=None)
            self._connection.execute("PRAGMA synchronous = OFF")  # every row tells whether it is whole
            self._connection.executescript(TABLES)
        except TORN as error:
            self._failed(error, is_again)
        except OSError:
            self._connection = None

    def _failed(self, error: Exception, is_again: bool) -> None:
        """One that cannot be written to can perhaps be read. Any other is torn, and begun anew, once."""
        code: int = getattr(error, "sqlite_errorcode", 0) & 0xFF  # without what says more of it
        if code in UNWRITABLE:
            self._is_writable = False
            return
        if code in BUSY:
            self._waits += 1
            if self._waits < MOST_WAITS:
                return
        connection, self._connection = self._connection, None
        if connection is not None:
            with contextlib.suppress(*TORN):
                connection.close()
        if code in BUSY:
            return
        with contextlib.suppress(OSError):
            self._file.unlink()
            self._file.with_name(f"{FILE}-journal").unlink(missing_ok=True)
            if not is_again:
                self._open(is_again=True)

    def _told(self, folder: int, names: list[bytes]) -> Iterator[tuple[Any, Any]]:
        names.sort()  # as they lie in the file
        for start in range(0, len(names), AT_ONCE):
            some = names[start : start + AT_ONCE]
            marks = ",".join("?" * len(some))
            yield from self._ask(
                f"SELECT name, told FROM pictures WHERE folder = ? AND name IN ({marks})", (folder, *some)
            )

    def _ask(self, question: str, values: tuple[object, ...]) -> list[tuple[Any, Any]]:
        if self._connection is None:
            return []
        try:
            return self._connection.execute(question, values).fetchall()
        except TORN as error:
            self._failed(error, is_again=False)
            return []

    def _may_write(self) -> bool:
        return self._connection is not None and self._is_writable

    def _write(self) -> None:
        if self._put("INSERT OR REPLACE INTO pictures VALUES (?, ?, ?)", self._waiting) or not self._is_writable:
            self._waiting = []
        self._written_at = time.monotonic()

    def _put(self, statement: str, rows: Iterable[tuple[object, ...]]) -> bool:
        if self._connection is None or not self._is_writable:
            return False
        try:
            self._connection.execute("BEGIN IMMEDIATE")
            self._connection.executemany(statement, rows)
            self._connection.execute("COMMIT")
        except TORN as error:
            with contextlib.suppress(*TORN):
                self._connection.execute("ROLLBACK")
            self._failed(error, is_again=False)
            return False
        return True

    def _key(self, path: str) -> tuple[int, bytes] | None:
        """The real folder, as a number, and the name in it: the same however somebody came there."""
        parent, slash, name = path.rpartition("/")
        try:
            if parent not in self._places:
                real = os.fsencode(os.path.realpath(parent + slash or "."))
                self._places[parent] = (xxhash.xxh3_64_intdigest(real) - (1 << 63), real)
            return self._places[parent][0], os.fsencode(name)
        except (OSError, ValueError):
            return None


def _told(name: bytes, stamp: bytes, facts: ImageFacts) -> bytes:
    """One row: stamp, facts, and a digest of both and of the name, since nothing else vouches for the file."""
    known = stamp + _FACTS.pack(bytes.fromhex(facts.digest), facts.width, facts.height, facts.spread) + facts.look
    return known + xxhash.xxh3_64_digest(name + known)


def _read(name: bytes, told: bytes) -> ImageFacts | None:
    known = told[:-_CHECK_BYTES]
    if len(known) < STAMP.size + _FACTS.size or told[-_CHECK_BYTES:] != xxhash.xxh3_64_digest(name + known):
        return None
    digest, width, height, spread = _FACTS.unpack_from(known, STAMP.size)
    return ImageFacts(digest.hex(), width, height, spread, "", known[STAMP.size + _FACTS.size :])
