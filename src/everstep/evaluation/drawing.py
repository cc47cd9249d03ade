"""A picture from a version, outside of its training: base and ControlNet are loaded, verified, and asked to draw."""

from pathlib import Path

from PIL import Image

from everstep.config import Config
from everstep.config.load import known_part, validate
from everstep.contracts import Pair
from everstep.data import fit
from everstep.data.images import BLACK, read_rgb
from everstep.errors import DamageFound, UserError
from everstep.evaluation.moved import as_they_are
from everstep.evaluation.samples import Shown, draw
from everstep.models.arithmetic import arithmetic
from everstep.models.base import locate
from everstep.models.files import AVERAGED, WEIGHTS
from everstep.models.sd import StableDiffusion
from everstep.versions import Version, verify
from everstep.versions.reading import reading
from everstep.versions.torch import load_weights


def draw_with_version(
    version: Version, condition: Path, prompt: str, seed: int | None = None, averaged: bool = True
) -> Image.Image:
    """Draw with the settings of the version's run. Raises: UserError if the condition is no image."""
    config = as_they_are(config_of(version), version)
    sampling = config.sampling if seed is None else config.sampling.model_copy(update={"seed": seed})
    try:
        image = read_rgb(condition, BLACK)
    except Exception as error:
        raise UserError(f"{condition} is no image that can be read ({error}).") from None
    _, condition_HWC = fit(Pair(image, image, prompt), config.data.resolution or 0, config.data.condition_resize)
    with reading(version.path):  # no prune takes it half-way
        family, controlnet = load(version, config, averaged)
    return Image.fromarray(draw(family, controlnet, [Shown(condition_HWC, prompt)], sampling)[0])


def config_of(version: Version) -> Config:
    """The settings that a version was trained with."""
    return validate(known_part(version.manifest["config"]), f"{version.name}: manifest.json")


def load(version: Version, config: Config, averaged: bool = True) -> tuple[StableDiffusion, object]:
    """The base and the version's ControlNet, with averaged weights if asked for and there.

    Raises: DamageFound naming what is wrong, before anything is drawn.
    """
    wrong = verify(version)
    if wrong:
        raise DamageFound(f"{version.name} is damaged: {wrong[0]}. Nothing was drawn.")
    family = open_base(config)
    controlnet = family.load_controlnet(str(version.path / "controlnet"))
    if weights_drawn_with(version, averaged) == AVERAGED:
        load_weights(controlnet, version, AVERAGED)
    return family, controlnet


def open_base(config: Config) -> StableDiffusion:
    """The base that the settings name, on their device."""
    return StableDiffusion(locate(config.base.path, config.base.revision), arithmetic(config.compute), config.compute)


def weights_drawn_with(version: Version, averaged: bool = True) -> str:
    """The file of the averaged weights if they are asked for and there, else that of the weights themselves."""
    return AVERAGED if averaged and AVERAGED in version.files and version.resumable else WEIGHTS
