"""What is asked of settings before a run exists: that everything they name is there and fits together.

Never imports torch.
"""

from everstep.arrival.cache import start_folder
from everstep.arrival.finding import is_hub_id
from everstep.config import Config
from everstep.config.load import validate
from everstep.contracts import During
from everstep.data import is_elsewhere
from everstep.errors import UserError
from everstep.evaluation.pictures.adherence import MODELS, check_scoring
from everstep.launch.machine import refuse_unfit
from everstep.models.base import BaseFolder, locate
from everstep.models.beginning import check_start
from everstep.models.controls import new_shapes
from everstep.models.survey import survey
from everstep.places import absolute, as_text, spelled
from everstep.telling import untold
from everstep.train.boards import check_tracking
from everstep.versions import Run, run_folder, split_spec


def complete(config: Config, during: During = untold) -> tuple[Config, BaseFolder]:
    """Settings in which nothing is left open: absolute paths, the resolution. Raises: UserError."""
    refuse_unfit(config)
    base = survey(locate(config.base.path, config.base.revision, during))
    resolution = config.data.resolution or base.native_resolution()
    base.latent_shape(resolution)
    _check_control(config, base)
    check_tracking(config.tracking)
    check_scoring(config)
    settings = config.model_dump(mode="json")
    settings["base"]["path"] = base.name
    settings["data"]["path"] = config.data.path if is_elsewhere(config.data.path) else _absolute(config.data.path)
    settings["data"]["resolution"] = resolution
    for key in MODELS:
        if settings["scoring"][key] is not None:
            settings["scoring"][key] = _absolute(settings["scoring"][key])
    settings["optim"]["start_from"] = _start_from(config.optim.start_from, base)
    return validate(settings, "settings"), base


def _check_control(config: Config, base: BaseFolder) -> None:
    """Raises: UserError where the family has no such ControlNet, or where --from brings its own."""
    control = config.optim.control
    if control not in base.row.sizes:
        raise UserError(
            f"optim.control is {control}, but ControlNets for {base.row.title} are {', '.join(base.row.sizes)}. "
            "Nothing was started."
        )
    new_shapes(base, control)  # whether it has a place there
    if control != "full" and config.optim.start_from is not None:
        raise UserError(
            f"optim.control is {control}, but --from brings a ControlNet of its own, of whatever size it is. "
            "Nothing was started.\nLeave one of them out."
        )


def _absolute(path: str) -> str:
    return path if path.startswith("builtin:") else as_text(absolute(spelled(path)), "The folder")


def _start_from(spec: str | None, base: BaseFolder) -> str | None:
    """RUN@VERSION with the version's number instead of a moving name, or what holds a ControlNet, absolute."""
    if spec is None:
        return None
    folder, version = split_spec(spec)
    if version is not None:
        found = Run.open(run_folder(folder)).find(version)
        check_start(found.path / "controlnet", base)
        return f"{found.path.parent}@{found.number}"
    check_start(start_folder(spec, base), base)
    is_here = spelled(spec).exists() or not is_hub_id(spec)
    return as_text(absolute(spelled(spec)), "--from") if is_here else spec
