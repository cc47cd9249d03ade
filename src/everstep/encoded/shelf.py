"""A folder of shards whose records were all made by one recipe; found by key, added to, never changed.

Safe against kill (a shard is there whole, or not), several processes (each writes shards of its own) and a full disk.
Of records under one key the first that was written counts, for everybody.
"""

import contextlib
import fcntl
import json
import os
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import xxhash

from everstep.contracts import Int64Array, Report
from everstep.encoded.shard import UNFINISHED, Shard, read_shard, shards_in, write_shard
from everstep.errors import DamageFound
from everstep.versions import fsops

SHARD_BYTES = 64 << 20
FLUSH_PERIOD_S = 60.0  # what is made while training runs waits no longer for its file
DAMAGED = "damaged"
STALE_S = 24 * 3600.0  # an unfinished file of another host is nobody's after a day


@dataclass(frozen=True)
class MadeBy:
    """What records of a shelf were made by: all that decides them besides what their keys are of."""

    kind: str
    made_of: Mapping[str, Any]  # JSON

    @cached_property
    def digest(self) -> str:
        return xxhash.xxh3_64_hexdigest(json.dumps([self.kind, self.made_of], sort_keys=True).encode())

    @property
    def folder_name(self) -> str:
        return f"{self.kind}-{self.digest}"


def key_of(*parts: object) -> bytes:
    """The key of what a record is made from."""
    return xxhash.xxh3_128_digest(json.dumps(parts).encode())


class Shelf:
    """One recipe's records. Any threads may ask and add at once."""

    def __init__(self, root: Path, recipe: MadeBy, report: Report, shard_bytes: int = SHARD_BYTES) -> None:
        """Opens what is there; shards that are damaged are set aside and said. Raises: OSError."""
        self.recipe, self.folder, self._report, self._shard_bytes = (
            recipe,
            root / recipe.folder_name,
            report,
            shard_bytes,
        )
        self._lock = threading.Lock()  # all below
        self._fresh: dict[bytes, bytes] = {}
        self._fresh_bytes, self._flushed_at = 0, time.monotonic()
        self._shards: list[Shard] = []
        self._opened: set[str] = set()
        self.fault: DamageFound | OSError | None = None  # what was found last, for whoever misses a record
        self.folder.mkdir(parents=True, exist_ok=True)
        with contextlib.suppress(OSError):  # for people
            if not (self.folder / "recipe.json").exists():
                fsops.replace_unflushed(self.folder / "recipe.json", json.dumps(recipe.made_of, indent=2).encode())
        self.look_again()

    # --- reading -------------------------------------------------------------------------------------------

    def look_again(self) -> None:
        """Take in what others have added meanwhile."""
        with self._lock:
            for path in shards_in(self.folder):
                if path.name not in self._opened:
                    self._open(path)
            self._index()

    def missing(self, keys: Sequence[bytes]) -> list[int]:
        """Which of the keys, by place, have no record yet."""
        with self._lock:
            found = self._find(keys)
            return [place for place, at in enumerate(found) if at < 0 and keys[place] not in self._fresh]

    def get(self, key: bytes) -> bytes | None:
        """The record, verified; None where there is none. Raises: DamageFound, the shard set aside; OSError."""
        with self._lock:
            if (record := self._fresh.get(key)) is not None:
                return record
            at = self._at(key)
            if at < 0:
                return None
            shard, place = self._shards[int(self._shard_of[at])], int(self._place_of[at])
        try:
            return shard.read(place)
        except (DamageFound, OSError) as fault:
            self.fault = fault  # before the others miss it
            if isinstance(fault, DamageFound):
                self._set_aside(shard.path)
            elif isinstance(fault, FileNotFoundError):
                self._forget_gone()
            raise

    def root(self, keys: Sequence[bytes]) -> str | None:
        """A digest of these keys' records, in whatever shards they lie; None where one is missing."""
        with self._lock:
            found = self._find(keys)
            if any(at < 0 for at in found):
                return None
            rows = sorted({key + self._digest_at(int(at)) for key, at in zip(keys, found, strict=True)})
        return f"xxh3-128:{xxhash.xxh3_128_hexdigest(b''.join(rows))}"

    @property
    def size_bytes(self) -> int:
        """Of all shards that are open."""
        with self._lock:
            return sum(int(shard.ends[-1]) for shard in self._shards if len(shard.ends))

    # --- adding --------------------------------------------------------------------------------------------

    def add(self, key: bytes, record: bytes) -> None:
        """Keep a record; durable once its shard is full, a minute old, or flushed. Raises: OSError."""
        with self._lock:
            if key not in self._fresh:
                self._fresh[key] = record
                self._fresh_bytes += len(record)
            is_due = time.monotonic() - self._flushed_at >= FLUSH_PERIOD_S or self._fresh_bytes >= self._shard_bytes
            if is_due:
                self._flush()

    def let_go(self) -> None:
        """Forget what waits for a disk that does not take it."""
        with self._lock:
            self._fresh, self._fresh_bytes = {}, 0

    def flush(self) -> None:
        """Make all that was added durable. Raises: OSError; it stays in memory then."""
        with self._lock:
            self._flush()

    @contextmanager
    def alone(self, waiting: Report) -> Iterator[None]:
        """One at a time fills a shelf ahead; others wait, and find it full. Where nothing can be locked, all go on."""
        descriptor = os.open(self.folder / ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                waiting(f"Another program fills the cache in {self.folder}: waiting for it.")
                fcntl.flock(descriptor, fcntl.LOCK_EX)
            except OSError:
                pass  # no locks here: both do the work, and the first one's counts
            self._tidy()
            self.look_again()
            yield
        finally:
            os.close(descriptor)

    # --- inside, under the lock ----------------------------------------------------------------------------

    def _flush(self) -> None:
        self._flushed_at = time.monotonic()
        if not self._fresh:
            return
        numbers = [int(path.name.partition("-")[0]) for path in shards_in(self.folder)]
        self._open(write_shard(self.folder, max(numbers, default=-1) + 1, list(self._fresh.items())))
        self._fresh, self._fresh_bytes = {}, 0
        self._index()

    def _open(self, path: Path) -> None:
        try:
            self._shards.append(read_shard(path))
            self._opened.add(path.name)
        except DamageFound as fault:
            self._report(f"{fault}. It is set aside; what was in it is made again.")
            self._move_aside(path)
        except FileNotFoundError:
            pass  # taken away at this moment

    def _index(self) -> None:
        """Sorted by the first half of the key, and of one key the first shard's first."""
        self._shards.sort(key=lambda shard: shard.path.name)
        keys = [shard.keys for shard in self._shards]
        halves = np.concatenate([half.view("<u8").reshape(-1, 2) for half in keys] or [np.empty((0, 2), "<u8")])
        order = np.lexsort((np.arange(len(halves)), halves[:, 1], halves[:, 0]))
        self._first, self._second = halves[order, 0], halves[order, 1]
        counts = [len(shard.ends) for shard in self._shards]
        self._shard_of = np.repeat(np.arange(len(counts)), counts)[order]
        starts = np.cumsum([0, *counts[:-1]]) if counts else np.zeros(0, np.int64)
        self._place_of = order - starts[self._shard_of] if len(order) else order

    def _find(self, keys: Sequence[bytes]) -> Int64Array:
        """Where each lies in the index, -1 where it does not."""
        wanted = np.frombuffer(b"".join(keys), "<u8").reshape(-1, 2)
        if not len(self._first) or not len(wanted):
            return np.full(len(wanted), -1, np.int64)
        at = np.searchsorted(self._first, wanted[:, 0])
        inside = np.minimum(at, len(self._first) - 1)
        is_there = (self._first[inside] == wanted[:, 0]) & (self._second[inside] == wanted[:, 1])
        return np.where(is_there, inside, -1)

    def _at(self, key: bytes) -> int:
        """`_find` of one, which every example of a training asks three times."""
        first, second = np.frombuffer(key, "<u8")
        at = int(self._first.searchsorted(first))
        is_there = at < len(self._first) and self._first[at] == first and self._second[at] == second
        return at if is_there else -1

    def _digest_at(self, at: int) -> bytes:
        shard = self._shards[int(self._shard_of[at])]
        return bytes(shard.digests[int(self._place_of[at])].tobytes())

    # --- what is damaged, or left ----------------------------------------------------------------------------

    def _set_aside(self, path: Path) -> None:
        with self._lock:
            self._move_aside(path)
            self._shards = [shard for shard in self._shards if shard.path != path]
            self._index()

    def _move_aside(self, path: Path) -> None:
        with contextlib.suppress(OSError):
            (self.folder / DAMAGED).mkdir(exist_ok=True)
            fsops.rename(path, self.folder / DAMAGED / path.name)

    def _forget_gone(self) -> None:
        with self._lock:
            self._shards = [shard for shard in self._shards if shard.path.exists()]
            self._index()

    def _tidy(self) -> None:
        """Remove what killed writers left unfinished."""
        for path in self.folder.glob(f".*{UNFINISHED}"):
            with contextlib.suppress(OSError, ValueError):
                pid = int(path.name.rsplit(".", 2)[-2])
                if not os.path.exists(f"/proc/{pid}") or time.time() - path.stat().st_mtime > STALE_S:
                    path.unlink()
