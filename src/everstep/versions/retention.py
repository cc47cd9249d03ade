"""Which versions stay: a plan with a reason for each, then the plan carried out.

Policies add up: a version stays if any of them keeps it. Some keep it whole, some keep it slim, without what only a
resume needs. The plan is a pure function of what is known of the versions; a dry run is the plan alone.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from enum import StrEnum


class Fate(StrEnum):
    """What becomes of a version."""

    KEEP = "keep"
    SLIM = "slim"
    DROP = "drop"


@dataclass(frozen=True, slots=True)
class Policy:
    """What to keep. Everything is in optimizer steps, seconds or bytes; 0 or None keeps nothing by that rule."""

    last: int = 3  # newest resumable ones, whole
    best: int = 1  # highest scores, slim
    every_versions: int | None = 10  # every so many versions the first, slim
    every_steps: int | None = None  # the first of every so many steps, slim
    every_s: float | None = None  # the first of every so many seconds, slim
    hourly: int = 0  # the newest of each of the last so many hours that have any, slim
    daily: int = 0
    weekly: int = 0
    within_s: float | None = None  # all of the last so many seconds, whole
    budget_bytes: int | None = None  # for all versions together
    score: str = "control_gain"  # what best is measured by; higher is better


@dataclass(frozen=True, slots=True)
class Held:
    """What a plan knows of a version."""

    number: int
    step: int
    created_s: float  # since 1970
    size_bytes: int  # on disk now
    slim_bytes: int  # on disk once it is slim
    is_resumable: bool
    is_pinned: bool = False
    labels: tuple[str, ...] = ()
    score: float | None = None
    is_in_use: bool = False  # a training that runs went on from it


@dataclass(frozen=True, slots=True)
class Decision:
    """A version's fate, why, and what that frees."""

    held: Held
    fate: Fate
    reasons: tuple[str, ...]

    @property
    def frees_bytes(self) -> int:
        if self.fate is Fate.KEEP:
            return 0
        return self.held.size_bytes - (self.held.slim_bytes if self.fate is Fate.SLIM else 0)

    @property
    def left_bytes(self) -> int:
        return self.held.size_bytes - self.frees_bytes


def plan_prune(versions: Sequence[Held], policy: Policy, now_s: float) -> list[Decision]:
    """Decide for every version, oldest first. The newest resumable one always stays whole."""
    ordered = sorted(versions, key=lambda held: held.number)
    whole = _whole_reasons(ordered, policy, now_s)
    slim = _slim_reasons(ordered, policy)
    decisions = [_decide(held, whole.get(held.number, []), slim.get(held.number, [])) for held in ordered]
    return decisions if policy.budget_bytes is None else _within_budget(decisions, policy.budget_bytes)


def _decide(held: Held, whole: list[str], slim: list[str]) -> Decision:
    if whole:
        return Decision(held, Fate.KEEP, (*whole, *slim))
    if not slim:
        return Decision(held, Fate.DROP, ("no policy keeps it",))
    is_slim_already = held.size_bytes <= held.slim_bytes
    return Decision(held, Fate.KEEP if is_slim_already else Fate.SLIM, tuple(slim))


def _whole_reasons(ordered: Sequence[Held], policy: Policy, now_s: float) -> dict[int, list[str]]:
    found: dict[int, list[str]] = {}
    resumable = [held for held in ordered if held.is_resumable]
    if resumable:
        _note(found, resumable[-1:], "the newest that can be resumed")
    if policy.last:
        _note(found, resumable[-policy.last :], f"one of the last {policy.last}")
    _note(found, (held for held in ordered if held.is_pinned), "pinned")
    for held in ordered:
        if held.labels:
            _note(found, [held], f"labelled {', '.join(held.labels)}")
    _note(found, (held for held in ordered if held.is_in_use), "a running training went on from it")
    if policy.within_s is not None:
        since = now_s - policy.within_s
        _note(found, (held for held in ordered if held.created_s >= since), f"younger than {_span(policy.within_s)}")
    return found


def _slim_reasons(ordered: Sequence[Held], policy: Policy) -> dict[int, list[str]]:
    found: dict[int, list[str]] = {}
    scored = sorted((held for held in ordered if held.score is not None), key=lambda held: (held.score, held.number))
    if policy.best:
        _note(found, scored[-policy.best :], f"one of the best {policy.best} by {policy.score}")
    if policy.every_versions:
        _note(found, _firsts(ordered, "number", policy.every_versions), f"1 in {policy.every_versions}")
    if policy.every_steps:
        _note(found, _firsts(ordered, "step", policy.every_steps), f"the first of every {policy.every_steps:,} steps")
    if policy.every_s:
        _note(found, _firsts(ordered, "created_s", policy.every_s), f"the first of every {_span(policy.every_s)}")
    for name, count, stamp in (
        ("hour", policy.hourly, "%Y%j%H"),
        ("day", policy.daily, "%Y%j"),
        ("week", policy.weekly, "%G%V"),
    ):
        newest = {datetime.fromtimestamp(held.created_s, UTC).strftime(stamp): held for held in ordered}
        if count:
            _note(found, list(newest.values())[-count:], f"the newest of its {name}, one of {count}")
    return found


def _firsts(ordered: Iterable[Held], fact: str, width: float) -> list[Held]:
    """The first version of each bucket of this width."""
    firsts: dict[float, Held] = {}
    for held in ordered:
        firsts.setdefault(getattr(held, fact) // width, held)
    return list(firsts.values())


def _note(found: dict[int, list[str]], versions: Iterable[Held], reason: str) -> None:
    for held in versions:
        found.setdefault(held.number, []).append(reason)


def _within_budget(decisions: list[Decision], budget_bytes: int) -> list[Decision]:
    """First the oldest are slimmed, then dropped, until the rest fits; what must stay, stays all the same."""
    decided = list(decisions)
    newest = max((d.held.number for d in decided if d.held.is_resumable), default=None)
    for fate in (Fate.SLIM, Fate.DROP):
        for place, decision in enumerate(decided):
            held = decision.held
            if sum(d.left_bytes for d in decided) <= budget_bytes:
                return decided
            if held.number == newest or held.is_pinned or held.labels or held.is_in_use or decision.fate is Fate.DROP:
                continue
            shrunk = replace(decision, fate=fate, reasons=("over the budget",))
            if shrunk.left_bytes < decision.left_bytes:
                decided[place] = shrunk
    return decided


def _span(seconds: float) -> str:
    for unit, length in (("days", 86_400), ("hours", 3_600), ("minutes", 60)):
        if seconds >= length and seconds % length == 0:
            return f"{seconds / length:g} {unit}"
    return f"{seconds:g} seconds"
