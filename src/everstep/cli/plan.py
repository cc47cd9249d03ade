"""everstep plan"""

from dataclasses import asdict
from typing import Annotated, Any

from cyclopts import Parameter

from everstep.cli.plan_measured import Told
from everstep.cli.plan_measured import facts as measured_facts
from everstep.cli.plan_measured import row as measured_row
from everstep.cli.printing import beside, lines, print_json
from everstep.cli.train import default_name
from everstep.config.load import resolve
from everstep.config.schema import Config
from everstep.errors import ExitCode, UserError
from everstep.keeping.memory import SLOTS
from everstep.launch.measure import measure
from everstep.launch.plan import Opened, Plan, plan
from everstep.launch.space import Space
from everstep.train.measured import Measured
from everstep.units import size
from everstep.versions import run_folder

WIDTH = len("snapshots")  # of the names: what is measured stands under what was told before


def plan_(
    config: str | None = None,
    *,
    run: str | None = None,
    set: Annotated[tuple[str, ...], Parameter(negative=())] = (),
    settings: Annotated[Config | None, Parameter(name="*")] = None,
    quick: Annotated[bool, Parameter(negative=())] = False,
    json: bool = False,
) -> int:
    """What a training would be, and what it takes, measured at its real settings; exit 1 if it does not fit.

    Parameters
    ----------
    config
        YAML file of settings, the hparams.yaml of a run, or the name of a preset.
    run
        Name of the run, a folder in runs/; left out, the name of the data. One that is there is counted in.
    set
        key=value, any setting by its dotted name; may be given several times.
    quick
        Only what can be told in a second: nothing is loaded, trained or written.
    json
        Print as JSON, with what was measured unless --quick.
    """
    overlay = {} if settings is None else settings.model_dump(mode="json", exclude_unset=True)
    resolved = resolve(config, overlay, set)
    notes: list[str] = []
    found, opened = plan(run_folder(default_name(resolved) if run is None else run), resolved, notes.append)
    if (ranks := resolved.compute.ranks) != 1:
        many = "the ranks share" if ranks == "auto" else f"{ranks} ranks share"
        notes.append(f"Measured with one rank, which has all of each batch; {many} it, so steps are shorter than here.")
    if not json:
        print("\n".join(notes + lines(_facts(found), WIDTH)), flush=True)
    measured = None if quick else _measured(found, opened)
    told = Told(found, opened, measured)
    if json:
        print_json({**_row(found), **_verdict(told), "measured": None if measured is None else measured_row(told)})
    elif shown := measured_facts(told):
        print("\n".join(lines(shown, WIDTH)))
    return ExitCode.DONE if told.runs else ExitCode.FAULT_FOUND


def _measured(found: Plan, opened: Opened) -> Measured:
    """Or why it was not."""
    if found.steps_left == 0:
        return Measured(left_out=["nothing was measured: the training is complete"])
    if found.space is not None and not found.space.fits:
        return Measured(left_out=["nothing was measured: a version does not fit on the disk"])
    if found.lacking_bytes:
        return Measured(left_out=["nothing was measured: it would take more memory than this machine has to spare"])
    return measure(opened, beside)


def _verdict(told: Told) -> dict[str, Any]:
    fits_disk = None if told.plan.space is None else told.plan.space.fits
    known = [fits for fits in (fits_disk, told.fits_memory) if fits is not None]
    return {
        "fits": all(known) if known else None,
        "fits_disk": fits_disk,
        "fits_memory": told.fits_memory,
        "switches": [asdict(switch) for switch in told.switches],
    }


def _facts(found: Plan) -> dict[str, str]:
    begins = "new"
    if found.goes_on_from:
        begins = f"complete with {found.goes_on_from}" if found.versions == 0 else f"goes on from {found.goes_on_from}"
    if found.refused:
        begins = f"new, because {found.refused} is there with other settings and train would refuse this line"
    facts = {
        "run": f"{found.run}, {begins}",
        "base": f"{found.base}, trained at {found.resolution} px",
        "data": f"{found.data}; {found.training_pairs:,} to train on, {found.held_out_pairs:,} held out",
        "steps": f"{found.steps:,} of {found.images_per_step:,} images, {found.images_seen:,} images seen, "
        f"{found.epochs:.3g} epochs",
        **({} if found.shapes is None else {"shapes": found.shapes}),
        "versions": _versions(found),
        "disk": "what a version weighs cannot be told beforehand for this base",
    }
    facts["memory"] = _memory(found)
    if found.space is not None:
        facts["disk"] = found.space.sentence().replace("\n", " ")
        facts["snapshots"] = _snapshots(found)
        if not found.space.fits:
            facts["refused"] = _refusal(found.space)
    return facts


def _versions(found: Plan) -> str:
    """11 to come; or, found by itself: as often as costs least, about every 12 min: ..."""
    if found.interval is not None:
        return f"as often as costs least, found while it trains; from sizes alone, {found.interval.sentence}"
    return "as time allows" if found.versions is None else f"{found.versions:,} to come"


def _memory(found: Plan) -> str:
    """A step takes 11.4 GB at its most: base 4.3 GB, weights 1.4 GB, ..."""
    memory = found.memory
    if memory is None:
        return "what a step takes cannot be told beforehand for this network"
    parts = {
        "base": memory.base_bytes,
        "weights": memory.weights_bytes,
        "optimizer": memory.moments_bytes,
        "averaged weights": memory.averaged_bytes,
        "gradients": memory.gradients_bytes,
        "batch": memory.batch_bytes,
        "libraries": memory.libraries_bytes,
    }
    told = ", ".join(f"{word} {size(part)}" for word, part in parts.items() if part)
    where = "of the GPU " if memory.device == "cuda" else ""
    said = f"a step takes {size(memory.step_bytes)} {where}at its most ({told})"
    if memory.loading_bytes > memory.step_bytes:
        said += f", and reading the base before it {size(memory.loading_bytes)}"
    return f"{said}; {size(found.lacking_bytes)} more than there is to spare" if found.lacking_bytes else said


def _snapshots(found: Plan) -> str:
    slots, needed = found.slots or SLOTS[-1], size(found.arena_bytes or 0)
    available = "" if found.available_bytes is None else f", {size(found.available_bytes)} to spare"
    if found.slots is None:
        return f"{slots} slots would need {needed} of memory{available}: versions are written while training waits"
    return f"{slots} slots, {needed} of memory{available}"


def _refusal(space: Space) -> str:
    try:
        space.refuse_if_full()
    except UserError as error:
        return str(error).replace("\n", " ")
    return ""


def _row(found: Plan) -> dict[str, Any]:
    row = {key: value for key, value in asdict(found).items() if key != "space"}
    memory = found.memory
    if memory is not None:
        row["memory"] = {**asdict(memory), "step_bytes": memory.step_bytes, "peak_bytes": memory.peak_bytes}
    row["lacking_bytes"] = found.lacking_bytes
    space = found.space
    if space is None:
        return row
    return {
        **row,
        "version_bytes": space.footprint.whole_bytes,
        "slim_bytes": space.footprint.slim_bytes,
        "file_bytes": dict(space.footprint.files),
        "there_bytes": space.forecast.now_bytes,
        "policy_bytes": space.forecast.peak_bytes,
        "next_two_bytes": space.forecast.next_two_bytes,
        "free_bytes": space.free_bytes,
        "full_after_versions": None if (at := space.forecast.fills_at(space.free_bytes)) is None else at - 1,
    }
