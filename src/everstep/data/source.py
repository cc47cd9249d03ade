"""Where pairs come from: a folder, or the built-in generator."""

import difflib
import shlex
from functools import cached_property
from pathlib import Path
from typing import Literal, Protocol

from everstep.contracts import Contents, Int64Array, Pair, Report, Smaller, Which
from everstep.data.checking import CheckReport, Progress, check, contents_of, looks_of, sizes_of
from everstep.data.counts import counted
from everstep.data.framing import FIRST
from everstep.data.images import BLACK, WHITE, read_sized
from everstep.data.layouts.circles import CircleSource
from everstep.data.layouts.folder import LAYOUTS, NO_CONDITION, Listed
from everstep.data.looks import Looks
from everstep.data.recipe import Recipe
from everstep.errors import UserError
from everstep.places import as_word, spelled

SHOWN_FINDINGS = 20
DIGEST_BYTES = 16


class Source(Protocol):
    """A PairSource that can also say what it is and what it left out."""

    @property
    def recipe(self) -> Recipe | None:
        """Of conditions that are made; None where they are pictures."""
        ...

    @property
    def description(self) -> str:
        """One line: how many pairs, how listed, how large."""
        ...

    @property
    def skipped(self) -> dict[str, str]:
        """Name and reason of every pair that was left out on purpose."""
        ...

    @property
    def captioned(self) -> tuple[Listed, ...]:
        """The pairs whose captions somebody wrote."""
        ...

    def looks(self) -> Looks | None:
        """What the targets look like, by pair number; None where they need not be told apart by it."""
        ...

    def sizes(self) -> Int64Array:
        """Width and height of the targets by pair number, [N,2], in pixels."""
        ...

    def __len__(self) -> int: ...
    def name(self, pair: int) -> str: ...
    def load(self, pair: int, which: Which = ..., smaller: Smaller | None = None) -> Pair: ...
    def fingerprint(self) -> str: ...
    def contents(self, pair: int) -> Contents: ...


class FolderSource:
    """The usable pairs of a checked folder, in the order of its list."""

    recipe = None

    def __init__(self, report: CheckReport) -> None:
        self._report, self._folder = report, report.listing.folder
        self._looks: bytes | None = None  # asked for twice in a start
        self.skipped = {f"line {finding.line}": str(finding) for finding in report.errors}
        self.captioned = report.usable
        self.description = describe(report)

    def looks(self) -> Looks | None:
        """Of every target; for the one who chooses what to hold out."""
        if self._looks is None:
            self._looks = looks_of(self._report)
        return Looks.of(self._looks, len(self))

    def sizes(self) -> Int64Array:
        return sizes_of(self._report)

    def __len__(self) -> int:
        return len(self._report.usable)

    def name(self, pair: int) -> str:
        return self._report.usable[pair].target

    def load(self, pair: int, which: Which = FIRST, smaller: Smaller | None = None) -> Pair:
        listed = self._report.usable[pair]
        needs_condition = self._report.needs_conditions
        try:
            target, size = read_sized(self._folder / listed.target, WHITE, None if smaller is None else smaller.target)
            condition = None
            if needs_condition:
                at_least = None if smaller is None else smaller.condition
                condition, _ = read_sized(self._folder / listed.condition, BLACK, at_least)
        except Exception as error:
            either = f" or {listed.condition}" if needs_condition else ""
            raise UserError(
                f"{self._folder / listed.target}{either} could be read when it was checked, but not "
                f"now ({error}). Versions are whole; everstep check {as_word(self._folder)} looks again."
            ) from error
        return Pair(target, condition, listed.caption, size)

    def fingerprint(self) -> str:
        return self._report.fingerprint

    def contents(self, pair: int) -> Contents:
        targets, conditions = self._digests
        place = slice(DIGEST_BYTES * pair, DIGEST_BYTES * (pair + 1))
        caption = self._report.usable[pair].caption
        return Contents(targets[place].hex(), (conditions[place].hex(),), (caption,))

    @cached_property
    def _digests(self) -> tuple[bytes, bytes]:
        return contents_of(self._report)


class MadeSource:
    """A source whose conditions are made: how they are is part of what the data are."""

    def __init__(self, source: Source, recipe: Recipe) -> None:
        self._source, self.recipe = source, recipe
        self.description = f"{source.description}; {recipe.description}"
        self.skipped, self.captioned = source.skipped, source.captioned

    def looks(self) -> Looks | None:
        return self._source.looks()

    def __len__(self) -> int:
        return len(self._source)

    def name(self, pair: int) -> str:
        return self._source.name(pair)

    def load(self, pair: int, which: Which = FIRST, smaller: Smaller | None = None) -> Pair:
        return self._source.load(pair, which, smaller)

    def contents(self, pair: int) -> Contents:
        """The target decides its condition."""
        contents = self._source.contents(pair)
        return Contents(contents.target, ("",), contents.captions)

    def sizes(self) -> Int64Array:
        return self._source.sizes()

    def fingerprint(self) -> str:
        """Reads the model, or the function's file, once."""
        return self.recipe.fingerprint(self._source.fingerprint())


def open_source(
    path: str,
    resolution: int | None,
    bad_pairs: Literal["refuse", "skip"] = "refuse",
    report: Report | None = None,
    progress: Progress | None = None,
    is_square: bool = True,
    recipe: Recipe | None = None,
) -> Source:
    """Open and check the pairs at a path.

    Args:
        is_square: whether pictures whose shorter side is below the resolution are worth a warning.
        recipe: of conditions that are made; left out, each pair needs a picture of its own.

    Raises: UserError listing every pair that cannot be used, unless they shall be skipped.
    """
    opened = _open(path, resolution, bad_pairs, report, progress, is_square, needs_conditions=recipe is None)
    return opened if recipe is None else MadeSource(opened, recipe)


def _open(
    path: str,
    resolution: int | None,
    bad_pairs: Literal["refuse", "skip"],
    report: Report | None,
    progress: Progress | None,
    is_square: bool,
    needs_conditions: bool,
) -> Source:
    """As `open_source`.

    Raises: UserError listing every pair that cannot be used, unless they shall be skipped.
    """
    if path.startswith("builtin:"):
        if path != "builtin:circles":
            raise UserError(f"There is no built-in data {path}; there is builtin:circles.")
        return CircleSource(resolution or 64)
    folder = spelled(path)
    if folder.name in LAYOUTS and folder.is_file():
        raise UserError(f"The data {path} is the list itself. Nothing was started. Give its folder: {folder.parent}")
    if not folder.is_dir():
        raise UserError(f"The data {path} is not a folder{_near(folder)}. Nothing was started.")
    checked = check(folder, progress, resolution if is_square else None, needs_conditions)
    if checked.errors and (bad_pairs == "refuse" or not checked.usable):
        raise UserError(refusal(checked))
    if report is not None and (odd := counted(checked.findings)):
        report(f"{odd}; everstep check {shlex.quote(str(folder))} lists them.")
    if checked.errors and report is not None:
        report(f"Left out {checked.total - len(checked.usable)} of {checked.total:,} pairs that cannot be used:")
        report(listed(checked.errors))
    if report is not None and (said := passed_over(checked)):
        report(said)
    return FolderSource(checked)


def passed_over(report: CheckReport) -> str | None:
    """What is said where conditions are made and there are pictures of them too."""
    count = sum(bool(pair.condition) for pair in report.listing.pairs) if not report.needs_conditions else 0
    if not count:
        return None
    return (
        f"{count:,} of {report.total:,} pairs have a condition picture, which is not looked at, since conditions are "
        "made; --data.condition file trains on it."
    )


def lacking(report: CheckReport) -> str | None:
    """What is said where no line of the list names a condition."""
    if not report.errors or any(finding.kind != NO_CONDITION for finding in report.errors) or report.usable:
        return None
    return (
        "No pair has a picture of its condition. --data.condition makes it from the picture: canny, softedge, lineart, "
        "depth, grey, blur, tile, inpaint, or FILE.py:FUNCTION."
    )


def describe(report: CheckReport) -> str:
    """1,854 pairs, metadata.jsonl, 64x64."""
    sizes = sorted(set(report.sizes))
    size = "no size" if not sizes else f"{sizes[0][0]}x{sizes[0][1]}"
    if len(sizes) > 1:
        size = f"{len(sizes)} sizes from {size} to {sizes[-1][0]}x{sizes[-1][1]}"
    return f"{len(report.usable):,} pairs, {report.listing.layout}, {size}"


def refusal(report: CheckReport) -> str:
    """Why training does not start, with every pair that is to blame and the two ways on."""
    folder = report.listing.folder
    bad = report.total - len(report.usable)
    if (said := lacking(report)) is not None:
        return f"{folder / report.listing.layout}: {said} Training has not started."
    return (
        f"{bad:,} of {report.total:,} pairs in {folder / report.listing.layout} cannot be used:\n"
        f"{listed(report.errors)}\n"
        "Training has not started. --data.bad-pairs skip leaves them out; "
        f"everstep check {as_word(folder)} lists everything that was found."
    )


def listed(findings: tuple[object, ...], limit: int = SHOWN_FINDINGS) -> str:
    lines = [f"  {finding}" for finding in findings[:limit]]
    if len(findings) > limit:
        lines.append(f"  and {len(findings) - limit:,} more")
    return "\n".join(lines)


def _near(path: Path) -> str:
    siblings = [entry.name for entry in path.parent.iterdir() if entry.is_dir()] if path.parent.is_dir() else []
    near = difflib.get_close_matches(path.name, siblings, n=1)
    return f"; did you mean {path.parent / near[0]}?" if near else ""
