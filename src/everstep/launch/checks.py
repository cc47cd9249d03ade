"""What is asked of settings before a run exists: that everything they name is there and fits together.

Never imports torch.
"""

from everstep.arrival.cache import start_folder
from everstep.arrival.finding import is_hub_id
from everstep.config.load import validate
from everstep.config.schema import Config, Data, Mirror
from everstep.contracts import During
from everstep.data import is_elsewhere
from everstep.data.recipe import Recipe
from everstep.errors import UserError
from everstep.evaluation.pictures.adherence import MODELS, check_scoring
from everstep.launch.machine import refuse_unfit
from everstep.launch.optimizers import check_optimizer
from everstep.mirror.addresses import check, is_address
from everstep.models.base import BaseFolder, locate
from everstep.models.beginning import check_start
from everstep.models.conditions import recipe_of
from everstep.models.controls import new_shapes
from everstep.models.survey import survey
from everstep.places import absolute, as_text, spelled
from everstep.telling import untold
from everstep.train.boards import check_tracking
from everstep.versions import Run, run_folder, split_spec


def _check_mirrors(mirror: Mirror) -> None:
    """Raises: UserError where there is no such folder, or no such kind of address. One that is away is no fault: it
    is caught up with later.
    """
    for target in mirror.targets:
        if is_address(target):
            try:
                check(target)
            except UserError as error:
                raise UserError(f"mirror.targets: {error}") from None
        elif not spelled(target).is_dir():
            raise UserError(
                f"mirror.targets: there is no folder {target}. Nothing was started; mkdir makes one, where its disk is "
                "mounted."
            )


def complete(config: Config, during: During = untold) -> tuple[Config, BaseFolder]:
    """Settings in which nothing is left open: absolute paths, the resolution. Raises: UserError."""
    refuse_unfit(config)
    check_optimizer(config.optim)
    recipe = recipe_of(config.data)
    base = survey(locate(config.base.path, config.base.revision, during))
    resolution = config.data.resolution or base.native_resolution()
    base.latent_shape(resolution)
    _check_control(config, base)
    _check_cache(config.data)
    check_tracking(config.tracking)
    _check_mirrors(config.mirror)
    check_scoring(config)
    settings = config.model_dump(mode="json")
    settings["mirror"]["targets"] = [_whole(target) for target in config.mirror.targets]
    settings["base"]["path"] = base.name
    settings["data"]["path"] = config.data.path if is_elsewhere(config.data.path) else _absolute(config.data.path)
    settings["data"]["resolution"] = resolution
    if config.data.cache_folder is not None:
        settings["data"]["cache_folder"] = _absolute(config.data.cache_folder)
    if recipe is not None and recipe.path is not None:
        settings["data"] |= _places(recipe)
    for key in MODELS:
        if settings["scoring"][key] is not None:
            settings["scoring"][key] = _absolute(settings["scoring"][key])
    settings["optim"]["start_from"] = _start_from(config.optim.start_from, base)
    return validate(settings, "settings"), base


def _whole(target: str) -> str:
    return target if is_address(target) else str(absolute(spelled(target)))


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


def _check_cache(data: Data) -> None:
    """Raises: UserError where there would be nothing to find again."""
    if data.cache != "off" and data.crop == "random":
        raise UserError(
            f"data.cache is {data.cache}, but data.crop is random: nearly every example is another square, "
            "and nothing could be kept. Nothing was started.\n"
            "--data.crop centre takes always the same, --data.cache off keeps none."
        )


def _places(recipe: Recipe) -> dict[str, str]:
    place = _absolute(str(recipe.path))
    if recipe.kind == "function":
        return {"condition": f"{place}:{recipe.function}"}
    return {"condition_model": place}


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
