"""Did it learn? From the control gains of a line of versions to one sentence. Pure arithmetic; never imports torch.

The jump is found as a change-point: the split of the line into two levels that leaves the least squared error.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

OBEYED_GAIN = 0.02  # what a gain's lower bound has to exceed before anything is called obeyed
FULL_GAIN = 0.10  # gains above count as this for finding the jump: how far it rises later must not move it
NORMAL_STEPS, NORMAL_BATCH = 6_000, 4  # Stable Diffusion's jump: Zhang et al. 2023, section 3.3; their tutorial's batch


class Control(StrEnum):
    """Whether the condition is obeyed."""

    UNKNOWN = "unknown"
    NOT_YET = "not yet"
    OBEYED = "obeyed"
    FALLING = "falling"


@dataclass(frozen=True, slots=True)
class Gain:
    """What one measurement found. All gains are relative: 0.25 means that a quarter of the error is gone.

    low, high: 95 % interval over pairs. by_band: the gain in each band of timesteps, the least noisy first.
    over_blank: the same measure against a blank condition instead of another pair's.
    """

    value: float
    low: float
    high: float
    by_band: tuple[float, ...]
    over_blank: float
    examples: int
    pairs: int


@dataclass(frozen=True, slots=True)
class Point:
    """The gain of one version, with its 95 % interval."""

    version: int
    step: int
    gain: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the line of versions says.

    before, after: the last version before the jump and the first after it; None where there was none.
    best: the version with the highest gain.
    """

    state: Control
    sentence: str
    gain: float | None = None
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


def verdict(points: Sequence[Point], images_per_step: int) -> Verdict:
    """Judge a line of versions by its newest point and by how it came there."""
    line = line_of(points)
    if not line:
        return Verdict(Control.UNKNOWN, "not measured yet")
    last, best = line[-1], max(line, key=lambda point: point.gain)
    found = jump(line)
    if found is None:
        return Verdict(Control.NOT_YET, _not_yet(last, images_per_step), last.gain, best=best.version)
    after, before = line[found], line[found - 1].version if found else None
    fall = falling_since(line[found:])
    if fall is not None:
        sentence = (
            f"falling since version_{fall.version} (gain {last.gain:z.3f}, version_{best.version} had {best.gain:z.3f})"
        )
        return Verdict(Control.FALLING, sentence, last.gain, fall.step, before, after.version, best.version)
    sentence = f"obeyed {_since(after, bool(found))}, gain {last.gain:z.3f}"
    return Verdict(Control.OBEYED, sentence, last.gain, after.step, before, after.version, best.version)


def jump(line: Sequence[Point]) -> int | None:
    """Index of the first version of the upper level, or None where no version's gain exceeds OBEYED_GAIN for sure.

    Where the last versions have fallen back, the line counts up to its last clear point.
    """
    clear = [place for place, point in enumerate(line) if point.low > OBEYED_GAIN]
    if not clear:
        return None
    values = [min(max(point.gain, 0.0), FULL_GAIN) for point in line[: clear[-1] + 1]]
    split = min(range(len(values)), key=lambda place: round(_two_levels(values, place), 9))
    return next(place for place in clear if place >= split)


def falling_since(line: Sequence[Point]) -> Point | None:
    """The first of at least two last versions whose gains are for sure below the best one."""
    best = max(line, key=lambda point: point.gain)
    below: list[Point] = []
    for point in reversed(line):
        if point.high >= best.low:
            break
        below.append(point)
    return below[-1] if len(below) > 1 else None


def is_worn_out(points: Sequence[Point], patience: int) -> bool:
    """Whether so many versions since the best one brought no higher gain, once the condition is obeyed."""
    line = line_of(points)
    if not line or jump(line) is None:
        return False
    best = max(range(len(line)), key=lambda place: line[place].gain)
    return len(line) - 1 - best >= patience


def _not_yet(last: Point, images_per_step: int) -> str:
    said = f"not yet obeyed (gain {last.gain:z.3f}"
    if last.step * images_per_step < NORMAL_STEPS * NORMAL_BATCH:
        said += f", normal before about {NORMAL_STEPS:,} steps at batch {NORMAL_BATCH}"
    return said + ")"


def _since(after: Point, has_one_before: bool) -> str:
    if has_one_before:
        return f"since step {after.step:,} (version_{after.version})"
    if after.step:
        return f"by step {after.step:,} (version_{after.version}, the first that was measured)"
    return "from the first version on"


def _two_levels(values: Sequence[float], place: int) -> float:
    """Squared error of one level up to a place and one from there on."""
    return _squared_error(values[:place]) + _squared_error(values[place:])


def _squared_error(values: Sequence[float]) -> float:
    mean = sum(values) / len(values) if values else 0.0
    return sum((value - mean) ** 2 for value in values)
