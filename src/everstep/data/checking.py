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
from everstep.data.images import BLACK, decode_content, what_else
from everstep.data.layouts.columns import NOTHING_ASKED, Columns
from everstep.data.layouts.detection import read_listing
from everstep.data.layouts.files import Files
from everstep.data.layouts.listing import Finding, Listed, Listing
from everstep.data.looks import look_of
from everstep.data.remembered import ImageFacts, Memory, is_fresh
from everstep.data.transform import have_one_shape
from everstep.errors import UserError

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
    looks: bytes | None = None  # of the targets, end to end; None where the list was recalled as a whole

    @property
    def errors(self) -> tuple[Finding, ...]:
        return tuple(finding for finding in self.findings if finding.severity == "error")

    @property
    def total(self) -> int:
        """Pairs listed, usable or not."""
        return len(self.usable) + len({finding.line for finding in self.errors})


def check(
    path: Path | str,
    progress: Progress | None = None,
    resolution: int | None = None,
    columns: Columns = NOTHING_ASKED,
    needs_conditions: bool = True,
) -> CheckReport:
    """Read the list, decode every image, and find what is wrong.

    Args:
        columns: which hold targets, conditions and captions, as far as they shall not be guessed.
        needs_conditions: whether a pair without a condition is a fault.

    Raises: UserError if there is no list.
    """
    listing = read_listing(path, columns, progress)
    if needs_conditions:
        listing = _with_conditions(listing)
    pace = _Pace(progress)
    began_ns = time.time_ns()
    with Memory() as memory:
        stamps = _stamps(listing, pace)
        place, identity = _place(listing, resolution), _identity(listing, stamps, resolution)
        if (known := memory.recall_list(place, identity)) is not None:
            pace(len(stamps), len(stamps))
            return _recalled(listing, known)
        facts = examine(listing.files, stamps, memory, began_ns, pace)
        report = _judged(listing, facts, resolution)
        is_settled = all(stamp is not None and not is_fresh(stamp, began_ns) for stamp in stamps.values())
        if is_settled and not report.errors:
            memory.remember_list(place, identity, _to_recall(report))
    return report


def looks_of(report: CheckReport) -> bytes:
    """What the usable pairs' targets look like, end to end; from memory where the whole list was."""
    if report.looks is not None:
        return report.looks
    files, paths, began_ns = report.listing.files, [pair.target for pair in report.usable], time.time_ns()
    with Memory() as memory:
        facts = examine(files, {path: files.stamp(path) for path in paths}, memory, began_ns)
    return b"".join(facts[path].look for path in paths)


def _with_conditions(listing: Listing) -> Listing:
    """Pairs that have none are faults. Raises: UserError where none has one."""
    if listing.pairs and not listing.has_conditions:
        raise UserError(
            f"{listing.list_at} has targets but no conditions ({listing.layout}). Nothing was started. "
            "--data.condition-column says which column, key, folder or ending holds them."
        )
    lacking = tuple(Finding(pair.line, pair.target, "has no condition") for pair in listing.pairs if not pair.condition)
    if not lacking:
        return listing
    pairs = tuple(pair for pair in listing.pairs if pair.condition)
    return replace(listing, pairs=pairs, findings=(*listing.findings, *lacking))


def _judged(listing: Listing, facts: dict[str, ImageFacts], resolution: int | None) -> CheckReport:
    findings = list(listing.findings)
    usable = []
    for pair in listing.pairs:
        found = list(_pair_findings(pair, facts, resolution, listing.is_captioned))
        findings += found
        if not any(finding.severity == "error" for finding in found):
            usable.append(pair)
    findings += _repeated(usable, facts)
    sizes = {(facts[pair.target].width, facts[pair.target].height) for pair in usable}
    ordered = tuple(sorted(findings, key=lambda finding: (finding.line, finding.file)))
    looks = b"".join(facts[pair.target].look for pair in usable)
    return CheckReport(listing, tuple(usable), ordered, _fingerprint(usable, facts), tuple(sorted(sizes)), looks)


def _pair_findings(
    pair: Listed, facts: dict[str, ImageFacts], resolution: int | None, is_captioned: bool
) -> Iterable[Finding]:
    faults = [Finding(pair.line, path, facts[path].fault) for path in pair.files() if facts[path].fault]
    yield from faults
    if faults:
        return
    target = facts[pair.target]
    for path in pair.conditions:
        condition = facts[path]
        if not have_one_shape((target.width, target.height), (condition.width, condition.height)):
            theirs = f"{condition.width}x{condition.height}"
            yield Finding(
                pair.line, pair.target, f"is {target.width}x{target.height}, but its condition {path} is {theirs}"
            )
    if is_captioned and not all(map(str.strip, pair.captions)):
        yield Finding(pair.line, pair.target, "has an empty caption", "warning", "empty")
    for path in pair.conditions:
        if target.digest == facts[path].digest:
            yield Finding(pair.line, pair.target, "is the same file as its condition", "warning", "same_file")
        if facts[path].spread < FLAT_SPREAD:
            what = "is nearly one colour: a condition that says nothing"
            yield Finding(pair.line, path, what, "warning", "flat")
    if resolution is not None and min(target.width, target.height) < resolution:
        what = f"is {target.width}x{target.height}, smaller than the {resolution} px that are trained on"
        yield Finding(pair.line, pair.target, what, "warning", "small")


def _repeated(usable: Iterable[Listed], facts: dict[str, ImageFacts]) -> list[Finding]:
    lines: dict[tuple[str, str], int] = {}
    none = ImageFacts("", 0, 0, 0.0, "")
    findings = []
    for pair in usable:
        first = lines.setdefault((facts[pair.target].digest, facts.get(pair.condition, none).digest), pair.line)
        if first != pair.line:
            findings.append(Finding(pair.line, pair.target, f"is the same pair as line {first}", "warning", "repeated"))
    return findings


def _fingerprint(usable: Iterable[Listed], facts: dict[str, ImageFacts]) -> str:
    total = xxhash.xxh3_128()
    for pair in usable:
        digest = facts[pair.condition].digest if pair.condition else ""
        parts = (pair.target, facts[pair.target].digest, pair.condition, digest, pair.caption)
        told = ", ".join(map(quoted, parts))  # as json.dumps writes it, in a third of the time
        if pair.other_conditions or pair.other_captions:
            told += f", {json.dumps([[path, facts[path].digest] for path in pair.other_conditions])}"
            told += f", {json.dumps(pair.other_captions)}"
        total.update(f"[{told}]".encode())
    return f"xxh3-128:{total.hexdigest()}"


# --- a list that is as it was ------------------------------------------------------------------------------


def _stamps(listing: Listing, pace: "_Pace") -> Stamps:
    """Every file that is listed, once, with what tells its content."""
    names: dict[str, None] = {}
    for pair in listing.pairs:
        names[pair[1]] = names[pair[2]] = None  # by place: a million names take a while
        if pair[4]:
            names |= dict.fromkeys(pair[4])
    names.pop("", None)
    stamps: Stamps = {}
    for number, (name, stamp) in enumerate(zip(names, listing.files.stamps(names), strict=True)):
        stamps[name] = stamp
        if number % BATCH == 0:
            pace(0, len(names))
    return stamps


def _place(listing: Listing, resolution: int | None) -> str:
    return f"{resolution}:{os.path.realpath(listing.list_at)}"


def _identity(listing: Listing, stamps: Stamps, resolution: int | None) -> bytes:
    """A digest of all that a report follows from: list, files, and the program that judges them."""
    total = xxhash.xxh3_128(json.dumps([_program(), resolution, list(map(astuple, listing.findings))]).encode())
    pairs = iter(listing.pairs)
    while some := tuple(itertools.islice(pairs, BATCH)):
        total.update(json.dumps(some).encode())
    told = iter(stamps.values())
    while stamped := [stamp or b"-" for stamp in itertools.islice(told, BATCH)]:
        total.update(b"".join(stamped))
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
    }
    return zlib.compress(json.dumps(told).encode(), 1)


def _recalled(listing: Listing, known: bytes) -> CheckReport:
    told = json.loads(zlib.decompress(known))
    findings = tuple(Finding(*finding) for finding in told["findings"])
    sizes = tuple((width, height) for width, height in told["sizes"])
    return CheckReport(listing, listing.pairs, findings, told["fingerprint"], sizes)


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
    files: Files, stamps: Stamps, memory: Memory, began_ns: int, pace: Progress | None = None
) -> dict[str, ImageFacts]:
    """Facts of all files, decoding those that are new or changed, on all cores.

    Crash: what was decoded until about a second before is remembered.
    """
    facts: dict[str, ImageFacts] = {}
    names, done = iter(files.in_order(stamps)), 0
    with _pool() as pool:
        while some := list(itertools.islice(names, BATCH)):
            places = {name: files.place(name) for name in some}
            known = memory.recall({places[name]: stamps[name] for name in some})
            new = [name for name in some if places[name] not in known]
            facts |= {name: known[places[name]] for name in some if places[name] in known}
            done += len(some) - len(new)
            for name, found in _in_order(pool, lambda name: _examine_one(files, name), new):
                facts[name] = found
                stamp = stamps[name]
                if stamp is not None and not is_fresh(stamp, began_ns):
                    memory.remember(places[name], stamp, found)
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


def _examine_one(files: Files, name: str) -> ImageFacts:
    """What fails is tried again: a disk may stutter, a file may just be written."""
    found = _looked_at(files, name)
    for pause_s in RETRY_PAUSES_S:
        if not found.fault or found.fault in FINAL_FAULTS:
            return found
        time.sleep(pause_s)
        before, found = found, _looked_at(files, name)
        if found.digest and found.digest == before.digest:  # the same content decodes no better the next time
            return found
    return found


def _looked_at(files: Files, name: str) -> ImageFacts:
    try:
        content = files.read(name)
    except FileNotFoundError:
        return ImageFacts("", 0, 0, 0.0, "is missing")
    except OSError as error:
        return ImageFacts("", 0, 0, 0.0, f"cannot be read ({error.strerror or error})")
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
