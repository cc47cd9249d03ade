"""Did it learn? From what was measured of a line of versions to one sentence. Pure arithmetic; imports no numpy.

Two questions, two words. *Obeyed*: does the true condition do better than another pair's? *Benefit*: does the network
do better than the base alone? The derivation of both is in docs/metrics.md.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum

SURE = 0.001  # a p-value has to be below it, in two versions running
FEWEST_PAIRS = 10  # 2 ** -10 is the smallest p-value that so many pairs can give
OBEYED_GAIN = 0.02  # what the lower bound of a gain that has no p-value has to exceed: measured before there were any
FULL_GAIN = 0.10  # for showing the jump, gains above count as this: how far it rises later must not move it
NORMAL_STEPS, NORMAL_BATCH = 6_000, 4  # Stable Diffusion's jump: Zhang et al. 2023, section 3.3; their tutorial's batch
TRUE, SEEN = "true", "seen"  # held-out pairs and training pairs, each under its own condition
# version, other version, TRUE or SEEN -> p-value of "the first has the larger errors"; None if they do not compare
PairedTest = Callable[[int, int, str], float | None]


class Control(StrEnum):
    """Whether the condition is obeyed, and to what end."""

    UNKNOWN = "unknown"
    NOT_YET = "not yet"
    HEARS = "hears"  # obeyed, but the pictures are worse than the base's
    OBEYED = "obeyed"
    FALLING = "falling"
    LOST = "lost"  # obeyed before; the newest version does not agree


@dataclass(frozen=True, slots=True)
class Gain:
    """What one measurement found. Gains and benefits are relative: 0.25 means that a quarter of the error is gone.

    value: control gain, the true condition against another pair's; low, high: its 95 % interval over pairs; by_band:
    the gain in each band of log-SNR, the least noisy first.
    p: of "the true condition does no better", one-sided; None in records of before there was one.
    near: the gain near the lines of the conditions; None where they are no lines.
    benefit: the true condition against the base alone, with its interval; seen_benefit: the same on training pairs.
    design: digest of the examples; what has the same can be compared example by example.
    over_blank: in old records, the gain over a blank condition.
    """

    value: float
    low: float
    high: float
    by_band: tuple[float, ...]
    examples: int
    pairs: int
    p: float | None = None
    near: float | None = None
    benefit: float | None = None
    benefit_low: float | None = None
    benefit_high: float | None = None
    benefit_by_band: tuple[float, ...] | None = None
    seen_benefit: float | None = None
    design: str | None = None
    over_blank: float | None = None

    @property
    def is_clear(self) -> bool:
        """Whether this measurement alone says that the condition is heard."""
        return self.low > OBEYED_GAIN if self.p is None else self.p < SURE


@dataclass(frozen=True, slots=True)
class Point:
    """What was measured of one version."""

    version: int
    step: int
    gain: Gain


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the line of versions says.

    since_step: of the first version of those that are agreed on. before, after: the last version before the jump and
    the first after it; None where there was none, or none that was seen. best: the version with the highest benefit.
    """

    state: Control
    sentence: str
    gain: float | None = None
    benefit: float | None = None
    since_step: int | None = None
    before: int | None = None
    after: int | None = None
    best: int | None = None


def line_of(points: Sequence[Point]) -> list[Point]:
    """The points that lead to the newest version: where a run went back, what came after that step falls away."""
    line: list[Point] = []
    for point in sorted(points, key=lambda point: point.version):
        while line and line[-1].step >= point.step:
            line.pop()
        line.append(point)
    return line


def verdict(points: Sequence[Point], images_per_step: int, paired: PairedTest | None = None) -> Verdict:
    """Judge a line of versions by its newest point and by how it came there.

    Args:
        paired: compares two versions example by example; left out, falling is not looked for.
    """
    line = line_of(points)
    if not line:
        return Verdict(Control.UNKNOWN, "not measured yet")
    since, holds = agreed(line)
    best, told = best_of(line), line[-1].gain

    def found(state: Control, sentence: str, after: int | None = None) -> Verdict:
        before = line[after - 1] if after else None
        return Verdict(
            state,
            sentence,
            told.value,
            told.benefit,
            None if since is None else line[since].step,
            # That a network adds nothing before its first step is no level that it could have jumped from.
            before.version if before is not None and before.step else None,
            None if after is None else line[after].version,
            best.version,
        )

    if since is None and told.p is not None and told.pairs < FEWEST_PAIRS:
        return found(Control.UNKNOWN, _too_few(told))
    if since is None:
        return found(Control.NOT_YET, _not_yet(line[-1], images_per_step) + _but_worse(told))
    jumped = _jump(line, since)
    if not (holds and told.is_clear):
        return found(Control.LOST, _lost(line, since), jumped)
    fall = falling_since(line[since:], paired)
    if fall is not None:
        return found(Control.FALLING, _falling(line[since:], fall, paired), jumped)
    if told.benefit_high is not None and told.benefit_high < 0:
        return found(Control.HEARS, _hears(line, since), jumped)
    return found(Control.OBEYED, f"obeyed {_since(line, since)}, gain {told.value:z.3f}{_benefit(told)}", jumped)


def agreed(line: Sequence[Point]) -> tuple[int | None, bool]:
    """Index of the first of two versions running that are clear, and whether that still holds: what two running deny is
    over. Of several such times the latest; None where there was none.
    """
    since, holds = None, False
    for place in range(1, len(line)):
        before, this = line[place - 1].gain.is_clear, line[place].gain.is_clear
        if before and this and not holds:
            since, holds = place - 1, True
        elif not before and not this:
            holds = False
    return since, holds


def best_of(line: Sequence[Point]) -> Point:
    """The version with the smallest error under the true condition: the highest benefit, on the newest's examples."""
    comparable = [point for point in line if point.gain.design == line[-1].gain.design]
    return max(comparable, key=lambda point: point.gain.value if point.gain.benefit is None else point.gain.benefit)


def falling_since(line: Sequence[Point], paired: PairedTest | None) -> Point | None:
    """The first of at least two last versions whose errors are for sure larger than those of the best one.

    Args:
        line: since the condition is obeyed. Before, a version may be better in that it adds nothing to the base yet.
    """
    best = best_of(line)
    below: list[Point] = []
    for point in reversed(line):
        p = None if paired is None or point is best else paired(point.version, best.version, TRUE)
        if p is None or p >= SURE:
            break
        below.append(point)
    return below[-1] if len(below) > 1 else None


def is_worn_out(points: Sequence[Point], patience: int) -> bool:
    """Whether so many versions since the best one brought no higher benefit, once the condition is obeyed."""
    line = line_of(points)
    since, _ = agreed(line)
    if since is None:
        return False
    return len(line) - 1 - line.index(best_of(line[since:])) >= patience


def _jump(line: Sequence[Point], since: int) -> int:
    """Index of the first version of the upper level, for showing: the split into two levels with the least squared
    error, not before the condition was heard.
    """
    clear = [place for place, point in enumerate(line) if place >= since and point.gain.is_clear]
    values = [min(max(point.gain.value, 0.0), FULL_GAIN) for point in line[: clear[-1] + 1]]
    errors = _two_levels(values)
    split = min(range(len(values)), key=lambda place: round(errors[place], 9))
    return next(place for place in clear if place >= split)


# --- in words ----------------------------------------------------------------------------------------------


def _not_yet(last: Point, images_per_step: int) -> str:
    gain = f"gain {last.gain.value:z.3f}"
    if last.gain.is_clear:
        return f"perhaps obeyed ({gain}), if the next version that is measured agrees"
    if last.step * images_per_step < NORMAL_STEPS * NORMAL_BATCH:
        return f"not yet obeyed ({gain}, normal before about {NORMAL_STEPS:,} steps at batch {NORMAL_BATCH})"
    return f"not yet obeyed ({gain})"


def _too_few(told: Gain) -> str:
    pairs = f"{told.pairs} held-out pair{'s' if told.pairs > 1 else ''}"
    return f"gain {told.value:z.3f} on {pairs}, too few to tell whether it is obeyed: {FEWEST_PAIRS} can"


def _hears(line: Sequence[Point], since: int) -> str:
    told = line[-1].gain
    heard = f"hears the condition {_since(line, since)}, gain {told.value:z.3f}"
    return f"{heard}, but draws worse than the base yet (benefit {_in_parts(told)})"


def _lost(line: Sequence[Point], since: int) -> str:
    last = line[-1].gain
    now = "perhaps obeyed again" if last.is_clear else "not obeyed any more"
    return f"{now} (gain {last.value:z.3f}), was {_since(line, since)}" + _but_worse(last)


def _falling(line: Sequence[Point], fall: Point, paired: PairedTest | None) -> str:
    last, best = line[-1], best_of(line)
    held_out = f"benefit {last.gain.benefit:z.3f}, version_{best.version} had {best.gain.benefit:z.3f}"
    learned = None if paired is None else paired(best.version, last.version, SEEN)
    if learned is not None and learned < SURE:
        return (
            f"over-fitting since version_{fall.version}: draws the pairs it is trained on better "
            f"(benefit {last.gain.seen_benefit:z.3f}), others worse ({held_out})"
        )
    return f"falling since version_{fall.version} ({held_out})"


def _since(line: Sequence[Point], since: int) -> str:
    first = line[since]
    if since and line[since - 1].step:
        return f"since step {first.step:,} (version_{first.version})"
    if first.step:
        return f"by step {first.step:,} (version_{first.version}, the first measured after step 0)"
    return "from the first version on"


def _benefit(told: Gain) -> str:
    if told.benefit is None or told.benefit_low is None:
        return ""
    if told.benefit_low > 0:
        return f", and draws better than the base (benefit {told.benefit:z.3f})"
    return f", but draws no better than the base yet (benefit {_in_parts(told)})"


def _in_parts(told: Gain) -> str:
    """The number, and, where they differ, that layout, which much noise decides, is better, but detail is not."""
    bands = told.benefit_by_band or ()
    half = len(bands) // 2
    differ = bool(bands) and max(bands[:half]) < 0 < min(bands[half:])
    return f"{told.benefit:z.3f}" + (": better in layout, worse in detail" if differ else "")


def _but_worse(told: Gain) -> str:
    if told.benefit_high is None or told.benefit_high >= 0:
        return ""
    return f"; draws worse than the base (benefit {_in_parts(told)})"


# --- arithmetic --------------------------------------------------------------------------------------------


def _two_levels(values: Sequence[float]) -> list[float]:
    """For each place, the squared error of one level up to it and one from there on."""
    before, after = _squared_errors(values), _squared_errors(values[::-1])[::-1]
    return [first + second for first, second in zip(before, after, strict=True)]


def _squared_errors(values: Sequence[float]) -> list[float]:
    """Of none, of the first, of the first two and so on, against their mean. In one pass: Welford 1962."""
    errors, mean, error = [0.0], 0.0, 0.0
    for number, value in enumerate(values, start=1):
        away = value - mean
        mean += away / number
        error += away * (value - mean)
        errors.append(error)
    return errors
