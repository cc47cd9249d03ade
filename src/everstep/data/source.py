"""Where pairs come from: a listing of any layout, or the built-in generator."""

from typing import Literal, Protocol

from everstep.contracts import Pair, Report, Which
from everstep.data.checking import CheckReport, Progress, check, looks_of
from everstep.data.counts import counted
from everstep.data.framing import FIRST
from everstep.data.images import BLACK, WHITE, decode_content
from everstep.data.layouts.circles import CircleSource
from everstep.data.layouts.columns import NOTHING_ASKED, Columns
from everstep.data.layouts.listing import Listed
from everstep.data.looks import Looks
from everstep.errors import UserError
from everstep.places import as_word

SHOWN_FINDINGS = 20


class Source(Protocol):
    """A PairSource that can also say what it is and what it left out."""

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

    def __len__(self) -> int: ...
    def name(self, pair: int) -> str: ...
    def load(self, pair: int, which: Which = ...) -> Pair: ...
    def fingerprint(self) -> str: ...


class Settings(Protocol):
    """What a person sets of where the pairs are and how they lie."""

    @property
    def path(self) -> str: ...
    @property
    def resolution(self) -> int | None: ...
    @property
    def bad_pairs(self) -> Literal["refuse", "skip"]: ...
    @property
    def target_column(self) -> str | None: ...
    @property
    def condition_column(self) -> str | None: ...
    @property
    def caption_column(self) -> str | None: ...


class ListedSource:
    """The usable pairs of a checked listing, in its order."""

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

    def __len__(self) -> int:
        return len(self._report.usable)

    def name(self, pair: int) -> str:
        return self._report.usable[pair].target

    def load(self, pair: int, which: Which = FIRST) -> Pair:
        listed = self._report.usable[pair]
        caption = _of_several(listed.captions, which.caption)
        condition = _of_several(listed.conditions, which.condition)
        try:
            target = decode_content(self._files.read(listed.target), WHITE)
            # What is made from the target is made of it later.
            shown = decode_content(self._files.read(condition), BLACK) if condition else target
        except Exception as error:
            raise UserError(
                f"{self._files.where(listed.target)} or {condition} could be read when it was checked, but not "
                f"now ({error}). Versions are whole; everstep check {as_word(self._report.listing.where)} looks again."
            ) from error
        return Pair(target, shown, caption)

    def fingerprint(self) -> str:
        return self._report.fingerprint


def source_of(
    settings: Settings, report: Report | None = None, progress: Progress | None = None, needs_conditions: bool = True
) -> Source:
    """Open and check the pairs that settings of data name. Raises: as `open_source`."""
    columns = Columns(settings.target_column, settings.condition_column, settings.caption_column)
    return open_source(
        settings.path, settings.resolution, settings.bad_pairs, report, progress, columns, needs_conditions
    )


def open_source(
    path: str,
    resolution: int | None,
    bad_pairs: Literal["refuse", "skip"] = "refuse",
    report: Report | None = None,
    progress: Progress | None = None,
    columns: Columns = NOTHING_ASKED,
    needs_conditions: bool = True,
) -> Source:
    """Open and check the pairs at a path.

    Args:
        columns: which hold targets, conditions and captions, as far as they shall not be guessed.
        needs_conditions: whether a pair without a condition cannot be used.

    Raises: UserError listing every pair that cannot be used, unless they shall be skipped.
    """
    if path.startswith("builtin:"):
        if path != "builtin:circles":
            raise UserError(f"There is no built-in data {path}; there is builtin:circles.")
        return CircleSource(resolution or 64)
    checked = check(path, progress, resolution, columns, needs_conditions)
    if checked.errors and (bad_pairs == "refuse" or not checked.usable):
        raise UserError(refusal(checked))
    if report is not None and (odd := counted(checked.findings)):
        report(f"{odd}; everstep check {as_word(checked.listing.where)} lists them.")
    if checked.errors and report is not None:
        report(f"Left out {checked.total - len(checked.usable)} of {checked.total:,} pairs that cannot be used:")
        report(listed(checked.errors))
    return ListedSource(checked)


def _of_several(values: tuple[str, ...], share: float) -> str:
    return values[int(share * len(values))] if values else ""


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
