"""What a training would be, told without starting it: how long, on which pairs, what it takes of disk and memory."""

from dataclasses import dataclass
from pathlib import Path

from everstep.config.load import changes, read_hparams
from everstep.config.schema import Config
from everstep.contracts import Report
from everstep.errors import UserError
from everstep.keeping.intervals import Interval
from everstep.keeping.memory import SLOTS
from everstep.keeping.room import available_bytes
from everstep.launch.changes import as_begun, newest, refusals
from everstep.launch.expected import expected_interval
from everstep.launch.footprint import arena_bytes, folder_to_start_from
from everstep.launch.inputs import Inputs, inputs_within, new_inputs
from everstep.launch.space import Space, plan_space
from everstep.launch.step_memory import StepMemory, step_memory
from everstep.launch.undo import has_begun
from everstep.train.ready import order_of, pairs_of
from everstep.versions import Run, Version


@dataclass(frozen=True, slots=True)
class Plan:
    """The answer of `everstep plan`. Steps and images are from the start of the run to its end."""

    run: str
    base: str
    data: str
    resolution: int
    goes_on_from: str | None  # a version that is there already
    refused: str | None  # a run that is there with other settings, so that `train` would refuse this line
    steps: int
    steps_left: int
    images_per_step: int
    images_seen: int
    epochs: float
    training_pairs: int
    held_out_pairs: int
    shapes: str | None  # that pictures are trained in, in words; None where all are squares
    versions: int | None  # still to be made; None where the clock decides
    interval: Interval | None  # that a training is expected to find by itself
    space: Space | None
    slots: int | None  # of the snapshots' memory; None where there is no room, or none is wanted
    arena_bytes: int | None
    available_bytes: int | None
    memory: StepMemory | None  # of a step; None where a network has blocks that are not known, or the device is not

    @property
    def lacking_bytes(self) -> int:
        """Of this machine's memory, for a step without any snapshots, as far as it can be told."""
        return 0 if self.available_bytes is None else max(0, _beside(self.memory) - self.available_bytes)


@dataclass(frozen=True, slots=True)
class Opened:
    """What a plan is of, opened and checked: enough to build the training.

    Args:
        folder: of the run, as it would be named.
        start: the folder of the ControlNet that it begins with, if it does not begin from the base.
    """

    folder: Path
    inputs: Inputs
    version: Version | None  # to go on from
    start: Path | None


def plan(folder: Path, config: Config, report: Report) -> tuple[Plan, Opened]:
    """Check everything that a start checks, and tell what it would be. Raises: UserError. Writes nothing."""
    run = Run.open(folder) if Run.exists(folder) else None
    inputs, is_other = _met(run, config, report)
    refused = folder if is_other else None
    if is_other:
        folder = folder.with_name(f"{folder.name}-2")
    completed, base, source = inputs.config, inputs.base, inputs.source
    version = None if is_other else _newest(folder)
    pairs = pairs_of(completed, source, version)
    if not pairs.training:
        raise UserError(f"{completed.data.path} leaves no pair to train on: {source.description}.")
    order = order_of(completed, source, base, pairs)
    space = plan_space(folder, completed, base, version)
    per_step = completed.optim.images_per_step
    seen, step = (0, 0) if version is None else (version.images_seen, version.step)
    images = seen + max(0, completed.optim.max_steps - step) * per_step
    available = available_bytes()
    needed = {} if space is None else arena_bytes(space.footprint)
    start = folder_to_start_from(completed, base) if version is None else version.path / "controlnet"
    memory = step_memory(completed, base, start)
    left = None if available is None else available - _beside(memory)
    slots = next((count for count in SLOTS if needed and (left is None or needed[count] <= left)), None)
    found = Plan(
        run=str(folder),
        base=completed.base.path,
        data=source.description,
        resolution=completed.data.resolution or 0,
        goes_on_from=None if version is None else version.name,
        refused=None if refused is None else str(refused),
        steps=completed.optim.max_steps,
        steps_left=max(0, completed.optim.max_steps - step),
        images_per_step=per_step,
        images_seen=images,
        epochs=images / order.epoch_examples,
        training_pairs=len(pairs.training),
        held_out_pairs=len(pairs.held_out),
        shapes=order.sentence(),
        versions=None if space is None else space.forecast.count,
        interval=None if space is None else expected_interval(completed, space.footprint.whole_bytes),
        space=space,
        slots=slots,
        arena_bytes=needed.get(slots or SLOTS[-1]),
        available_bytes=available,
        memory=memory,
    )
    return found, Opened(folder, inputs, version, start)


def _beside(memory: StepMemory | None) -> int:
    """What a step takes of the memory that the snapshots lie in."""
    return memory.peak_bytes if memory is not None and memory.device == "cpu" else 0


def _met(run: Run | None, config: Config, report: Report) -> tuple[Inputs, bool]:
    """What the line names, and whether the run that is there has other settings."""
    if run is None or not has_begun(run, config.keeper.ram_dir):
        return new_inputs(config, report), False
    before = read_hparams(run.layout.hparams)
    inputs = inputs_within(run, before, as_begun(before, config), report)
    return inputs, bool(refusals(inputs, changes(before, inputs.config), newest(run)))


def _newest(folder: Path) -> Version | None:
    """The version that the same line would go on from, if it is whole."""
    versions = Run.open(folder).versions() if Run.exists(folder) else []
    return next((version for version in reversed(versions) if version.resumable), None)
