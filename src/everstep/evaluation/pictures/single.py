"""One picture from a version on disk."""

from pathlib import Path

from PIL import Image

from everstep.contracts import Pair
from everstep.data import fit
from everstep.data.images import BLACK, read_rgb
from everstep.errors import UserError
from everstep.evaluation.loading import config_of, load
from everstep.evaluation.moved import as_they_are
from everstep.evaluation.pictures.draw import Shown, draw
from everstep.versions import Version
from everstep.versions.reading import reading


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
