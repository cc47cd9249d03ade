"""How long a training would take, and whether its loader keeps up: arithmetic on what was measured.

Units: seconds, images a second. Never imports torch.
"""

import math
from dataclasses import dataclass

from everstep.config.schema import Config
from everstep.evaluation.allowance import START_S
from everstep.keeping.intervals import Interval
from everstep.launch.expected import expected_course, expected_interval
from everstep.launch.plan import Plan
from everstep.train.measured import Encoded, Fed, Measured, Steps
from everstep.versions.forecast import versions_to_come


@dataclass(frozen=True, slots=True)
class Feeding:
    """The loader beside the step.

    Args:
        wanted: images a second that steps take where pictures are at hand.
        given: that the loader gives with the workers that are set; None where it was not measured.
        enough: the fewest workers that give what is wanted; None where no number does.
        best: the number that gives most.
    """

    wanted: float
    given: float | None
    workers: int
    enough: Fed | None
    best: Fed | None

    @property
    def is_slow(self) -> bool:
        """Whether steps wait for pictures."""
        return self.given is not None and self.given < self.wanted


@dataclass(frozen=True, slots=True)
class Finish:
    """What the time goes to.

    Args:
        steps_s: as long as each takes, waiting for pictures included.
        snapshots_s: at most, by keeper.overhead.
        is_waiting: whether training waits until versions are on the disk.
        is_behind: whether the disk needs longer for a version than training does from one to the next.
        interval: of versions, where a training finds it by itself.
    """

    step_s: float
    start_s: float
    steps_s: float
    versions: int
    evaluations_s: float
    writing_s: float
    snapshots_s: float
    is_waiting: bool
    is_behind: bool
    interval: Interval | None = None

    @property
    def seconds(self) -> float:
        return self.start_s + self.steps_s + self.evaluations_s + self.writing_s + self.snapshots_s


@dataclass(frozen=True, slots=True)
class CacheCost:
    """Of every picture and every prompt encoded once.

    Args:
        pictures: each also mirrored, where that is trained on.
        share_of_step: that encoding takes now, 0..1.
    """

    pictures: int
    size_bytes: int
    seconds: float
    share_of_step: float


def feeding(config: Config, found: Measured) -> Feeding | None:
    if found.steps is None:
        return None
    wanted = config.optim.images_per_step / _each_s(found.steps)
    given = next((fed.images_per_second for fed in found.fed if fed.workers == config.data.workers), None)
    enough = [fed for fed in found.fed if fed.images_per_second >= wanted]
    return Feeding(
        wanted=wanted,
        given=given,
        workers=config.data.workers,
        enough=min(enough, key=lambda fed: fed.workers, default=None),
        best=max(found.fed, key=lambda fed: fed.images_per_second, default=None),
    )


def finish(config: Config, plan: Plan, found: Measured) -> Finish | None:
    """None where no step was measured."""
    if found.steps is None:
        return None
    step_s = _step_s(config, found)
    steps_s = plan.steps_left * step_s
    versions = _versions(config, plan, found, step_s, steps_s)
    written_s = 0.0 if found.committed is None else found.committed.seconds
    is_waiting = plan.slots is None or config.keeper.snapshots == "off"
    if is_waiting or found.committed is None:
        writing_s = versions * written_s
    else:  # the first and the last are waited for
        waited = min(2 if plan.goes_on_from is None else 1, versions)
        writing_s = waited * written_s + (versions - waited) * found.committed.copy_s
    return Finish(
        step_s=step_s,
        start_s=0.0 if found.built is None else found.built.seconds,
        steps_s=steps_s,
        versions=versions,
        evaluations_s=_evaluations_s(config, versions, steps_s, found),
        writing_s=writing_s,
        snapshots_s=0.0 if is_waiting else config.keeper.overhead * steps_s,
        is_waiting=is_waiting,
        interval=expected_interval(config, _version_bytes(plan, found), found),
        is_behind=not is_waiting and versions > 2 and written_s > steps_s / (versions - 1),
    )


def cache_cost(config: Config, plan: Plan, prompts: int, encoded: Encoded, steps: Steps) -> CacheCost:
    """
    Args:
        prompts: different ones, the empty one included.
    """
    pictures = (plan.training_pairs + plan.held_out_pairs) * (2 if config.data.flip_probability > 0 else 1)
    per_step_s = config.optim.images_per_step * (encoded.picture_s + encoded.prompt_s)
    return CacheCost(
        pictures=pictures,
        size_bytes=pictures * encoded.picture_bytes + prompts * encoded.prompt_bytes,
        seconds=pictures * encoded.picture_s + prompts * encoded.prompt_s,
        share_of_step=min(1.0, per_step_s / _each_s(steps)),
    )


def _each_s(steps: Steps) -> float:
    return steps.each_s or steps.first_s


def _step_s(config: Config, found: Measured) -> float:
    """With what it waits for pictures: side by side with workers, one after the other without."""
    assert found.steps is not None
    each_s, fed = _each_s(found.steps), feeding(config, found)
    if fed is None or not fed.given:
        return each_s
    loading_s = config.optim.images_per_step / fed.given
    return each_s + loading_s if config.data.workers == 0 else max(each_s, loading_s)


def _version_bytes(plan: Plan, found: Measured) -> int:
    if found.committed is not None:
        return found.committed.version_bytes
    return 0 if plan.space is None else plan.space.footprint.whole_bytes


def _versions(config: Config, plan: Plan, found: Measured, step_s: float, steps_s: float) -> int:
    """Still to come; those that the clock decides on as well, now that a step's time is known."""
    way = expected_course(config, _version_bytes(plan, found), found)
    is_assumed = plan.versions is None or config.versions.every.is_auto  # what was told of them beforehand
    counts = [0 if is_assumed or plan.versions is None else plan.versions]
    is_new = plan.goes_on_from is None
    if plan.versions is None and way.every_steps is not None:
        done = way.max_steps - plan.steps_left
        counts.append(versions_to_come(done, way.max_steps, way.every_steps) + is_new)
    if way.every_s is not None:
        counts.append(math.ceil(steps_s / max(way.every_s, step_s)) + is_new)
    return max(counts)


def _evaluations_s(config: Config, versions: int, steps_s: float, found: Measured) -> float:
    """Control gain within its share of the training, where that counts; the contact sheet whatever it takes."""
    evaluated = found.evaluated
    if evaluated is None:
        return 0.0
    gain_s = versions * (evaluated.gain_s or 0.0)
    if config.scoring.patience is None:
        gain_s = min(gain_s, START_S + config.scoring.overhead * steps_s)
    return gain_s + versions * (evaluated.pictures_s or 0.0)
