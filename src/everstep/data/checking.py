"""Everything that is wrong with a folder of pairs, in one pass, before anything is trained on it.

Every image is decoded: a truncated one is found now and not at hour five. What a file's content led to is kept as it
comes, so that an interrupted check goes on where it was, and a list that is as it was is only looked over.
"""

import itertools
import json
import os
import time
import zlib
from collections.abc import Iterable
from dataclasses import astuple, dataclass, replace
from functools import cache
from importlib.metadata import version as installed
from json.encoder import encode_basestring_ascii as quoted
from pathlib import Path

import numpy as np
import xxhash

from everstep import __version__
from everstep.contracts import Int64Array
from everstep.data.examining import BATCH, Pace, Progress, Stamps, examine, recalled
from everstep.data.layouts.columns import NOTHING_ASKED, Columns
from everstep.data.layouts.detection import read_listing
from everstep.data.layouts.listing import Finding, Listed, Listing
from everstep.data.remembered import ImageFacts, Memory, is_fresh
from everstep.data.transform import have_one_shape
from everstep.errors import UserError

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
    listing = read_listing(path, columns, progress)
    if not needs_conditions:
        return replace(_checked(_alone(listing), progress, resolution), listing=listing, needs_conditions=False)
    return _checked(_with_conditions(listing), progress, resolution)


def _alone(listing: Listing) -> Listing:
    """Targets without conditions."""
    return replace(listing, pairs=tuple(pair._replace(condition="", other_conditions=()) for pair in listing.pairs))


def _checked(listing: Listing, progress: Progress | None, resolution: int | None) -> CheckReport:
    pace = Pace(progress)
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
    paths = [pair.target for pair in report.usable]
    facts = recalled(report.listing.files, paths)
    return b"".join(facts[path].look for path in paths)


def contents_of(report: CheckReport) -> tuple[bytes, bytes]:
    """Digests of the usable pairs' targets and of their first conditions, 16 bytes each, end to end; from memory."""
    conditions = [pair.condition if report.needs_conditions else "" for pair in report.usable]
    facts = recalled(report.listing.files, {*(pair.target for pair in report.usable), *conditions} - {""})
    targets = b"".join(bytes.fromhex(facts[pair.target].digest) for pair in report.usable)
    return targets, b"".join(bytes.fromhex(facts[path].digest) if path else bytes(16) for path in conditions)


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
    looks = b"".join(facts[pair.target].look for pair in usable)
    numbers = tuple(sizes[size] for size in size_of)
    return CheckReport(listing, tuple(usable), ordered, _fingerprint(usable, facts), tuple(sizes), numbers, looks)


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


def _stamps(listing: Listing, pace: Pace) -> Stamps:
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
        "size_of": report.size_of,
    }
    return zlib.compress(json.dumps(told).encode(), 1)


def _recalled(listing: Listing, known: bytes) -> CheckReport:
    told = json.loads(zlib.decompress(known))
    findings = tuple(Finding(*finding) for finding in told["findings"])
    sizes = tuple((width, height) for width, height in told["sizes"])
    return CheckReport(listing, listing.pairs, findings, told["fingerprint"], sizes, tuple(told["size_of"]))
