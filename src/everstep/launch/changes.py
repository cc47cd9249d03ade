"""What may change within a run, on purpose or because the line is another; and how what may not can still be done.

Never imports torch.
"""

import shlex
from collections.abc import Callable, Iterable
from typing import Any

from everstep.config import Config, changes, flatten, read_hparams
from everstep.config.load import Layer, parse_assignments, refuse_unknown, validate
from everstep.config.policy import is_free
from everstep.contracts import Changes
from everstep.errors import UserError
from everstep.launch.checks import complete
from everstep.models.base import BaseFolder
from everstep.versions import Run
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


def with_start_of(run: Run, asked: str | None, completed: Config) -> Config:
    """The same line starts and restarts: RUN@latest means the version that it meant when this run began."""
    before, now = read_hparams(run.layout.hparams).optim.start_from, completed.optim.start_from
    is_moving = asked is not None and version_number(f"version_{asked.rpartition('@')[2]}") is None
    if not is_moving or before is None or now is None or before.rpartition("@")[0] != now.rpartition("@")[0]:
        return completed
    optim = completed.optim.model_copy(update={"start_from": before})
    return completed.model_copy(update={"optim": optim})


def with_precision_of(run: Run, completed: Config) -> Config:
    """Where the line leaves the precision open, it is what the run was begun with."""
    before = read_hparams(run.layout.hparams).compute.precision
    if completed.compute.precision != "auto":
        return completed
    compute = completed.compute.model_copy(update={"precision": before})
    return completed.model_copy(update={"compute": compute})


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


# --- change on purpose -------------------------------------------------------------------------------------


def changed(run: Run, assignments: Iterable[str]) -> tuple[Config, BaseFolder, Changes]:
    """The run's settings with the assignments applied, its base, and what differs. Raises: UserError."""
    before = read_hparams(run.layout.hparams)
    merged = before.model_dump(mode="json")
    asked = flatten(parse_assignments(assignments))
    for key, value in asked.items():
        _assign(merged, key, value)
    after, base = complete(validate(merged, "--set"))
    found = changes(before, after)
    for key, (old, new) in found.items():
        _refuse_fixed(run, key, old, new)
    return after, base, found


def _assign(settings: dict[str, Any], key: str, value: Any) -> None:
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
