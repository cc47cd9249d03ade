"""Everything that is wrong with a folder of pairs, in one pass, before anything is trained on it.

Every image is decoded: a truncated one is found now and not at hour five. What a file's content led to is kept as it
comes, so that an interrupted check goes on where it was, and a list that is as it was is only looked over.
"""

import itertools
import json
import os
import time
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import astuple, dataclass, replace
from json.encoder import encode_basestring_ascii as quoted
from operator import itemgetter
from pathlib import Path

import numpy as np
import xxhash

from everstep.contracts import Int64Array
from everstep.data.examining import BATCH, Pace, Progress, Stamps, examine, recalled
from everstep.data.layouts.columns import NOTHING_ASKED, Columns
from everstep.data.layouts.detection import read_listing
from everstep.data.layouts.folder import place_of
from everstep.data.layouts.kept import packed
from everstep.data.layouts.listing import Finding, Listed, Listing
from everstep.data.looks import LENGTH
from everstep.data.remembered import FRESH_NS, ImageFacts, Memory, program
from everstep.data.transform import have_one_shape
from everstep.errors import UserError
from everstep.stamps import NO_STAMP, STAMP

DIGEST_BYTES = 16
FLAT_SPREAD = 2.0  # standard deviation, of 255, below which a condition says nothing


@dataclass(frozen=True, slots=True)
class CheckReport:
    """The usable pairs, everything that was found, and what identifies the data."""

    listing: Listing
    usable: tuple[Listed, ...]
    findings: tuple[Finding, ...]
    fingerprint: str
    sizes: tuple[tuple[int, int], ...]  # of the targets, each once
    size_of: tuple[int, ...]  # of each usable pair's target, its place among these
    looks: bytes | None = None  # of the targets, end to end; None where the list was recalled as a whole
    identity: bytes = b""  # what all of it follows from, where it is remembered
    needs_conditions: bool = True  # whether they are pictures of the pairs

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
        needs_conditions: whether conditions are pictures of the pairs; where not, targets alone are looked at.

    Raises: UserError if there is no list.
    """
    pace, began_ns = Pace(progress), time.time_ns()
    with Memory() as memory:
        listing = read_listing(path, columns, progress, memory)
        report = _checked(listing, memory, resolution, needs_conditions, began_ns, pace)
        if report is None:
            listing = read_listing(path, columns, progress)
            report = _checked(listing, memory, resolution, needs_conditions, began_ns, pace)
    assert report is not None, "a list that was read is judged"
    return report


def _checked(
    listing: Listing, memory: Memory, resolution: int | None, needs_conditions: bool, began_ns: int, pace: Pace
) -> CheckReport | None:
    """None for a list that was not read again though files of it are gone: they may have other names now."""
    used = _with_conditions(listing) if needs_conditions else _alone(listing)
    names = _names(used)
    stamps = _stamps(used, names, pace)
    if listing.is_recalled and not stamps.are_all_there:
        return None
    identity = _identity(used, stamps, needs_conditions)
    known = memory.recall_list(_place(listing, f"{resolution}"), _of_resolution(identity, resolution))
    if known is not None:
        pace(len(names), len(names))
        report = _recalled(used, known, identity)
    else:
        facts = examine(used.files, stamps.by_name(names), memory, began_ns, pace)
        report = _judged(used, facts, resolution)
        if not report.errors and stamps.are_all_there and not stamps.is_any_fresh(began_ns):
            report = replace(report, identity=identity)
            _remember(listing, report, facts, resolution, memory)
    return report if needs_conditions else replace(report, listing=listing, needs_conditions=False)


def _alone(listing: Listing) -> Listing:
    """Targets without conditions."""
    return replace(listing, pairs=tuple(pair._replace(condition="", other_conditions=()) for pair in listing.pairs))


def looks_of(report: CheckReport) -> bytes:
    """What the usable pairs' targets look like, end to end; from memory where the whole list was."""
    if report.looks is not None:
        return report.looks
    return _of_files(report, "looks", LENGTH * len(report.usable), _looks)


def contents_of(report: CheckReport) -> tuple[bytes, bytes]:
    """Digests of the usable pairs' targets and of their first conditions, 16 bytes each, end to end; from memory."""
    half = DIGEST_BYTES * len(report.usable)
    both = _of_files(report, "contents", 2 * half, _contents)
    return both[:half], both[half:]


def _of_files(
    report: CheckReport, what: str, length: int, made: Callable[[Iterable[Listed], Mapping[str, ImageFacts]], bytes]
) -> bytes:
    """What is remembered of a whole list, or put together from its files."""
    place = _place(report.listing, what)
    with Memory() as memory:
        known = memory.recall_list(place, report.identity) if report.identity else None
    if known is not None and len(known) == length:
        return known
    pairs = report.usable if report.needs_conditions else _alone(report.listing).pairs
    facts = recalled(report.listing.files, {path for pair in pairs for path in (pair.target, pair.condition)} - {""})
    return made(pairs, facts)


def _looks(pairs: Iterable[Listed], facts: Mapping[str, ImageFacts]) -> bytes:
    return b"".join(facts[pair.target].look for pair in pairs)


def _contents(pairs: Iterable[Listed], facts: Mapping[str, ImageFacts]) -> bytes:
    """Of targets, then of conditions; zeros where there is none."""
    digests = [facts[pair.target].digest for pair in pairs]
    digests += [facts[pair.condition].digest if pair.condition else "0" * 2 * DIGEST_BYTES for pair in pairs]
    return bytes.fromhex("".join(digests))


def other_contents_of(report: CheckReport) -> dict[str, str]:
    """Digests of the other conditions of pairs that have several; from memory."""
    facts = recalled(report.listing.files, {path for pair in report.usable for path in pair.other_conditions})
    return {path: found.digest for path, found in facts.items()}


def sizes_of(report: CheckReport) -> Int64Array:
    """Width and height of the usable pairs' targets, [N,2], in pixels."""
    return np.array(report.sizes, dtype=np.int64).reshape(-1, 2)[np.array(report.size_of, dtype=np.int64)]


def _with_conditions(listing: Listing) -> Listing:
    """Pairs that have none are faults. Raises: UserError where none has one."""
    if listing.pairs and not listing.has_conditions:
        raise UserError(
            f"{listing.list_at} has targets but no conditions ({listing.layout}). Nothing was started.\n"
            "--data.condition makes them from the pictures: canny, softedge, lineart, depth, grey, blur, tile, "
            "inpaint, or FILE.py:FUNCTION. --data.condition-column says which column, key, folder or ending holds them."
        )
    told = {finding.line: finding for finding in listing.without}
    lacking = [pair for pair in listing.pairs if not pair.condition]
    if not lacking:
        return listing
    faults = (told.get(pair.line) or Finding(pair.line, pair.target, "has no condition") for pair in lacking)
    pairs = tuple(pair for pair in listing.pairs if pair.condition)
    return replace(listing, pairs=pairs, findings=(*listing.findings, *faults))


def _judged(listing: Listing, facts: dict[str, ImageFacts], resolution: int | None) -> CheckReport:
    findings = list(listing.findings)
    usable = []
    for pair in listing.pairs:
        found = list(_pair_findings(pair, facts, resolution, listing.is_captioned))
        findings += found
        if not any(finding.severity == "error" for finding in found):
            usable.append(pair)
    findings += _repeated(usable, facts)
    size_of = [(facts[pair.target].width, facts[pair.target].height) for pair in usable]
    sizes = {size: number for number, size in enumerate(sorted(set(size_of)))}
    ordered = tuple(sorted(findings, key=lambda finding: (finding.line, finding.file)))
    numbers = tuple(sizes[size] for size in size_of)
    fingerprint, looks = _fingerprint(usable, facts), _looks(usable, facts)
    return CheckReport(listing, tuple(usable), ordered, fingerprint, tuple(sizes), numbers, looks)


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


def _names(listing: Listing) -> list[str]:
    """Every file that is listed, once."""
    pairs = listing.pairs
    listed = itertools.chain(map(itemgetter(1), pairs), map(itemgetter(2), pairs))
    if listing.is_distinct:
        return list(filter(None, listed))
    names = dict.fromkeys(listed)
    names |= dict.fromkeys(name for others in filter(None, map(itemgetter(4), pairs)) for name in others)
    names.pop("", None)
    return list(names)


class _Stamps:
    """What tells the content of many files, end to end."""

    def __init__(self, told: bytes) -> None:
        self.told, self._parts = told, np.frombuffer(told, "<u8").reshape(-1, 3)

    @property
    def are_all_there(self) -> bool:
        return not bool((self._parts[:, 0] == int.from_bytes(NO_STAMP[:8])).any())

    def is_any_fresh(self, now_ns: int) -> bool:
        """As `is_fresh`."""
        return bool((np.abs(self._parts[:, 1:].view("<i8") - now_ns) < FRESH_NS).any())

    def by_name(self, names: Sequence[str]) -> Stamps:
        each = (self.told[at : at + STAMP.size] for at in range(0, len(self.told), STAMP.size))
        return {name: None if stamp == NO_STAMP else stamp for name, stamp in zip(names, each, strict=True)}


def _stamps(listing: Listing, names: list[str], pace: Pace) -> _Stamps:
    told = []
    for some in listing.files.stamps(names):
        told.append(some)
        pace(0, len(names))
    return _Stamps(b"".join(told))


def _place(listing: Listing, what: str) -> str:
    return f"{what}:{os.path.realpath(listing.list_at)}"


def _identity(listing: Listing, stamps: _Stamps, needs_conditions: bool) -> bytes:
    """A digest of all that a report follows from: list, files, and the program that judges them."""
    total = xxhash.xxh3_128(json.dumps([program(), needs_conditions]).encode())
    if listing.identity is not None:
        total.update(listing.identity)
    else:
        total.update(json.dumps(list(map(astuple, listing.findings))).encode())
        pairs = iter(listing.pairs)
        while some := tuple(itertools.islice(pairs, BATCH)):
            total.update(json.dumps(some).encode())
    total.update(stamps.told)
    return total.digest()


def _of_resolution(identity: bytes, resolution: int | None) -> bytes:
    return xxhash.xxh3_128_digest(identity + repr(resolution).encode())


def _remember(
    listing: Listing, report: CheckReport, facts: Mapping[str, ImageFacts], resolution: int | None, memory: Memory
) -> None:
    """The report, the list as it was read, and what is asked of all its files at once, in columns."""
    told = _to_recall(report)
    memory.remember_list(_place(listing, f"{resolution}"), _of_resolution(report.identity, resolution), told)
    memory.remember_list(_place(listing, "looks"), report.identity, _looks(report.usable, facts))
    memory.remember_list(_place(listing, "contents"), report.identity, _contents(report.usable, facts))
    if listing.identity is not None and not listing.is_recalled:
        memory.remember_list(place_of(listing.list_at), listing.identity, packed(listing))


def _to_recall(report: CheckReport) -> bytes:
    told = {
        "findings": [astuple(finding) for finding in report.findings],
        "fingerprint": report.fingerprint,
        "sizes": report.sizes,
        "size_of": report.size_of,
    }
    return zlib.compress(json.dumps(told).encode(), 1)


def _recalled(listing: Listing, known: bytes, identity: bytes) -> CheckReport:
    told = json.loads(zlib.decompress(known))
    findings = tuple(Finding(*finding) for finding in told["findings"])
    sizes = tuple((width, height) for width, height in told["sizes"])
    numbers = tuple(told["size_of"])
    return CheckReport(listing, listing.pairs, findings, told["fingerprint"], sizes, numbers, identity=identity)
