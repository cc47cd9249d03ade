"""What a start means: begin a run, go on with it, find it complete, or refuse and say how it can be done.

Everything that can be wrong is found here, before weights are loaded and before a run is begun. Never imports torch.
"""

import shlex
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from everstep.config import Config, changes, flatten, read_hparams
from everstep.config.load import parse_assignments, validate
from everstep.contracts import Changes, ParentRef, Report
from everstep.data import Source, Split, open_source, split
from everstep.errors import UserError
from everstep.evaluation.adherence import MODELS, check_scoring
from everstep.models.base import BaseFolder, locate
from everstep.train.boards import check_tracking
from everstep.versions import Run, Version, run_folder
from everstep.versions.layout import version_number

# Settings that a run cannot change under way, and why.
FIXED = {
    "base": "the ControlNet was trained against this base",
    "optim.seed": "order, noise and timesteps are functions of it",
    "optim.start_from": "it says where step 0 came from",
    "optim.hint_start": "it says how step 0 began",
    "data.held_out_pairs": "pairs held out so far would be trained on",
}

# What is assigned when other pairs are meant: the data may then differ from what the version was trained on.
PAIRS = {"data", "data.path", "data.bad_pairs", "data.resolution"}

# Sections that change nothing of what is trained: any start may have its own.
FREE = ("keep", "keeper", "scoring", "tracking")


@dataclass(frozen=True, slots=True)
class Ready:
    """All that a training needs to be built: checked, located and locked."""

    run: Run
    config: Config
    base: BaseFolder
    base_digest: str
    source: Source
    version: Version | None  # to go on from; None to begin at step 0
    parent: ParentRef | None


def complete(config: Config) -> tuple[Config, BaseFolder]:
    """Settings in which nothing is left open: absolute paths, the resolution. Raises: UserError."""
    base = locate(config.base.path, config.base.revision)
    resolution = config.data.resolution or base.native_resolution()
    base.latent_shape(resolution)
    check_tracking(config.tracking)
    check_scoring(config.scoring, config.data.path)
    settings = config.model_dump(mode="json")
    settings["base"]["path"] = base.name
    settings["data"]["path"] = _absolute(config.data.path)
    settings["data"]["resolution"] = resolution
    for key in MODELS:
        if settings["scoring"][key] is not None:
            settings["scoring"][key] = _absolute(settings["scoring"][key])
    settings["optim"]["start_from"] = _start_from(config.optim.start_from)
    return validate(settings, "settings"), base


def _absolute(path: str) -> str:
    return path if path.startswith("builtin:") else str(Path(path).expanduser().resolve())


def _start_from(spec: str | None) -> str | None:
    """A ControlNet folder or RUN@VERSION, absolute, and with the version's number instead of a moving name."""
    if spec is None:
        return None
    folder, at, version = spec.rpartition("@")
    if at:
        found = Run.open(run_folder(folder)).find(version)
        return f"{found.path.parent}@{found.number}"
    if not (Path(spec) / "config.json").is_file():
        raise UserError(f"--from {spec}: neither RUN@VERSION nor a folder with a ControlNet's config.json.")
    return str(Path(spec).resolve())


def with_start_of(run: Run, asked: str | None, completed: Config) -> Config:
    """The same line starts and restarts: RUN@latest means the version that it meant when this run began."""
    before, now = read_hparams(run.layout.hparams).optim.start_from, completed.optim.start_from
    is_moving = asked is not None and version_number(f"version_{asked.rpartition('@')[2]}") is None
    if not is_moving or before is None or now is None or before.rpartition("@")[0] != now.rpartition("@")[0]:
        return completed
    optim = completed.optim.model_copy(update={"start_from": before})
    return completed.model_copy(update={"optim": optim})


# --- begin, or go on with the same settings ----------------------------------------------------------------


def refuse_changes(run: Run, config: Config, other_run: Callable[[str], str]) -> Changes:
    """Returns what differs and changes nothing of what is trained.

    Raises: UserError with all other differences, and the two commands that would do it on purpose.
    """
    every = changes(read_hparams(run.layout.hparams), config)
    found = {key: values for key, values in every.items() if not is_free(key)}
    if not found:
        return every
    fixed = {key: why for key, values in found.items() if (why := why_fixed(key, *values))}
    assignments = " ".join(f"--set {key}={_plain(after)}" for key, (_, after) in found.items() if key not in fixed)
    lines = [f"{run.name} exists with other settings. Nothing was changed.", describe(found)]
    lines += [f"{key} cannot change within a run: {why}." for key, why in fixed.items()]
    if assignments:
        lines.append(
            f"To change {'the others' if fixed else 'them'} under way: everstep resume {run.name} {assignments}"
        )
    lines.append(f"To start another training: {other_run(f'{run.name}-2')}")
    raise UserError("\n".join(lines))


def is_free(key: str) -> bool:
    """Whether a setting changes nothing of what is trained."""
    return key.partition(".")[0] in FREE


def why_fixed(key: str, before: Any, after: Any) -> str | None:
    """Why a setting cannot change within a run, or None where it can."""
    if key == "optim.ema_decay" and not (before and after):
        return "the averaged weights are kept from step 0 on, or not at all"
    return FIXED.get(key) or FIXED.get(key.partition(".")[0])


def describe(found: Changes) -> str:
    """One line for each difference: key, before, after."""
    width = max(len(key) for key in found)
    lines = (f"  {key:<{width}}  {_plain(a)} -> {_plain(b)}" for key, (a, b) in found.items())
    return "\n".join(lines)


def _plain(value: Any) -> str:
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def open_data(config: Config, report: Report) -> Source:
    """Open and check the pairs. Raises: UserError listing every pair that cannot be used."""
    return open_source(config.data.path, config.data.resolution, config.data.bad_pairs, report=report)


# --- change on purpose -------------------------------------------------------------------------------------


def changed(run: Run, assignments: Iterable[str]) -> tuple[Config, Changes]:
    """The run's settings with the assignments applied, and what differs. Raises: UserError for fixed settings."""
    before = read_hparams(run.layout.hparams)
    merged = before.model_dump(mode="json")
    asked = flatten(parse_assignments(assignments))
    for key, value in asked.items():
        _assign(merged, key, value)
    after, _ = complete(validate(merged, "--set"))
    found = changes(before, after)
    for key, (old, new) in found.items():
        _refuse_fixed(run, key, old, new)
    return after, found


def _assign(settings: dict[str, Any], key: str, value: Any) -> None:
    from everstep.config.load import Layer, refuse_unknown

    *sections, last = key.split(".")
    nested: Any = value
    for part in (last, *reversed(sections)):
        nested = {part: nested}
    refuse_unknown(Layer("--set", nested))
    if not sections:
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


# --- what a version was made from, against what is there now -----------------------------------------------


def check_origin(version: Version, base_digest: str, source: Source, accepts_data: bool) -> Changes:
    """Returns the data's change if it is accepted. Raises: UserError if base or data are not the version's."""
    was = version.manifest["base"]["digest"]
    if was != base_digest:
        raise UserError(
            f"The base is not the one that {version.name} was trained on: {base_digest}, but it was {was}. "
            "Nothing was changed."
        )
    was, now = version.manifest["data"]["fingerprint"], source.fingerprint()
    if was == now:
        return {}
    if accepts_data:
        return {"data.fingerprint": (was, now)}
    path = shlex.quote(version.manifest["data"]["path"])
    raise UserError(
        f"The pairs in {path} have changed since {version.name} was made. Nothing was changed.\n"
        f"To go on with them as they are now: everstep resume {version.path.parent} --set data.path={path}"
    )


def pairs_of(config: Config, source: Source, version: Version | None) -> Split:
    """Which pairs are trained on. What was held out before stays held out, whatever became of the data."""
    before = () if version is None else version.manifest["data"]["held_out"]
    return split(source, config.data.held_out_pairs, before)
