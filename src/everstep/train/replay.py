"""Proof by doing again: the steps that led to a version are trained once more, and every bit is compared.

Finds what no checksum can: bits that flipped in weights or moments before they were digested. Works in memory alone;
nothing is written into the run, which may be training meanwhile.
"""

import itertools
import json
import math
import platform
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch

from everstep import __version__
from everstep.config.schema import Compute
from everstep.contracts import Changes
from everstep.data import PatientSource
from everstep.errors import DamageFound, UserError
from everstep.models.arithmetic import arithmetic
from everstep.models.family import Family
from everstep.models.files import STATE
from everstep.models.registry import open_family
from everstep.train.bits import compare_bits
from everstep.train.caching import framer_of
from everstep.train.facts import revision
from everstep.train.gradients import Alone
from everstep.train.metrics import Measured
from everstep.train.optim import kept_numbers, put_numbers
from everstep.train.progress import Progress, Reporter
from everstep.train.rate import Rate
from everstep.train.ready import Ready, order_of, pairs_of
from everstep.train.receipt import other_arithmetic, other_libraries
from everstep.train.replay_records import recorded_steps
from everstep.train.replay_route import Leg, Route
from everstep.train.replay_verdict import Replayed, StepDifference
from everstep.train.session import batches_of, state_of
from everstep.train.state import TrainState
from everstep.train.step import take_step
from everstep.versions import Version, read_small

COUNTERS = (
    "step",
    "images_seen",
    "loss_scaler",
    "optimizer",
)  # of state.json; what training does not use is not compared


def replay(route: Route, reporter: Reporter) -> Replayed:
    """Train the route again and compare. Raises: UserError if the version to begin from is damaged."""
    legs = [replace(leg, ready=_as_then(leg)) for leg in route.legs]
    family, state = _begin(legs[0].ready, route)
    differs = _differences(route.version.manifest, family)
    if differs:
        reporter.say(f"different from then: {'; '.join(differs)}")
    course = _Course(route, reporter)
    measured = _train(legs[0], family, state, course)
    for before, leg in itertools.pairwise(legs):
        if leg.ready.config.compute != before.ready.config.compute:
            family = _family(leg.ready)
        state = _go_on(leg.ready, family, state)
        measured += _train(leg, family, state, course)
    reporter.close()
    recorded = recorded_steps(route.run, route.version, route.first_step)
    return Replayed(
        run=str(route.run.path),
        version=route.version.number,
        step=route.version.step,
        begins=None if route.begins is None else route.begins.number,
        first_step=route.first_step,
        is_slim=not route.version.resumable,
        files=tuple(compare_bits(state.tensors(), route.version)),
        counters=_compare_counters(state, route.version),
        recorded=len(recorded),
        last_recorded=max(recorded, default=None),
        steps_differing=_compare_steps(measured, recorded),
        differs=tuple(differs),
    )


# --- as it was then ----------------------------------------------------------------------------------------


def _as_then(leg: Leg) -> Ready:
    """With the device and the threads of then, where they are to be had."""
    compute = _compute_of(leg.ready.config.compute, leg)
    return replace(leg.ready, config=leg.ready.config.model_copy(update={"compute": compute}))


def _compute_of(compute: Compute, leg: Leg) -> Compute:
    machine, noted = leg.until.manifest["machine"], dict[str, Any]()
    device = machine["device"]
    if compute.precision == "auto":
        noted["precision"] = machine["precision"]
    if compute.device == "auto" and (device == "cpu" or torch.cuda.is_available()):
        noted["device"] = device
    if device == "cpu" and (threads := _threads(leg)) is not None:
        noted["threads"] = threads
    return compute.model_copy(update=noted)


def _threads(leg: Leg) -> int | None:
    """That the version at the leg's end was trained with; of a slim one, those of the version before."""
    whole = [version for version in (leg.until, leg.ready.version) if version is not None and version.resumable]
    return int(json.loads(read_small(whole[0], STATE))["threads"]) if whole else None


def _differences(then: Mapping[str, Any], family: Family) -> list[str]:
    """What is not as it was, in a way that can change bits."""
    noted = {**then["machine"], **then["code"]}
    now = {
        "device": str(family.arithmetic.device),
        "host": platform.node(),
        "python": platform.python_version(),
        "everstep": __version__,
        "revision": revision(),
    }
    found = [f"{name} {noted.get(name)} then, {here} now" for name, here in now.items() if noted.get(name) != here]
    return other_libraries(then) + other_arithmetic(then, family.arithmetic) + found


# --- training again ----------------------------------------------------------------------------------------


class _Course:
    """How far the replay has come, for whoever looks on."""

    def __init__(self, route: Route, reporter: Reporter) -> None:
        self._first_step, self._steps = route.first_step, route.version.step - route.first_step
        self.reporter, self._rate, self._images, self._done = reporter, Rate(), 0, 0
        self._rate.start(0)

    def advance(self, images: int) -> None:
        self._images += images
        self._done += 1
        rate = self._rate.images_per_second(self._images)
        self.reporter.show(
            Progress(
                step=self._done,
                max_steps=self._steps,
                images_seen=self._images,
                loss=None,  # still on the device; nobody waits for it
                images_per_second=rate,
                seconds_left=(self._steps - self._done) * images / rate if rate else None,
                last_version=None,
                last_version_age_s=0,
                next_version_step=None,
            )
        )


def _family(ready: Ready) -> Family:
    return open_family(ready.base, arithmetic(ready.config.compute), ready.config.compute)


def _begin(ready: Ready, route: Route) -> tuple[Family, TrainState]:
    family = _family(ready)
    state, _ = state_of(ready, family)
    try:
        if route.begins is not None:
            state.restore(route.begins)
        return family, state
    except DamageFound as damage:
        raise UserError(
            f"{damage}\n{route.version.name} cannot be replayed from it. --from RUN@N begins from an earlier version."
        ) from None


def _go_on(ready: Ready, family: Family, before: TrainState) -> TrainState:
    """The same state under the settings of the next leg, as a resume would have made it from a version."""
    state, _ = state_of(ready, family)
    theirs = before.tensors()
    with torch.no_grad():
        for file, tensors in state.tensors().items():
            for name, tensor in tensors.items():
                tensor.copy_(theirs[file][name])
    put_numbers(state.optimizer, kept_numbers(before.optimizer))
    state.step, state.images_seen = before.step, before.images_seen
    if state.scaler.is_enabled() and before.scaler.is_enabled():
        state.scaler.load_state_dict(before.scaler.state_dict())
    return state


def _train(leg: Leg, family: Family, state: TrainState, course: _Course) -> list[Measured]:
    ready, measured = leg.ready, list[Measured]()
    source = PatientSource(ready.source, course.reporter.say)
    pairs = pairs_of(ready.config, ready.source, ready.version)
    order = order_of(ready.config, ready.source, ready.base, pairs)
    said, during = course.reporter.say, course.reporter.during
    framer, cache = framer_of(ready.config, family, source, order, pairs, said, during, may_fill=False)
    batches = batches_of(ready, framer, order, source.is_stopped, family, state, pairs)
    gradients = Alone(family, state.controlnet, ready.config.optim)
    try:
        while state.step < leg.until.step:
            measured.append(take_step(ready.config.optim, gradients, state, batches))
            course.advance(ready.config.optim.images_per_step)
    finally:
        batches.close()
        if cache is not None:
            cache.framer.close()
    return measured


# --- comparing ---------------------------------------------------------------------------------------------


def _compare_counters(state: TrainState, version: Version) -> Changes:
    """Counters that differ, each with (stored, again); of a slim version there are none."""
    if not version.resumable:
        return {}
    stored, again = json.loads(read_small(version, STATE)), json.loads(state.small_files()[STATE])
    return {name: (stored.get(name), again.get(name)) for name in COUNTERS if stored.get(name) != again.get(name)}


def _compare_steps(measured: list[Measured], recorded: Mapping[int, dict[str, Any]]) -> tuple[StepDifference, ...]:
    there = [(again, recorded[again.step]) for again in measured if again.step in recorded]
    found = [StepDifference(again.step, _compare_line(line, again)) for again, line in there]
    return tuple(difference for difference in found if difference.values)


def _compare_line(line: Mapping[str, Any], measured: Measured) -> Changes:
    norm = measured.grad_norm
    again = {
        "first_example": measured.first_example,
        "images_seen": measured.images_seen,
        "learning_rate": measured.learning_rate,
        "loss": float(measured.loss),
        "grad_norm": None if norm is None else float(norm),
    }
    return {
        name: (line[name], value) for name, value in again.items() if name in line and not _is_same(line[name], value)
    }


def _is_same(stored: float | None, again: float | None) -> bool:
    """Two that are no numbers are the same too."""
    if isinstance(stored, float) and isinstance(again, float) and math.isnan(stored):
        return math.isnan(again)
    return stored == again
