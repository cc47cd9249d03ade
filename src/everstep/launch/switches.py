"""What would make a training fit into memory, as words for the command line, the least harmful first.

Told from shapes, each by the same arithmetic as the step itself. Never imports torch.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

from everstep.config.schema import Config
from everstep.errors import EverstepError
from everstep.launch.step_memory import device_of, item_bytes, step_memory
from everstep.models.base import BaseFolder
from everstep.models.controls import new_shapes

SHOWN = 3
SLACK = 0.05  # where memory ran out, nobody knows how much was missing: at least this share
SIDES = (3 / 4, 1 / 2)  # of the pictures, as shares of what was asked for
SMALLER = ("mid", "small", "lllite")
Changes = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Switch:
    """Settings that would make it fit."""

    words: str  # for the command line
    peak_bytes: int


def switches(
    config: Config, base: BaseFolder, start: Path | None, room_bytes: int, measured_bytes: int | None
) -> list[Switch]:
    """A few that fit into the room, each of another kind; none where nothing of it is enough, or nothing is known.

    Args:
        measured_bytes: what the step took in fact, by which all that is told is corrected; None where it was not told.
    """
    now = step_memory(config, base, start)
    if now is None:
        return []
    more_bytes = 0 if measured_bytes is None else measured_bytes - now.peak_bytes
    found, kinds = list[Switch](), set[tuple[str, ...]]()
    order = list(_in_order(config, base, start))
    least = step_memory(_with(config, order[-1]), base, start) if order else None
    if least is None or least.peak_bytes + more_bytes > room_bytes:
        return []
    for changes in order:
        kind = tuple(changes)
        if any(set(smaller) <= set(kind) for smaller in kinds):  # less of the same was enough
            continue
        told = step_memory(_with(config, changes), base, start)
        if told is not None and told.peak_bytes + more_bytes <= room_bytes:
            found.append(Switch(_words(changes), told.peak_bytes + more_bytes))
            kinds.add(kind)
        if len(found) == SHOWN:
            break
    return found


def short_of(config: Config, base: BaseFolder, start: Path | None, room_bytes: int) -> int:
    """What a step takes at least where memory ran out, whatever was told of it."""
    now = step_memory(config, base, start)
    return round(max(0 if now is None else now.peak_bytes, room_bytes) * (1 + SLACK))


def _in_order(config: Config, base: BaseFolder, start: Path | None) -> Iterator[Changes]:
    """Combinations of the ladder's rungs: first those that change least of what is trained."""
    ladder = list(_ladder(config, base, start))
    choices = list(product(*(range(len(rungs)) for rungs in ladder)))
    # What harms most decides, then how far it goes, then how much else is changed.
    for choice in sorted(choices, key=lambda rungs: (tuple(reversed(rungs)), sum(map(bool, rungs)))):
        changes = {key: value for rungs, at in zip(ladder, choice, strict=True) for key, value in rungs[at].items()}
        if changes:
            yield changes


def _ladder(config: Config, base: BaseFolder, start: Path | None) -> Iterator[Sequence[Changes]]:
    """Each kind of change from nothing to most; kinds from the least harmful on."""
    optim = config.optim
    if not config.compute.gradient_checkpointing:  # the same training, and slower
        yield [{}, {"compute.gradient_checkpointing": True}]
    yield [{}, *_smaller_batches(optim.batch_size, optim.accumulation_steps)]  # as many images in a step
    if item_bytes(config.compute, device_of(config.compute)) > 2:
        yield [{}, {"compute.precision": "bf16"}]
    if start is None and optim.control == "full":
        yield [{}, *({"optim.control": size} for size in SMALLER if _has_place(size, base))]
    yield [{}, *({"data.resolution": side} for side in _smaller_sides(config.data.resolution or 0, base))]


def _has_place(control: str, base: BaseFolder) -> bool:
    if control not in base.row.sizes:
        return False
    try:
        return new_shapes(base, control) is not None
    except EverstepError:
        return False


def _smaller_batches(batch: int, accumulation: int) -> Iterator[Changes]:
    """Halved, as long as that is even, and at last one by one."""
    smaller = {batch // 2**power for power in range(1, batch.bit_length()) if batch % 2**power == 0} | {1}
    for size in sorted(smaller - {batch}, reverse=True):
        yield {"optim.batch_size": size, "optim.accumulation_steps": batch * accumulation // size}


def _smaller_sides(resolution: int, base: BaseFolder) -> Iterator[int]:
    for share in SIDES:
        side = int(resolution * share)
        try:
            base.latent_shape(side)
        except EverstepError:
            continue
        if side:
            yield side


def _with(config: Config, changes: Changes) -> Config:
    for key, value in changes.items():
        section, _, name = key.partition(".")
        changed = getattr(config, section).model_copy(update={name: value})
        config = config.model_copy(update={section: changed})
    return config


def _words(changes: Changes) -> str:
    """--compute.gradient-checkpointing --optim.batch-size 1 --optim.accumulation-steps 4"""
    return " ".join(
        f"--{key.replace('_', '-')}" + ("" if value is True else f" {value}") for key, value in changes.items()
    )
