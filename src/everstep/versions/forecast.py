"""What versions will take on disk: the policy played forward over the versions that are still to be made.

Pure arithmetic on what a plan knows of versions. Plays a bounded number of them; beyond, the growth of the last ones
goes on.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from everstep.versions.layout import TRAINING
from everstep.versions.retention import Decision, Fate, Held, Policy, plan_prune

STEP_S = 1.0  # what a step is taken to last as long as nobody knows
PLAYED = 300  # versions that are really played through ...
DECIDED = 20_000  # ... unless so many are kept that this many decisions come first


@dataclass(frozen=True, slots=True)
class Footprint:
    """A version's files with their sizes in bytes."""

    files: Mapping[str, int]

    @property
    def whole_bytes(self) -> int:
        return sum(self.files.values())

    @property
    def slim_bytes(self) -> int:
        """Without what only a resume needs."""
        return sum(size for path, size in self.files.items() if not path.startswith(f"{TRAINING}/"))


@dataclass(frozen=True, slots=True)
class Course:
    """What a run's settings say of the way ahead. A version is made every so many steps, seconds, or both; where
    neither is given, only whoever trains knows when, and nothing is told of them beforehand.
    """

    max_steps: int
    images_per_step: int = 1
    every_steps: int | None = None
    every_s: float | None = None
    policy: Policy | None = None  # of keeping versions; without one all of them stay whole

    @property
    def is_timeless(self) -> bool:
        """Whether the settings say nothing of when versions are made."""
        return self.every_steps is None and self.every_s is None


@dataclass(frozen=True, slots=True)
class Coming:
    """The versions that are still to be made, evenly spaced."""

    footprint: Footprint
    count: int | None  # None: nobody knows, they are made by the clock
    first_number: int
    first_step: int
    steps_apart: int
    seconds_apart: float


@dataclass(frozen=True)
class Forecast:
    """Bytes in versions now, and at the moment each coming one is there and no older one has gone yet."""

    now_bytes: int
    peaks_bytes: tuple[int, ...]
    count: int | None
    seconds_apart: float

    @property
    def next_two_bytes(self) -> int:
        """Room that has to be free for the next two versions, or the one that is left."""
        return max(self.peaks_bytes[:2], default=self.now_bytes) - self.now_bytes

    @property
    def peak_bytes(self) -> int:
        """The most that is ever there; where nobody knows how many come, after those that were played."""
        played = max((self.now_bytes, *self.peaks_bytes))
        beyond = 0 if self.count is None else self.count - len(self.peaks_bytes)
        return max(played, round(self._last_bytes + beyond * self.growth_bytes))

    @cached_property
    def growth_bytes(self) -> float:
        """By how much one more version makes it larger, in the long run."""
        half = len(self.peaks_bytes) // 2
        if half == 0:
            return 0.0
        return max(0.0, (self.peaks_bytes[-1] - self.peaks_bytes[-1 - half]) / half)

    @property
    def _last_bytes(self) -> int:
        return self.peaks_bytes[-1] if self.peaks_bytes else self.now_bytes

    def fills_at(self, free_bytes: int) -> int | None:
        """How many versions from now the disk is too full for, counted from 1; None if all that come find room."""
        room = self.now_bytes + free_bytes
        for place, peak in enumerate(self.peaks_bytes, start=1):
            if peak > room:
                return place
        if self.growth_bytes == 0:
            return None
        beyond = int((room - self._last_bytes) // self.growth_bytes) + 1
        place = len(self.peaks_bytes) + beyond
        return place if self.count is None or place <= self.count else None


def coming_versions(
    course: Course, footprint: Footprint, number: int, step: int, step_s: float | None, is_new: bool = False
) -> Coming:
    """The versions after this step, of which the first gets this number; a new run has one more, before its first step.

    Args:
        step_s: how long a step takes; None where nobody knows, and then a second is assumed.
    """
    pace_s = step_s or STEP_S
    spacings_s = [course.every_steps * pace_s if course.every_steps else None, course.every_s]
    apart_s = min((spacing for spacing in spacings_s if spacing is not None), default=0.0)
    return Coming(
        footprint=footprint,
        count=None if (count := _count(course, step, step_s)) is None else count + is_new,
        first_number=number,
        first_step=step,
        steps_apart=max(1, round(apart_s / pace_s)),
        seconds_apart=apart_s,
    )


def _count(course: Course, step: int, step_s: float | None) -> int | None:
    if course.is_timeless:
        return 0
    by_steps, by_time = None, None
    if course.every_steps is not None:
        by_steps = versions_to_come(step, course.max_steps, course.every_steps)
    if course.every_s is not None and step_s is not None:
        by_time = math.ceil(max(0, course.max_steps - step) * step_s / course.every_s)
    known = [count for count in (by_steps, by_time) if count is not None]
    return max(known, default=None)


def forecast(there: Sequence[Held], coming: Coming, policy: Policy | None, now_s: float) -> Forecast:
    """Play the policy forward from the versions that are there; without one, all versions stay whole."""
    held, peaks, decided = list(there), list[int](), 0
    for place in range(PLAYED if coming.count is None else min(PLAYED, coming.count)):
        if place >= 2 and decided > DECIDED:
            break
        made_s = now_s + place * coming.seconds_apart
        held.append(_made(coming, place, made_s))
        peaks.append(sum(version.size_bytes for version in held))
        if policy is not None:
            decided += len(held)
            held = [_after(decision) for decision in plan_prune(held, policy, made_s) if decision.fate is not Fate.DROP]
    return Forecast(sum(version.size_bytes for version in there), tuple(peaks), coming.count, coming.seconds_apart)


def _made(coming: Coming, place: int, made_s: float) -> Held:
    return Held(
        number=coming.first_number + place,
        step=coming.first_step + place * coming.steps_apart,
        created_s=made_s,
        size_bytes=coming.footprint.whole_bytes,
        slim_bytes=coming.footprint.slim_bytes,
        is_resumable=True,
    )


def _after(decision: Decision) -> Held:
    """The version once its fate was carried out."""
    if decision.fate is Fate.KEEP:
        return decision.held
    return replace(decision.held, size_bytes=decision.held.slim_bytes, is_resumable=False)


def versions_to_come(step: int, max_steps: int, every_steps: int) -> int:
    """After this step: one at every multiple, and one at the end."""
    is_last_extra = max_steps % every_steps != 0 and max_steps > step
    return max(0, max_steps // every_steps - step // every_steps) + is_last_extra
