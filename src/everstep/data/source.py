"""Where pairs come from: a listing of any layout, or the built-in generator."""

import io
from functools import cached_property
from typing import Literal, Protocol

import xxhash
from PIL import Image

from everstep.contracts import Contents, Int64Array, Pair, Report, Smaller, Which
from everstep.data.checking import CheckReport, check, contents_of, looks_of, other_contents_of, sizes_of
from everstep.data.counts import counted
from everstep.data.examining import Progress
from everstep.data.framing import FIRST
from everstep.data.images import BLACK, WHITE, Size, decode_sized
from everstep.data.layouts.circles import CircleSource
from everstep.data.layouts.columns import NOTHING_ASKED, Columns
from everstep.data.layouts.listing import Listed
from everstep.data.looks import Looks
from everstep.data.recipe import Recipe
from everstep.errors import UserError
from everstep.places import as_word

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
    def is_as_checked(self, pair: int, condition: int) -> bool: ...


class Settings(Protocol):
    """What a person sets of where the pairs are and how they lie."""

    @property
    def path(self) -> str: ...
    @property
    def resolution(self) -> int | None: ...
    @property
    def bad_pairs(self) -> Literal["refuse", "skip"]: ...
    @property
    def shape(self) -> str: ...
    @property
    def target_column(self) -> str | None: ...
    @property
    def condition_column(self) -> str | None: ...
    @property
    def caption_column(self) -> str | None: ...


class ListedSource:
    """The usable pairs of a checked listing, in its order."""

    recipe = None

    def __init__(self, report: CheckReport) -> None:
        self._report, self._files = report, report.listing.files
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
        caption = _of_several(listed.captions, which.caption)
        condition = _of_several(listed.conditions, which.condition) if self._report.needs_conditions else ""
        try:
            target, size = self._decoded(listed.target, WHITE, None if smaller is None else smaller.target)
            shown = None
            if condition:
                shown, _ = self._decoded(condition, BLACK, None if smaller is None else smaller.condition)
        except Exception as error:
            either = f" or {condition}" if condition else ""
            raise UserError(
                f"{self._files.where(listed.target)}{either} could be read when it was checked, but not "
                f"now ({error}). Versions are whole; everstep check {as_word(self._report.listing.where)} looks again."
            ) from error
        return Pair(target, shown, caption, size)

    def _decoded(self, name: str, paper: tuple[int, int, int], at_least: Size | None) -> tuple[Image.Image, Size]:
        return decode_sized(io.BytesIO(self._files.read(name)), paper, at_least)

    def fingerprint(self) -> str:
        return self._report.fingerprint

    def contents(self, pair: int) -> Contents:
        listed, (targets, conditions) = self._report.usable[pair], self._digests
        place = slice(DIGEST_BYTES * pair, DIGEST_BYTES * (pair + 1))
        first = conditions[place].hex()
        others = tuple(self._other_digests[name] for name in listed.other_conditions)
        return Contents(targets[place].hex(), (first, *others), listed.captions)

    def is_as_checked(self, pair: int, condition: int) -> bool:
        listed, told = self._report.usable[pair], self.contents(pair)
        names = [(listed.target, told.target)]
        if self._report.needs_conditions:
            names.append((listed.conditions[condition], told.conditions[condition]))
        return all(xxhash.xxh3_128_hexdigest(self._files.read(name)) == digest for name, digest in names)

    @cached_property
    def _digests(self) -> tuple[bytes, bytes]:
        return contents_of(self._report)

    @cached_property
    def _other_digests(self) -> dict[str, str]:
        return other_contents_of(self._report)


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

    def is_as_checked(self, pair: int, condition: int) -> bool:
        return self._source.is_as_checked(pair, condition)

    def sizes(self) -> Int64Array:
        return self._source.sizes()

    def fingerprint(self) -> str:
        """Reads the model, or the function's file, once."""
        return self.recipe.fingerprint(self._source.fingerprint())


def source_of(
    settings: Settings, report: Report | None = None, progress: Progress | None = None, recipe: Recipe | None = None
) -> Source:
    """Open and check the pairs that settings of data name. Raises: as `open_source`."""
    columns = Columns(settings.target_column, settings.condition_column, settings.caption_column)
    return open_source(
        settings.path,
        settings.resolution,
        settings.bad_pairs,
        report,
        progress,
        columns,
        is_square=settings.shape == "square",
        recipe=recipe,
    )


def open_source(
    path: str,
    resolution: int | None,
    bad_pairs: Literal["refuse", "skip"] = "refuse",
    report: Report | None = None,
    progress: Progress | None = None,
    columns: Columns = NOTHING_ASKED,
    is_square: bool = True,
    recipe: Recipe | None = None,
) -> Source:
    """Open and check the pairs at a path.

    Args:
        columns: which hold targets, conditions and captions, as far as they shall not be guessed.
        is_square: whether pictures whose shorter side is below the resolution are worth a warning.
        recipe: of conditions that are made; left out, each pair needs a picture of its own.

    Raises: UserError listing every pair that cannot be used, unless they shall be skipped.
    """
    opened = _open(path, resolution, bad_pairs, report, progress, columns, is_square, recipe is None)
    return opened if recipe is None else MadeSource(opened, recipe)


def _open(
    path: str,
    resolution: int | None,
    bad_pairs: Literal["refuse", "skip"],
    report: Report | None,
    progress: Progress | None,
    columns: Columns,
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
    checked = check(path, progress, resolution if is_square else None, columns, needs_conditions)
    if checked.errors and (bad_pairs == "refuse" or not checked.usable):
        raise UserError(refusal(checked))
    if report is not None and (odd := counted(checked.findings)):
        report(f"{odd}; everstep check {as_word(checked.listing.where)} lists them.")
    if checked.errors and report is not None:
        report(f"Left out {checked.total - len(checked.usable)} of {checked.total:,} pairs that cannot be used:")
        report(listed(checked.errors))
    if report is not None and (said := passed_over(checked)):
        report(said)
    return ListedSource(checked)


def _of_several(values: tuple[str, ...], share: float) -> str:
    return values[int(share * len(values))] if values else ""


def passed_over(report: CheckReport) -> str | None:
    """What is said where conditions are made and there are pictures of them too."""
    count = sum(bool(pair.condition) for pair in report.listing.pairs) if not report.needs_conditions else 0
    if not count:
        return None
    return (
        f"{count:,} of {report.total:,} pairs have a condition picture, which is not looked at, since conditions are "
        "made; --data.condition file trains on it."
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
    bad = report.total - len(report.usable)
    return (
        f"{bad:,} of {report.total:,} pairs in {report.listing.list_at} cannot be used:\n"
        f"{listed(report.errors)}\n"
        "Training has not started. --data.bad-pairs skip leaves them out; "
        f"everstep check {as_word(report.listing.where)} lists everything that was found."
    )


def listed(findings: tuple[object, ...], limit: int = SHOWN_FINDINGS) -> str:
    lines = [f"  {finding}" for finding in findings[:limit]]
    if len(findings) > limit:
        lines.append(f"  and {len(findings) - limit:,} more")
    return "\n".join(lines)
