"""Everything that is wrong with a folder of pairs, in one pass, before anything is trained on it.

Every image is decoded: a truncated one is found now and not at hour five. What a file's content led to is remembered
in the user's cache by its size and time, so that only the first start takes long.
"""

import json
import os
import sqlite3
import time
from collections import defaultdict
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import xxhash

from everstep.data.folder import Finding, Listed, Listing, read_listing
from everstep.data.images import BLACK, decode_content, what_else
from everstep.data.plain_files import read_plain

RETRY_PAUSES_S = (0.1, 0.4)
FINAL_FAULTS = ("is missing", "is a folder, not a file")  # which no second look changes
FLAT_SPREAD = 2.0  # standard deviation, of 255, below which a condition says nothing
Progress = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class ImageFacts:
    """What decoding one file told: fault is empty where it is an image that can be used."""

    digest: str
    width: int
    height: int
    spread: float
    fault: str


@dataclass(frozen=True, slots=True)
class CheckReport:
    """The usable pairs, everything that was found, and what identifies the data."""

    listing: Listing
    usable: tuple[Listed, ...]
    findings: tuple[Finding, ...]
    fingerprint: str
    sizes: tuple[tuple[int, int], ...]

    @property
    def errors(self) -> tuple[Finding, ...]:
        return tuple(finding for finding in self.findings if finding.severity == "error")

    @property
    def total(self) -> int:
        """Pairs listed, usable or not."""
        return len(self.usable) + len({finding.line for finding in self.errors})


def check(folder: Path, progress: Progress | None = None, resolution: int | None = None) -> CheckReport:
    """Read the list, decode every image, and find what is wrong. Raises: UserError if there is no list."""
    listing = read_listing(folder)
    facts = examine(
        folder, sorted({path for pair in listing.pairs for path in (pair.target, pair.condition)}), progress
    )
    findings = list(listing.findings)
    usable = []
    for pair in listing.pairs:
        found = list(_pair_findings(pair, facts, resolution))
        findings += found
        if not any(finding.severity == "error" for finding in found):
            usable.append(pair)
    findings += _repeated(usable, facts)
    sizes = tuple((facts[pair.target].width, facts[pair.target].height) for pair in usable)
    ordered = tuple(sorted(findings, key=lambda finding: (finding.line, finding.file)))
    return CheckReport(listing, tuple(usable), ordered, _fingerprint(usable, facts), sizes)


def _pair_findings(pair: Listed, facts: dict[str, ImageFacts], resolution: int | None) -> Iterable[Finding]:
    target, condition = facts[pair.target], facts[pair.condition]
    for path, image in ((pair.target, target), (pair.condition, condition)):
        if image.fault:
            yield Finding(pair.line, path, image.fault)
    if target.fault or condition.fault:
        return
    if (target.width, target.height) != (condition.width, condition.height):
        theirs = f"{condition.width}x{condition.height}"
        what = f"is {target.width}x{target.height}, but its condition {pair.condition} is {theirs}"
        yield Finding(pair.line, pair.target, what)
    if not pair.caption.strip():
        yield Finding(pair.line, pair.target, "has an empty caption", "warning", "empty")
    if target.digest == condition.digest:
        yield Finding(pair.line, pair.target, "is the same file as its condition", "warning", "same_file")
    if condition.spread < FLAT_SPREAD:
        what = "is nearly one colour: a condition that says nothing"
        yield Finding(pair.line, pair.condition, what, "warning", "flat")
    if resolution is not None and min(target.width, target.height) < resolution:
        what = f"is {target.width}x{target.height}, smaller than the {resolution} px that are trained on"
        yield Finding(pair.line, pair.target, what, "warning", "small")


def _repeated(usable: Iterable[Listed], facts: dict[str, ImageFacts]) -> list[Finding]:
    by_content: dict[tuple[str, str], list[Listed]] = defaultdict(list)
    for pair in usable:
        by_content[facts[pair.target].digest, facts[pair.condition].digest].append(pair)
    return [
        Finding(pair.line, pair.target, f"is the same pair as line {same[0].line}", "warning", "repeated")
        for same in by_content.values()
        for pair in same[1:]
    ]


def _fingerprint(usable: Iterable[Listed], facts: dict[str, ImageFacts]) -> str:
    total = xxhash.xxh3_128()
    for pair in usable:
        parts = (
            pair.target,
            facts[pair.target].digest,
            pair.condition,
            facts[pair.condition].digest,
            pair.caption,
        )
        total.update(json.dumps(parts).encode())
    return f"xxh3-128:{total.hexdigest()}"


# --- one file, and what is remembered of it ----------------------------------------------------------------


def examine(folder: Path, paths: list[str], progress: Progress | None = None) -> dict[str, ImageFacts]:
    """Facts of all files, decoding those that are new or changed, on all cores."""
    memory = _Memory()
    keys = {path: _key(folder / path) for path in paths}
    facts = {path: known for path in paths if (known := memory.get(keys[path])) is not None}
    new = [path for path in paths if path not in facts]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        examined = pool.map(lambda path: _examine_one(folder / path), new)
        for done, (path, found) in enumerate(zip(new, examined, strict=True), start=len(facts) + 1):
            facts[path] = found
            memory.put(keys[path], found)
            if progress is not None:
                progress(done, len(paths))
    memory.close()
    return facts


def _examine_one(path: Path) -> ImageFacts:
    """What fails is tried again: a disk may stutter, a file may just be written."""
    found = _looked_at(path)
    for pause_s in RETRY_PAUSES_S:
        if not found.fault or found.fault in FINAL_FAULTS:
            return found
        time.sleep(pause_s)
        before, found = found, _looked_at(path)
        if found.digest and found.digest == before.digest:  # the same content decodes no better the next time
            return found
    return found


def _looked_at(path: Path) -> ImageFacts:
    try:
        content = read_plain(path)
    except FileNotFoundError:
        return ImageFacts("", 0, 0, 0.0, "is missing")
    except OSError as error:
        return ImageFacts("", 0, 0, 0.0, f"cannot be read ({error.strerror})")
    except ValueError as error:  # no plain file
        return ImageFacts("", 0, 0, 0.0, str(error))
    digest = xxhash.xxh3_128_hexdigest(content)
    try:
        image = decode_content(content, BLACK)
    except Exception as error:  # Pillow's decoders raise whatever their format's library does
        why = f"is no image that can be read ({' '.join(str(error).split()) or type(error).__name__})"
        return ImageFacts(digest, 0, 0, 0.0, what_else(content) or why)
    spread = float(np.asarray(image.reduce(max(1, min(image.size) // 64))).std())
    return ImageFacts(digest, image.width, image.height, spread, "")


def _key(path: Path) -> str | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return f"{path.resolve()}|{found.st_size}|{found.st_mtime_ns}"


class _Memory:
    """Facts by path, size and time in the user's cache; anything that goes wrong with it costs time only."""

    def __init__(self) -> None:
        folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "everstep"
        self._connection: sqlite3.Connection | None = None
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._connection = sqlite3.connect(folder / "images-1.sqlite", timeout=10)
            self._connection.execute("CREATE TABLE IF NOT EXISTS facts (key TEXT PRIMARY KEY, value TEXT)")
        except (OSError, sqlite3.Error):
            self.close()

    def get(self, key: str | None) -> ImageFacts | None:
        if self._connection is None or key is None:
            return None
        try:
            row = self._connection.execute("SELECT value FROM facts WHERE key = ?", (key,)).fetchone()
            return ImageFacts(**json.loads(row[0])) if row else None
        except (sqlite3.Error, ValueError, TypeError):
            return None

    def put(self, key: str | None, facts: ImageFacts) -> None:
        if self._connection is None or key is None:
            return
        try:
            self._connection.execute("INSERT OR REPLACE INTO facts VALUES (?, ?)", (key, json.dumps(asdict(facts))))
        except sqlite3.Error:
            self.close()

    def close(self) -> None:
        if self._connection is not None:
            try:
                self._connection.commit()
            except sqlite3.Error:
                pass
            finally:
                self._connection.close()
                self._connection = None
