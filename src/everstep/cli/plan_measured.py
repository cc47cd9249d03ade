"""What `everstep plan` measured, in words and as JSON."""

import resource
from dataclasses import asdict
from typing import Any

from everstep.config.schema import Config
from everstep.launch.finishing import CacheCost, Feeding, Finish, cache_cost, feeding, finish
from everstep.launch.plan import Opened, Plan
from everstep.launch.switches import Switch, short_of, switches
from everstep.train.measured import Built, Committed, Evaluated, Measured
from everstep.units import duration, size

NAMES = {
    "start": "putting it together",
    "step": "a step",
    "evaluation": "an evaluation",
    "version": "writing a version",
}
FINE_S = 10.0  # below, tenths of a second are told


class Told:
    """A plan with what was measured of it; without anything measured, what memory says of it all the same."""

    def __init__(self, plan: Plan, opened: Opened, found: Measured | None) -> None:
        self.plan, self.opened, self.found = plan, opened, Measured() if found is None else found
        self.config: Config = opened.inputs.config
        self.feeding, self.finish = feeding(self.config, self.found), finish(self.config, plan, self.found)
        self.switches: list[Switch] = [] if self.fits_memory is not False else self._switches()

    @property
    def room_bytes(self) -> int | None:
        """What there is for the training: of the GPU where it computes on one."""
        built = self.found.built
        if built is not None and built.room_bytes is not None:
            return built.room_bytes
        limits = [resource.getrlimit(limit)[0] for limit in (resource.RLIMIT_AS, resource.RLIMIT_DATA)]
        known = [limit for limit in limits if limit != resource.RLIM_INFINITY]
        known += [] if self.plan.available_bytes is None else [self.plan.available_bytes]
        return min(known, default=None)

    @property
    def peak_bytes(self) -> int:
        """The most that anything took."""
        return max(self.found.peaks_bytes.values(), default=0)

    @property
    def fits_memory(self) -> bool | None:
        """None where nothing is known of it."""
        if self.found.is_out_of_memory or self.plan.lacking_bytes:
            return False
        if self.room_bytes is None or not (self.found.peaks_bytes or self.plan.memory):
            return None
        return self.peak_bytes <= self.room_bytes

    @property
    def runs(self) -> bool:
        """Whether nothing is known to be in its way."""
        is_full = self.plan.space is not None and not self.plan.space.fits
        return not is_full and self.fits_memory is not False and self.found.failed is None

    def _switches(self) -> list[Switch]:
        room, opened = self.room_bytes, self.opened
        if room is None:
            return []
        of = self.config, opened.inputs.base, opened.start, room
        measured = short_of(*of) if self.found.is_out_of_memory else self.peak_bytes or None
        return switches(*of, measured)

    def cache(self) -> CacheCost | None:
        """What encoding everything once would take."""
        if self.found.encoded is None or self.found.steps is None:
            return None
        captions = {listed.caption for listed in self.opened.inputs.source.captioned}
        prompts = (len(captions) or self.plan.training_pairs + self.plan.held_out_pairs) + 1
        return cache_cost(self.config, self.plan, prompts, self.found.encoded, self.found.steps)


# --- in words ----------------------------------------------------------------------------------------------


def facts(told: Told) -> dict[str, str]:
    """Names and sentences, as far as the measuring came."""
    found, shown = told.found, dict[str, str]()
    if found.built is not None:
        shown["measured"] = _measured(found.built, found)
        shown["peak"] = _peak(told)
    if told.finish is not None:
        shown["pace"] = f"{_seconds(told.finish.step_s)} a step, {_rate(_images_per_second(told))} images/s"
    if found.committed is not None:
        shown["version"] = _version(told.plan, found.committed)
    if told.finish is not None and told.finish.interval is not None and found.committed is not None:
        shown["interval"] = f"versions about {told.finish.interval.sentence}"
    if found.evaluated is not None:
        shown["scores"] = _scores(found.evaluated)
    if told.feeding is not None and told.feeding.given is not None:
        shown["loader"] = loader_sentence(told.feeding)
    if told.finish is not None:
        shown["time"] = _time(told.finish, told.plan)
    if (cache := told.cache()) is not None:
        shown["cache"] = _cache(cache, told.plan.steps_left * told.plan.images_per_step)
    if found.left_out:
        shown["left out"] = "; ".join(found.left_out)
    if found.failed is not None:
        shown["failed"] = _failed(found)
    if told.fits_memory is False:
        shown["fits with"] = _fitting(told)
    return shown


def _measured(built: Built, found: Measured) -> str:
    done = [] if found.steps is None else [f"{1 + found.steps.counted} steps"]
    done += [] if found.evaluated is None else ["one evaluation"]
    done += [] if found.committed is None else ["one version"]
    what = f"{', '.join(done)}; " if done else ""
    start = f"{_seconds(built.seconds)} to start"
    return f"on {built.device} in {built.precision}, in a hidden run that is gone again: {what}{start}"


def _peak(told: Told) -> str:
    """a step has 11.2 GB at its most, an evaluation 9.8 GB, writing a version 11.0 GB; 20.1 GB to spare"""
    peaks = told.found.peaks_bytes
    if len(peaks) > 1 and peaks["start"] < max(list(peaks.values())[1:]):
        del peaks["start"]  # it is the least of it
    first, *others = [f"{NAMES[name]} {size(peak)}" for name, peak in peaks.items()]
    room = "" if told.room_bytes is None else f"; {size(told.room_bytes)} to spare"
    return ", ".join([f"{first} of memory at its most", *others]) + room


def _images_per_second(told: Told) -> float:
    assert told.finish is not None
    return told.config.optim.images_per_step / told.finish.step_s


def _version(plan: Plan, committed: Committed) -> str:
    """412.3 MB, written and flushed in 0.8 s"""
    beforehand = "" if plan.space is None else f" (told above: {size(plan.space.footprint.whole_bytes)})"
    return (
        f"{size(committed.version_bytes)}{beforehand}, written and flushed to the disk in {_seconds(committed.seconds)}"
    )


def _scores(evaluated: Evaluated) -> str:
    parts = [] if evaluated.gain_s is None else [f"control gain {_seconds(evaluated.gain_s)}"]
    parts += [] if evaluated.pictures_s is None else [f"pictures {_seconds(evaluated.pictures_s)}"]
    said = f"{', '.join(parts)} at each version" if parts else "none are asked for"
    wrong = "; ".join(f"{name} failed ({why})" for name, why in evaluated.failed.items())
    return f"{said}; {wrong}" if wrong else said


def loader_sentence(feeding: Feeding) -> str:
    """the loader gives 38 images/s with data.workers 2, the step takes 46: data.workers 4 gives 71"""
    assert feeding.given is not None
    given, wanted = _rate(feeding.given), _rate(feeding.wanted)
    said = f"the loader gives {given} images/s with data.workers {feeding.workers}, the step takes {wanted}"
    if not feeding.is_slow:
        return f"{said}: it keeps up" + ("" if feeding.workers else ", but in turn with it; workers would meanwhile")
    if feeding.enough is not None:
        return f"{said}: data.workers {feeding.enough.workers} gives {_rate(feeding.enough.images_per_second)}"
    assert feeding.best is not None
    best = f"{_rate(feeding.best.images_per_second)} with data.workers {feeding.best.workers}"
    return (
        f"{said}. Pictures are the limit: no number of workers is enough, the most is {best}. "
        f"Smaller files, or --data.cache ahead, make it faster"
    )


def _time(finish: Finish, plan: Plan) -> str:
    """about 5 h 12 min: steps 4 h 50 min, 35 evaluations 15 min 00 s, writing versions 3 min 00 s, ..."""
    parts = [f"{plan.steps_left:,} steps {_seconds(finish.steps_s)}"]
    if finish.evaluations_s:
        parts.append(f"{finish.versions:,} evaluations {_seconds(finish.evaluations_s)}")
    if finish.writing_s:
        parts.append(f"waiting for versions {_seconds(finish.writing_s)}")
    if finish.snapshots_s:
        parts.append(f"snapshots {_seconds(finish.snapshots_s)} at most")
    said = f"about {_seconds(finish.seconds)} to the end ({', '.join(parts)})"
    if finish.is_behind:
        said += "; the disk needs longer for a version than training for the steps between two, and will put some off"
    return said


def _cache(cost: CacheCost, images: int) -> str:
    """
    Args:
        images: that are still to be trained on.
    """
    more = f"; this training looks at only {images:,}" if images < cost.pictures else ""
    return (
        f"{cost.pictures:,} pictures and their captions, encoded once (data.cache): {size(cost.size_bytes)}, "
        f"about {_seconds(cost.seconds)}{more}; encoding anew is {100 * cost.share_of_step:.0f} % of each step"
    )


def _failed(found: Measured) -> str:
    """in a step: memory ran out. A training would most likely end there too."""
    return f"{found.failed_in}: {(found.failed or '').rstrip('.')}. A training would most likely end there too"


def _fitting(told: Told) -> str:
    if told.room_bytes is None:
        return "how much memory there is cannot be told here"
    if not told.switches:
        return f"nothing that is known: no setting makes a step fit into {size(told.room_bytes)}"
    return "; or ".join(
        f"{switch.words}: {size(switch.peak_bytes)} of {size(told.room_bytes)}" for switch in told.switches
    )


def _seconds(seconds: float) -> str:
    """0.034 s, 2.1 s, 3 min 20 s."""
    return f"{seconds:.2g} s" if seconds < FINE_S else duration(seconds)


def _rate(rate: float) -> str:
    return f"{rate:.2g}" if rate < FINE_S else f"{rate:,.0f}"


# --- as JSON -----------------------------------------------------------------------------------------------


def row(told: Told) -> dict[str, Any]:
    """Units are in the names."""
    found, feeding, finish = told.found, told.feeding, told.finish
    cache = told.cache()
    return {
        "peak_bytes": found.peaks_bytes,
        "room_bytes": told.room_bytes,
        **{name: None if part is None else asdict(part) for name, part in _parts(found).items()},
        "images_per_second": None if finish is None else _images_per_second(told),
        "loader": {
            "images_per_second": {str(fed.workers): fed.images_per_second for fed in found.fed},
            "wanted_images_per_second": None if feeding is None else feeding.wanted,
            "enough_workers": None if feeding is None or feeding.enough is None else feeding.enough.workers,
        },
        "finish": None if finish is None else {**asdict(finish), "seconds": finish.seconds},
        "cache": None if cache is None else asdict(cache),
        "left_out": found.left_out,
        "failed": found.failed,
        "error": found.error,
        "failed_in": found.failed_in,
        "is_out_of_memory": found.is_out_of_memory,
    }


def _parts(found: Measured) -> dict[str, Any]:
    return {
        "built": found.built,
        "steps": found.steps,
        "evaluated": found.evaluated,
        "committed": found.committed,
        "encoded": found.encoded,
    }
