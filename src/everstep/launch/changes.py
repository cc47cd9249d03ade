"""What may change within a run, on purpose or because the line is another; and how what may not can still be done.

Never imports torch.
"""

import shlex
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from everstep.config.load import (
    Layer,
    changes,
    flatten,
    known_part,
    parse_assignments,
    read_hparams,
    refuse_unknown,
    validate,
)
from everstep.config.policy import is_free
from everstep.config.schema import Config
from everstep.contracts import Changes, During, Report
from everstep.errors import UserError
from everstep.launch.inputs import PLACES, Inputs, inputs_within, is_gone, new_inputs
from everstep.versions import Run, Version

# Settings that a run cannot change under way, and why.
FIXED = {
    "base": "the ControlNet was trained against this base",
    "optim.seed": "order, noise and timesteps are functions of it",
    "optim.start_from": "it says where step 0 came from",
    "optim.control": "it says what is trained",
    "optim.hint_start": "it says how step 0 began",
    "optim.optimizer": "what one keeps from step to step is of no use to another",
    "data.held_out_pairs": "pairs held out so far would be trained on",
}

# What an epoch in buckets is planned by, besides the seed and the pairs.
PLANNED_BY = {"data.shape", "data.resolution", "optim.batch_size"}

CONDITIONS = {"data.condition", "data.condition_model", "data.condition_random"}
# What is assigned when other pairs are meant: the data may then differ from what the version was trained on.
PAIRS = {
    *("data", "data.path", "data.bad_pairs", "data.resolution"),
    *("data.target_column", "data.condition_column", "data.caption_column"),
    *CONDITIONS,
}


@dataclass(frozen=True, slots=True)
class Differing:
    """How a start differs from what was trained so far. Keys with the values before and after."""

    asked: Changes  # from hparams.yaml
    edited: Changes  # hparams.yaml itself, from what the version was made with

    @property
    def every(self) -> Changes:
        """From the version to what it goes on with; what was edited and then put back is no change."""
        joined = {**self.edited, **{key: (self.edited.get(key, ab)[0], ab[1]) for key, ab in self.asked.items()}}
        return {key: (before, after) for key, (before, after) in joined.items() if before != after}


def edited(before: Config, version: Version | None) -> Changes:
    """What hparams.yaml says now, and the version was not made with. A setting that it did not have yet counts not."""
    if version is None or not isinstance(version.manifest.get("config"), dict):
        return {}
    made_with, now = flatten(known_part(version.manifest["config"])), flatten(before.model_dump(mode="json"))
    return {key: (made_with[key], now[key]) for key in now if key in made_with and made_with[key] != now[key]}


def as_begun(before: Config, config: Config) -> Config:
    """What the line leaves open is what the run was begun with: auto may mean another precision here, and there were
    runs before there was a choice of how pictures are resized, or another one was the usual.
    """
    compute, data = config.compute, config.data
    if compute.precision == "auto":
        compute = compute.model_copy(update={"precision": before.compute.precision})
    left_open = {"resize", "condition_resize"} - data.model_fields_set
    data = data.model_copy(update={name: getattr(before.data, name) for name in left_open})
    return config.model_copy(update={"compute": compute, "data": data})


# --- begin, or go on with the same settings ----------------------------------------------------------------


def agreed(
    run: Run, config: Config, other_run: Callable[[str], str], report: Report, during: During
) -> tuple[Inputs, Differing]:
    """The settings of a line for a run that has begun; nothing of what is trained may differ, and places may.

    Raises: UserError with all other differences, and the two commands that would do it on purpose.
    """
    before, version = read_hparams(run.layout.hparams), newest(run)
    inputs = inputs_within(run, before, as_begun(before, config), report, during)
    found = Differing(changes(before, inputs.config), edited(before, version))
    _refuse_edited(run, inputs, found, version)
    refused = refusals(inputs, found.asked, version)
    if refused:
        raise UserError(_other_settings(run, refused, other_run))
    return inputs, found


def refusals(inputs: Inputs, asked: Changes, version: Version | None) -> Changes:
    """Those of the differences that a line may not have: what is trained is not free, and no place of the same."""
    return {
        key: values
        for key, values in asked.items()
        if not is_free(key) and not (key in PLACES and version is not None and inputs.is_same(key, version))
    }


def newest(run: Run) -> Version | None:
    """The newest version, whatever is in it."""
    versions = run.versions()
    return versions[-1] if versions else None


def _other_settings(run: Run, found: Changes, other_run: Callable[[str], str]) -> str:
    fixed = {key: why for key, values in found.items() if (why := why_fixed(key, *values))}
    assignments = " ".join(f"--set {key}={_plain(after)}" for key, (_, after) in found.items() if key not in fixed)
    lines = [f"{run.name} exists with other settings. Nothing was changed.", describe(found)]
    lines += [f"{key} cannot change within a run: {why}." for key, why in fixed.items()]
    if assignments:
        lines.append(
            f"To change {'the others' if fixed else 'them'} under way: everstep resume {run.word} {assignments}"
        )
    lines.append(f"To start another training: {other_run(f'{run.name}-2')}")
    return "\n".join(lines)


def why_fixed(key: str, before: Any, after: Any) -> str | None:
    """Why a setting cannot change within a run, or None where it can."""
    if key == "optim.ema_decay" and not (before and after):
        return "the averaged weights are kept from step 0 on, or not at all"
    if key == "data.cache" and "off" in (before, after):
        return "what is cached is encoded apart from the training, which may differ in the last bits"
    return FIXED.get(key) or FIXED.get(key.partition(".")[0])


def describe(found: Changes) -> str:
    """One line for each difference: key, before, after."""
    width = max(len(key) for key in found)
    lines = (f"  {key:<{width}}  {_plain(a)} -> {_plain(b)}" for key, (a, b) in found.items())
    return "\n".join(lines)


def said_of_order(config: Config, found: Changes) -> str | None:
    """What changes mean for which pairs come when: in buckets that follows from more than the seed."""
    is_or_was = "buckets" in (config.data.shape, *found.get("data.shape", ()))
    if not is_or_was or not found.keys() & PLANNED_BY:
        return None
    return (
        "Which pairs come when is planned anew from here on, so of the epoch that is under way some may come twice and "
        "some not at all; from the next one on each has its turn."
    )


def _plain(value: Any) -> str:
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


# --- change on purpose -------------------------------------------------------------------------------------


def changed(
    run: Run, spec: str | None, assignments: Iterable[str], has_begun: bool, report: Report, during: During
) -> tuple[Inputs, Differing]:
    """The run's settings with the assignments applied, and what differs. Raises: UserError."""
    before = read_hparams(run.layout.hparams)
    merged = before.model_dump(mode="json")
    for key, value in flatten(parse_assignments(assignments)).items():
        _assign(merged, key, value)
    after = validate(merged, "--set")
    if not has_begun:
        inputs = new_inputs(after, report, during)
        return inputs, Differing(changes(before, inputs.config), {})
    inputs = inputs_within(run, before, after, report, during)
    version = run.find(spec) if spec else newest(run)
    found = Differing(changes(before, inputs.config), edited(before, version))
    _refuse_edited(run, inputs, found, version)
    for key, (old, new) in found.every.items():
        if key not in found.asked:
            continue  # written in hparams.yaml, and judged above
        if key not in PLACES or version is None or not inputs.is_same(key, version):
            _refuse_fixed(run, key, old, new)
    return inputs, found


def _refuse_edited(run: Run, inputs: Inputs, found: Differing, version: Version | None) -> None:
    """What cannot change within a run cannot be changed by hand either. Raises: UserError saying how to undo it."""
    every = found.every
    for key, (was, now) in found.edited.items():
        if key not in every or key in found.asked or (key == "optim.start_from" and is_gone(now)):
            continue  # of a start that is gone nothing can be said, and nothing is needed
        why = why_fixed(key, was, now)
        if why and version is not None and not (key in PLACES and inputs.is_same(key, version)):
            raise UserError(
                f"{key} cannot change within a run: {why}. {run.layout.hparams} says {_plain(now)}, but "
                f"{version.name} was made with {_plain(was)}. Nothing was changed.\n"
                f"To put it back: everstep resume {run.path} --set {key}={_plain(was)}"
            )


def _assign(settings: dict[str, Any], key: str, value: Any) -> None:
    *sections, last = key.split(".")
    nested: Any = value
    for part in (last, *reversed(sections)):
        nested = {part: nested}
    refuse_unknown(Layer("--set", nested))
    if not sections:  # a path alone
        settings[key]["path"] = value
        return
    settings[sections[0]][last] = value


def _refuse_fixed(run: Run, key: str, old: Any, new: Any) -> None:
    why = why_fixed(key, old, new)
    if not why:
        return
    words = ["everstep", "train", str(run.layout.hparams), "--run", f"{run.path}-2", "--set", f"{key}={_plain(new)}"]
    way = "In a new run, from step 0"
    if key != "optim.start_from" and run.versions():
        words += ["--from", f"{run.path}@latest"]
        way = "In a new run, with the weights of this one"
    raise UserError(f"{key} cannot change within a run: {why}. Nothing was changed.\n{way}: {shlex.join(words)}")


def accepts_other_data(assignments: Iterable[str]) -> bool:
    """Whether the pairs themselves were among what was asked to change."""
    return bool(set(flatten(parse_assignments(assignments))) & PAIRS)
