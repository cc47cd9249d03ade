"""Which versions stay: a plan with a reason for each, a pure function of what is known of the versions and of the time.

Policies add up: a version stays if any of them keeps it. Some keep it as it is, some keep it slim, without what only a
resume needs. Carrying a plan out and planning again changes nothing more.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from enum import StrEnum

OVER_BUDGET = "over the budget"
AWAITED = "not mirrored yet"


class Fate(StrEnum):
    """What becomes of a version."""

    KEEP = "keep"
    SLIM = "slim"
    DROP = "drop"


@dataclass(frozen=True, slots=True)
class Policy:
    """What to keep. Amounts are in optimizer steps, seconds or bytes; 0 or None keeps nothing by that rule."""

    everything: bool = False  # all of them as they are, whatever else is said here
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
    score: str = "benefit"  # what best is measured by; higher is better, with a minus in front lower
    jump: bool = True  # marked versions as they are; a budget may make them slim

    def rank(self, scores: Mapping[str, float]) -> float | None:
        """A version's place by the score of this policy, higher is better; None where it has no such score."""
        value = scores.get(self.score.removeprefix("-"))
        return -value if value is not None and self.score.startswith("-") else value


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
    mark: str = ""  # "just before the jump"
    holds: tuple[str, ...] = ()  # why nothing may be done to it now: a training runs from it, it is read, it is damaged
    is_awaited: bool = False  # a mirror lacks it: it stays whole, unless the budget has no room for it
    is_damaged: bool = False  # then it is no version to rely on, and evidence

    @property
    def is_untouchable(self) -> bool:
        """Whatever the policies and the budget say."""
        return self.is_pinned or bool(self.labels or self.holds) or self.is_damaged


@dataclass(frozen=True, slots=True)
class Decision:
    """A version's fate, why, and what that frees."""

    held: Held
    fate: Fate
    reasons: tuple[str, ...]
    is_last_to_go: bool = False  # under a budget, after all others

    @property
    def frees_bytes(self) -> int:
        if self.fate is Fate.KEEP:
            return 0
        return self.held.size_bytes - (self.held.slim_bytes if self.fate is Fate.SLIM else 0)

    @property
    def left_bytes(self) -> int:
        return self.held.size_bytes - self.frees_bytes

    def carried_out(self) -> Held | None:
        """The version as it is afterwards; None where it is gone."""
        if self.fate is Fate.SLIM:
            return replace(self.held, size_bytes=self.held.slim_bytes, is_resumable=False)
        return self.held if self.fate is Fate.KEEP else None


def plan_prune(versions: Sequence[Held], policy: Policy, now_s: float) -> list[Decision]:
    """Decide for every version, oldest first.

    The newest resumable one stays as it is, and the newest of all stays. What is damaged is left alone, and counts for
    nothing.
    """
    ordered = sorted(versions, key=lambda held: held.number)
    decided = {decision.held.number: decision for decision in _plan(ordered, policy, now_s)}
    while True:
        # What was made slim counts for less afterwards; so the rest is decided again, until nothing more would go.
        left = [held for decision in decided.values() if (held := decision.carried_out()) is not None]
        again = [decision for decision in _plan(left, policy, now_s) if decision.fate is not Fate.KEEP]
        if not again:
            return list(decided.values())
        for decision in again:
            number = decision.held.number
            decided[number] = replace(decision, held=decided[number].held)


def _plan(ordered: Sequence[Held], policy: Policy, now_s: float) -> list[Decision]:
    sound = [held for held in ordered if not held.is_damaged]
    whole, slim = _whole_reasons(ordered, sound, policy, now_s), _slim_reasons(sound, policy)
    best = {held.number for held in _best(sound, policy)}
    decisions = [
        _decide(held, whole.get(held.number, []), slim.get(held.number, []), held.number in best) for held in ordered
    ]
    return (
        decisions
        if policy.budget_bytes is None or policy.everything
        else _within_budget(decisions, policy, policy.budget_bytes)
    )


def _decide(held: Held, whole: list[str], slim: list[str], is_best: bool) -> Decision:
    if whole:
        return Decision(held, Fate.KEEP, (*whole, *slim), is_best)
    if not slim:
        return Decision(held, Fate.DROP, ("no policy keeps it",))
    is_slim_already = held.size_bytes <= held.slim_bytes
    return Decision(held, Fate.KEEP if is_slim_already else Fate.SLIM, tuple(slim), is_best)


def _whole_reasons(
    ordered: Sequence[Held], sound: Sequence[Held], policy: Policy, now_s: float
) -> dict[int, list[str]]:
    found: dict[int, list[str]] = {}
    if policy.everything:
        _note(found, sound, "everything is kept")
    resumable = [held for held in sound if held.is_resumable]
    _note(found, resumable[-1:], "the newest that can be resumed")
    if policy.last:
        _note(found, resumable[-policy.last :], f"one of the last {policy.last}")
    if policy.within_s is not None:
        since, reason = now_s - policy.within_s, f"younger than {_span(policy.within_s)}"
        _note(found, (held for held in sound if held.created_s >= since), reason)
    for held in ordered:
        reasons = [*(["pinned"] if held.is_pinned else []), *held.holds]
        reasons += [f"labelled {', '.join(held.labels)}"] if held.labels else []
        reasons += [held.mark] if held.mark and policy.jump else []
        reasons += [AWAITED] if held.is_awaited else []
        reasons += ["damaged; it is left to be looked at"] if held.is_damaged else []
        for reason in reasons:
            _note(found, [held], reason)
    return found


def _slim_reasons(sound: Sequence[Held], policy: Policy) -> dict[int, list[str]]:
    found: dict[int, list[str]] = {}
    _note(found, sound[-1:], "the newest of all")  # so that its number is never used again
    if policy.last:
        # Those that are slim already, too: what a budget has made slim must not go at the next prune.
        _note(
            found, (held for held in sound[-policy.last :] if not held.is_resumable), f"one of the last {policy.last}"
        )
    _note(found, _best(sound, policy), f"one of the best {policy.best} by {policy.score}")
    if policy.every_versions:
        _note(found, _firsts(sound, "number", policy.every_versions), f"1 in {policy.every_versions}")
    if policy.every_steps:
        _note(found, _firsts(sound, "step", policy.every_steps), f"the first of every {policy.every_steps:,} steps")
    if policy.every_s:
        _note(found, _firsts(sound, "created_s", policy.every_s), f"the first of every {_span(policy.every_s)}")
    for name, count, stamp in (
        ("hour", policy.hourly, "%Y%j%H"),
        ("day", policy.daily, "%Y%j"),
        ("week", policy.weekly, "%G%V"),
    ):
        if count:
            _note(found, _newest_of_each(sound, stamp)[-count:], f"the newest of its {name}, one of {count}")
    return found


def _best(sound: Sequence[Held], policy: Policy) -> list[Held]:
    """Highest scores; of equal ones the newer."""
    scored = [held for held in sound if held.score is not None and held.score == held.score]
    ranked = sorted(scored, key=lambda held: (held.score, held.number))
    return ranked[-policy.best :] if policy.best else []


def _firsts(ordered: Iterable[Held], fact: str, width: float) -> list[Held]:
    """The first version of each bucket of this width."""
    firsts: dict[float, Held] = {}
    for held in ordered:
        firsts.setdefault(getattr(held, fact) // width, held)
    return list(firsts.values())


def _newest_of_each(ordered: Iterable[Held], stamp: str) -> list[Held]:
    """The newest version of each hour, day or week in UTC, oldest first."""
    newest = {datetime.fromtimestamp(held.created_s, UTC).strftime(stamp): held for held in ordered}
    return sorted(newest.values(), key=lambda held: held.number)


def _note(found: dict[int, list[str]], versions: Iterable[Held], reason: str) -> None:
    for held in versions:
        found.setdefault(held.number, []).append(reason)


def _within_budget(decisions: list[Decision], policy: Policy, budget_bytes: int) -> list[Decision]:
    """First the oldest are slimmed, then dropped, the best last and what is not mirrored before them, until the rest
    fits; what must stay, stays.
    """
    decided, total = list(decisions), sum(decision.left_bytes for decision in decisions)
    sound = [decision.held for decision in decided if not decision.held.is_damaged]
    newest = max((held.number for held in sound if held.is_resumable), default=None)
    last = max((held.number for held in sound), default=None)

    def may_slim(held: Held) -> bool:
        return held.number != newest and not held.is_untouchable

    def may_drop(held: Held) -> bool:
        return may_slim(held) and held.number != last and not (held.mark and policy.jump)

    for fate, may_go in ((Fate.SLIM, may_slim), (Fate.DROP, may_drop)):
        for place in sorted(range(len(decided)), key=lambda place: (_turn(decided[place]), place)):
            decision = decided[place]
            if total <= budget_bytes:
                return decided
            if decision.fate is Fate.DROP or not may_go(decision.held):
                continue
            shrunk = replace(decision, fate=fate, reasons=(OVER_BUDGET,))
            if shrunk.left_bytes < decision.left_bytes:
                decided[place], total = shrunk, total - decision.left_bytes + shrunk.left_bytes
    return decided


def _turn(decision: Decision) -> tuple[bool, bool]:
    return decision.is_last_to_go, decision.held.is_awaited


def _span(seconds: float) -> str:
    for unit, length in (("days", 86_400), ("hours", 3_600), ("minutes", 60)):
        if seconds >= length and seconds % length == 0:
            return f"{seconds / length:g} {unit}"
    return f"{seconds:g} seconds"
