"""One picture from a version on disk."""

from pathlib import Path

from PIL import Image

from everstep.config import Config
from everstep.contracts import Pair, Uint8Array
from everstep.data import fit
from everstep.data.images import BLACK, read_rgb
from everstep.data.transform import fit_target
from everstep.errors import UserError
from everstep.evaluation.loading import config_of, load
from everstep.evaluation.moved import as_they_are
from everstep.evaluation.pictures.draw import Shown, draw
from everstep.models.conditions import open_maker
from everstep.versions import Version
from everstep.versions.reading import reading


def draw_with_version(
    version: Version,
    condition: Path,
    prompt: str,
    seed: int | None = None,
    averaged: bool = True,
    makes_condition: bool = False,
) -> Image.Image:
    """Draw with the settings of the version's run.

    Args:
        makes_condition: whether `condition` is a picture of which the condition is made as in training.

    Raises: UserError if the condition is no image, or the run makes none.
    """
    config = as_they_are(config_of(version), version)
    sampling = config.sampling if seed is None else config.sampling.model_copy(update={"seed": seed})
    try:
        image = read_rgb(condition, BLACK)
    except Exception as error:
        raise UserError(f"{condition} is no image that can be read ({error}).") from None
    if makes_condition:
        condition_HWC = _made_of(image, condition.name, config)
    else:
        _, condition_HWC = fit(Pair(image, image, prompt), config.data.resolution or 0, config.data.condition_resize)
    with reading(version.path):  # no prune takes it half-way
        family, controlnet = load(version, config, averaged)
    return Image.fromarray(draw(family, controlnet, [Shown(condition_HWC, prompt)], sampling)[0])


def _made_of(image: Image.Image, name: str, config: Config) -> Uint8Array:
    maker = open_maker(config)
    if maker is None:
        raise UserError(
            "--make-condition: the run's conditions are pictures (data.condition is file), so it knows no way to make "
            "one. Nothing was drawn. Without the flag, --condition is the condition itself."
        )
    return maker(fit_target(image, config.data.resolution or 0), name, None)
