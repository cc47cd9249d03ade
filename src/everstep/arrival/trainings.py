"""Whole trainings of other programs: which of their checkpoints is the newest, and what lies where in it.

Accelerate's checkpoint-N, as diffusers' train_controlnet and SimpleTuner write it, and Lightning's files.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from everstep.arrival.finding import Finding, find, merged, of_diffusers
from everstep.errors import UserError
from everstep.models.brought import is_controlnet
from everstep.models.foreign import open_foreign, open_table
from everstep.models.numbers import Refused
from everstep.models.weights import read_json

NUMBERED = re.compile(r"checkpoint[-_](\d{1,12})")
WEIGHTS = ("model.safetensors", "pytorch_model.bin", "diffusion_pytorch_model.safetensors")
OPTIMIZER = "optimizer.bin"
LIGHTNING = ("checkpoints/*.ckpt", "version_*/checkpoints/*.ckpt", "lightning_logs/version_*/checkpoints/*.ckpt")
# What lies in a checkpoint, by the beginning of its name, and is not taken over.
LEFT = {
    "scheduler": "the schedule of the learning rate",
    "lr_schedulers": "the schedule of the learning rate",
    "random_states": "random states",
    "scaler": "the loss scaler",
    "sampler": "the position in the data",
    "training_state": "the position in the data",
    "loops": "the position in the data",
    "callbacks": "callbacks",
    "hyper_parameters": "settings",
    "ema": "averaged weights",
    "controlnet_ema": "averaged weights",
}
TAKEN = ("optimizer_states", "global_step", "epoch", "pytorch-lightning_version")


def find_any(path: Path) -> Finding:
    """A ControlNet, or the newest of a training. Raises: Refused."""
    if not path.is_dir():
        return _of_lightning(find(path))
    if is_controlnet(path):
        return find(path)
    if _is_accelerate(path):
        return _of_accelerate(path)
    numbered = {int(found[1]): child for child in path.iterdir() if (found := NUMBERED.fullmatch(child.name))}
    if whole := {number: child for number, child in numbered.items() if _is_accelerate(child)}:
        return _newest(path, whole)
    if files := [file for pattern in LIGHTNING for file in sorted(path.glob(pattern))]:
        return _of_lightning(find(max(files, key=_steps_in)))
    return find(path)


def _newest(path: Path, checkpoints: Mapping[int, Path]) -> Finding:
    number = max(checkpoints)
    try:
        return _of_accelerate(checkpoints[number])
    except Refused as refused:
        others = sorted(set(checkpoints) - {number})
        before = f"The one before: {checkpoints[others[-1]]}" if others else refused.next_act
        raise Refused(f"has {checkpoints[number].name} as its newest, which {refused.fault}", before) from None


def _steps_in(file: Path) -> tuple[int, float]:
    """By what a file says of itself; one that cannot be read comes first, so that others are taken."""
    try:
        steps = open_foreign(file).beside.get("global_step")
    except Refused:
        steps = -1
    return steps if isinstance(steps, int) else 0, file.stat().st_mtime


# --- accelerate --------------------------------------------------------------------------------------------


def _is_accelerate(folder: Path) -> bool:
    if not folder.is_dir() or not (folder / OPTIMIZER).exists():
        return False
    return (folder / "controlnet").is_dir() or any((folder / name).is_file() for name in WEIGHTS)


def _of_accelerate(folder: Path) -> Finding:
    if (folder / "controlnet").is_dir():
        found = of_diffusers(folder / "controlnet")
    else:
        file = next(folder / name for name in WEIGHTS if (folder / name).is_file())
        found = merged(file, [open_foreign(file)])
    is_of_training = {child.name for child in folder.iterdir()} - {OPTIMIZER, "controlnet", *WEIGHTS}
    return replace(
        found,
        path=folder,
        beside={},
        steps_before=_steps_of(folder),
        optimizer=(folder / OPTIMIZER, _table(folder / OPTIMIZER)),
        left=_left(is_of_training, "the position in the data"),
        is_in_file_order=False,
    )


def _table(file: Path) -> Any:
    """What the optimizer's file holds; None where that cannot be read: weights alone are worth having."""
    try:
        return open_table(file)
    except Refused as refused:
        return f"{file.name} {refused.fault}"


def _steps_of(folder: Path) -> int | None:
    try:
        told = read_json(folder / "training_state.json").get("global_step")
    except UserError:
        told = None
    if type(told) is int and told >= 0:
        return told
    found = NUMBERED.fullmatch(folder.name)
    return int(found[1]) if found else None


def _left(names: set[str], *always: str) -> tuple[str, ...]:
    words = {LEFT[start] for name in names for start in LEFT if name.startswith(start)}
    return tuple(sorted({*words, *always}))


# --- Lightning ---------------------------------------------------------------------------------------------


def _of_lightning(found: Finding) -> Finding:
    """Any file of weights; one of Lightning's says how long it was trained and with which moments."""
    steps, states = found.beside.get("global_step"), found.beside.get("optimizer_states")
    state = states[0] if isinstance(states, list) and states else None
    others = [key for key in found.beside if key not in TAKEN]
    known = [key for key in others if any(key.startswith(start) for start in LEFT)]
    always = ("random states", "the position in the data") if state is not None else ()
    return replace(
        found,
        beside={key: found.beside[key] for key in others if key not in known},
        steps_before=steps if type(steps) is int and steps >= 0 else None,
        optimizer=None if state is None else (found.path, state),
        left=_left(set(known), *always),
        is_in_file_order=True,
    )


# --- moments -----------------------------------------------------------------------------------------------


def states_in_order(table: Any) -> Iterator[Mapping[str, Any]]:
    """Of each parameter, in the order in which the optimizer has them. Raises: Refused if it is no optimizer's."""
    if isinstance(table, str):
        raise Refused(table)
    try:
        states, groups = table["state"], table["param_groups"]
        numbers = [number for group in groups for number in group["params"]]
        for number in numbers:
            yield states[number] if isinstance(states[number], dict) else {}
    except (KeyError, TypeError, IndexError):
        raise Refused("it is no optimizer's state, or was stored before its first step") from None
