"""everstep sample"""

from pathlib import Path

from PIL import Image

from everstep.cli.place import open_version
from everstep.cli.printing import beside
from everstep.data.images import BLACK, read_rgb
from everstep.errors import UserError
from everstep.places import here, refuse_unwritable


def sample_(
    version: str,
    *,
    condition: Path,
    prompt: str,
    out: Path | None = None,
    seed: int | None = None,
    strength: float | None = None,
    guidance: float | None = None,
    steps: int | None = None,
    averaged: bool = True,
    make_condition: bool = False,
) -> int:
    """Draw a picture with a version.

    Parameters
    ----------
    version
        RUN@N, or RUN for its latest version.
    condition
        The condition image; cropped to the size the run was trained at.
    prompt
        What to draw.
    out
        PNG file; left out, a name in the folder that the command runs in.
    seed
        Seed of the noise; left out, the run's.
    strength
        Of the condition; left out, the run's sampling.condition_scale.
    guidance
        Classifier-free guidance, 1 for none; left out, the run's.
    steps
        Denoising steps; left out, the run's.
    averaged
        Draw with the averaged weights where the version has them.
    make_condition
        Take --condition for a picture, and make the condition from it as the run does (data.condition).
    """
    _, found = open_version(version)
    if not condition.is_file():
        raise UserError(f"--condition {condition}: there is no such file.")
    here()  # PyTorch loads from nowhere else
    target = refuse_unwritable("--out", out or Path(f"{found.path.parent.name}-{found.name}.png"))
    asked = {"seed": seed, "condition_scale": strength, "guidance_scale": guidance, "steps": steps}
    image = _opened(condition)
    with beside(f"Drawing with {found.name}", "steps") as said:
        from everstep.evaluation.pictures.single import Drawer

        picture = Drawer().draw(found, image, prompt, asked, averaged, make_condition, said, condition.name).picture
    picture.save(target)
    print(f"{found.name} drew {target} ({picture.width}x{picture.height})")
    return 0


def _opened(condition: Path) -> Image.Image:
    try:
        return read_rgb(condition, BLACK)
    except Exception as error:
        raise UserError(f"{condition} is no image that can be read ({error}).") from None
