"""Everything that is wrong with a folder of pairs, in one pass, before anything is trained on it.

Every image is decoded: a truncated one is found now and not at hour five. What a file's content led to is kept as it
comes, so that an interrupted check goes on where it was, and a list that is as it was is only looked over.
"""

import itertools
import json
import os
import time
import zlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import astuple, dataclass, replace
from functools import cache
from importlib.metadata import version as installed
from json.encoder import encode_basestring_ascii as quoted
from pathlib import Path

import numpy as np
import xxhash

from everstep import __version__
from everstep.contracts import Int64Array
from everstep.data.images import BLACK, decode_content, what_else
from everstep.data.layouts.folder import Finding, Listed, Listing, read_listing
from everstep.data.looks import look_of
from everstep.data.remembered import ImageFacts, Memory, is_fresh, stamp_of
from everstep.plain_files import read_plain

RETRY_PAUSES_S = (0.1, 0.4)
FINAL_FAULTS = ("is missing", "is a folder, not a file")  # which no second look changes
FLAT_SPREAD = 2.0  # standard deviation, of 255, below which a condition says nothing
TELL_PERIOD_S = 0.1
BATCH = 2000  # files asked of the memory at once
Progress = Callable[[int, int], None]  # files looked at, of all; no more than about ten times a second
Stamps = dict[str, bytes | None]


@dataclass(frozen=True, slots=True)
class CheckReport:
    """The usable pairs, everything that was found, and what identifies the data."""

    listing: Listing
    usable: tuple[Listed, ...]
    findings: tuple[Finding, ...]
    fingerprint: str
    sizes: tuple[tuple[int, int], ...]  # of the targets, each once
    size_of: tuple[int, ...] = ()  # which of the sizes each usable pair's target has
    looks: bytes | None = None  # of the targets, end to end; None where the list was recalled as a whole
    needs_conditions: bool = True  # where not, those that are listed are not looked at

    @property
    def errors(self) -> tuple[Finding, ...]:
        return tuple(finding for finding in self.findings if finding.severity == "error")

    @property
    def total(self) -> int:
        """Pairs listed, usable or not."""
        return len(self.usable) + len({finding.line for finding in self.errors})


def check(
    folder: Path, progress: Progress | None = None, resolution: int | None = None, needs_conditions: bool = True
) -> CheckReport:
    """Read the list, decode every image, and find what is wrong. Raises: UserError if there is no list.

    Args:
        needs_conditions: whether the condition is a picture of the pair; where not, targets alone are looked at.
    """
    listing = read_listing(folder, needs_conditions)
    if not needs_conditions:
        return replace(_checked(_alone(listing), progress, resolution), listing=listing, needs_conditions=False)
    return _checked(listing, progress, resolution)


def _alone(listing: Listing) -> Listing:
    """Without conditions."""
    return replace(listing, pairs=tuple(replace(pair, condition="") for pair in listing.pairs))


def _checked(listing: Listing, progress: Progress | None, resolution: int | None) -> CheckReport:
    folder = listing.folder
    pace = _Pace(progress)
    began_ns = time.time_ns()
    with Memory() as memory:
        stamps = _stamps(folder, listing, pace)
        place, identity = _place(listing, resolution), _identity(listing, stamps, resolution)
        if (known := memory.recall_list(place, identity)) is not None:
            pace(len(stamps), len(stamps))
            return _recalled(listing, known)
        facts = examine(folder, stamps, memory, began_ns, pace)
        report = _judged(listing, facts, resolution)
        is_settled = all(stamp is not None and not is_fresh(stamp, began_ns) for stamp in stamps.values())
        if is_settled and not report.errors:
            memory.remember_list(place, identity, _to_recall(report))
    return report


def looks_of(report: CheckReport) -> bytes:
    """What the usable pairs' targets look like, end to end; from memory where the whole list was."""
    if report.looks is not None:
        return report.looks
    folder, paths, began_ns = report.listing.folder, [pair.target for pair in report.usable], time.time_ns()
    place_of = _places(folder)
    with Memory() as memory:
        facts = examine(folder, {path: stamp_of(place_of(path)) for path in paths}, memory, began_ns)
    return b"".join(facts[path].look for path in paths)


def contents_of(report: CheckReport) -> tuple[bytes, bytes]:
    """Digests of the usable pairs' targets and of their conditions, 16 bytes each, end to end; from memory."""
    folder, began_ns, place_of = report.listing.folder, time.time_ns(), _places(report.listing.folder)
    paths = {path for pair in report.usable for path in (pair.target, pair.condition) if path}
    with Memory() as memory:
        facts = examine(folder, {path: stamp_of(place_of(path)) for path in paths}, memory, began_ns)
    targets = b"".join(bytes.fromhex(facts[pair.target].digest) for pair in report.usable)
    return targets, b"".join(
        bytes.fromhex(facts[pair.condition].digest) if pair.condition else bytes(16) for pair in report.usable
    )


def sizes_of(report: CheckReport) -> Int64Array:
    """Width and height of the usable pairs' targets, [N,2], in pixels."""
    return np.array(report.sizes, dtype=np.int64).reshape(-1, 2)[np.array(report.size_of, dtype=np.int64)]


def _judged(listing: Listing, facts: dict[str, ImageFacts], resolution: int | None) -> CheckReport:
    findings = list(listing.findings)
    usable = []
    for pair in listing.pairs:
        found = list(_pair_findings(pair, facts, resolution))
        findings += found
        if not any(finding.severity == "error" for finding in found):
            usable.append(pair)
    findings += _repeated(usable, facts)
    size_of = [(facts[pair.target].width, facts[pair.target].height) for pair in usable]
    sizes = {size: number for number, size in enumerate(sorted(set(size_of)))}
    ordered = tuple(sorted(findings, key=lambda finding: (finding.line, finding.file)))
    looks = b"".join(facts[pair.target].look for pair in usable)
    numbers = tuple(sizes[size] for size in size_of)
    return CheckReport(listing, tuple(usable), ordered, _fingerprint(usable, facts), tuple(sizes), numbers, looks)


def _pair_findings(pair: Listed, facts: dict[str, ImageFacts], resolution: int | None) -> Iterable[Finding]:
    target, condition = facts[pair.target], facts[pair.condition] if pair.condition else None
    for path, image in ((pair.target, target), (pair.condition, condition)):
        if image is not None and image.fault:
            yield Finding(pair.line, path, image.fault)
    if target.fault or (condition is not None and condition.fault):
        return
    if condition is not None and (target.width, target.height) != (condition.width, condition.height):
        theirs = f"{condition.width}x{condition.height}"
        what = f"is {target.width}x{target.height}, but its condition {pair.condition} is {theirs}"
        yield Finding(pair.line, pair.target, what)
    if not pair.caption.strip():
        yield Finding(pair.line, pair.target, "has an empty caption", "warning", "empty")
    if condition is not None and target.digest == condition.digest:
        yield Finding(pair.line, pair.target, "is the same file as its condition", "warning", "same_file")
    if condition is not None and condition.spread < FLAT_SPREAD:
        what = "is nearly one colour: a condition that says nothing"
        yield Finding(pair.line, pair.condition, what, "warning", "flat")
    if resolution is not None and min(target.width, target.height) < resolution:
        what = f"is {target.width}x{target.height}, smaller than the {resolution} px that are trained on"
        yield Finding(pair.line, pair.target, what, "warning", "small")


def _repeated(usable: Iterable[Listed], facts: dict[str, ImageFacts]) -> list[Finding]:
    lines: dict[tuple[str, str], int] = {}
    findings = []
    for pair in usable:
        first = lines.setdefault((facts[pair.target].digest, _condition_digest(pair, facts)), pair.line)
        if first != pair.line:
            findings.append(Finding(pair.line, pair.target, f"is the same pair as line {first}", "warning", "repeated"))
    return findings


def _condition_digest(pair: Listed, facts: dict[str, ImageFacts]) -> str:
    found = facts.get(pair.condition)
    return "" if found is None else found.digest  # where conditions are made, none is looked at


def _fingerprint(usable: Iterable[Listed], facts: dict[str, ImageFacts]) -> str:
    total = xxhash.xxh3_128()
    for pair in usable:
        parts = (
            pair.target,
            facts[pair.target].digest,
            pair.condition,
            _condition_digest(pair, facts),
            pair.caption,
        )
        total.update(f"[{', '.join(map(quoted, parts))}]".encode())  # as json.dumps writes it, in a third of the time
    return f"xxh3-128:{total.hexdigest()}"


# --- a list that is as it was ------------------------------------------------------------------------------


def _stamps(folder: Path, listing: Listing, pace: "_Pace") -> Stamps:
    """Every file that is listed, once, with what tells its content."""
    stamps: Stamps = {}
    place_of = _places(folder)
    for pair in listing.pairs:
        for path in (pair.target, pair.condition):
            if path and path not in stamps:
                stamps[path] = stamp_of(place_of(path))
        pace(0, 2 * len(listing.pairs))
    return stamps


def _places(folder: Path) -> Callable[[str], str]:
    """Where a listed path lies; millions are asked, for which a Path takes longer than the disk."""
    root = os.path.join(folder, "")
    return lambda path: path if path.startswith("/") else root + path


def _place(listing: Listing, resolution: int | None) -> str:
    return f"{resolution}:{os.path.realpath(listing.folder / listing.layout)}"


def _identity(listing: Listing, stamps: Stamps, resolution: int | None) -> bytes:
    """A digest of all that a report follows from: list, files, and the program that judges them."""
    total = xxhash.xxh3_128(json.dumps([_program(), resolution, list(map(astuple, listing.findings))]).encode())
    for pair in listing.pairs:
        total.update(f"{pair.line}{quoted(pair.target)}{quoted(pair.condition)}{quoted(pair.caption)}".encode())
        total.update(stamps[pair.target] or b"-")
        total.update(stamps[pair.condition] or b"-" if pair.condition else b"")
    return total.digest()


@cache
def _program() -> str:
    """Another version, another Pillow, or other lines in what judges: everything is judged anew."""
    code = b"".join(path.read_bytes() for path in sorted(Path(__file__).parent.rglob("*.py")))
    return f"{__version__} {installed('pillow')} {xxhash.xxh3_128_hexdigest(code)}"


def _to_recall(report: CheckReport) -> bytes:
    told = {
        "findings": [astuple(finding) for finding in report.findings],
        "fingerprint": report.fingerprint,
        "sizes": report.sizes,
        "size_of": report.size_of,
    }
    return zlib.compress(json.dumps(told).encode(), 1)


def _recalled(listing: Listing, known: bytes) -> CheckReport:
    told = json.loads(zlib.decompress(known))
    findings = tuple(Finding(*finding) for finding in told["findings"])
    sizes = tuple((width, height) for width, height in told["sizes"])
    return CheckReport(listing, listing.pairs, findings, told["fingerprint"], sizes, tuple(told["size_of"]))


# --- all files, and what is remembered of them -------------------------------------------------------------


class _Pace:
    """Tells how far a look has come, now and then, and at its end."""

    def __init__(self, progress: Progress | None) -> None:
        self._progress, self._told_at = progress, time.monotonic()

    def __call__(self, done: int, total: int) -> None:
        if self._progress is None:
            return
        now = time.monotonic()
        if now - self._told_at >= TELL_PERIOD_S or done == total:
            self._told_at = now
            self._progress(done, total)


def examine(
    folder: Path, stamps: Stamps, memory: Memory, began_ns: int, pace: Progress | None = None
) -> dict[str, ImageFacts]:
    """Facts of all files, decoding those that are new or changed, on all cores.

    Crash: what was decoded until about a second before is remembered.
    """
    facts: dict[str, ImageFacts] = {}
    paths, done, place_of = iter(sorted(stamps)), 0, _places(folder)
    with _pool() as pool:
        while some := list(itertools.islice(paths, BATCH)):
            places = {path: place_of(path) for path in some}
            known = memory.recall({places[path]: stamps[path] for path in some})
            new = [path for path in some if places[path] not in known]
            facts |= {path: known[places[path]] for path in some if places[path] in known}
            done += len(some) - len(new)
            for path, found in _in_order(pool, lambda path: _examine_one(folder / path), new):
                facts[path] = found
                stamp = stamps[path]
                if stamp is not None and not is_fresh(stamp, began_ns):
                    memory.remember(places[path], stamp, found)
                done += 1
                if pace is not None:
                    pace(done, len(stamps))
            if pace is not None:
                pace(done, len(stamps))
    return facts


@contextmanager
def _pool() -> Iterator[ThreadPoolExecutor]:
    """All cores; whoever interrupts waits for the pictures that are being decoded, not for those in line."""
    pool = ThreadPoolExecutor(os.cpu_count())
    try:
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)


def _in_order(
    pool: ThreadPoolExecutor, look: Callable[[str], ImageFacts], paths: Iterable[str]
) -> Iterator[tuple[str, ImageFacts]]:
    """Each path with what was found, only so far ahead that memory holds a few of them."""
    ahead: deque[tuple[str, Future[ImageFacts]]] = deque()
    for path in paths:
        ahead.append((path, pool.submit(look, path)))
        if len(ahead) > 4 * (os.cpu_count() or 1):
            first, future = ahead.popleft()
            yield first, future.result()
    for path, future in ahead:
        yield path, future.result()


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
    return ImageFacts(digest, image.width, image.height, spread, "", look_of(image))
