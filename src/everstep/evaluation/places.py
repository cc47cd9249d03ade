"""Where the base and the pairs of a version are now: both may have been moved since it was made.

Never imports torch.
"""

from pathlib import Path

from everstep.config import Config, read_hparams
from everstep.errors import UserError
from everstep.models.base import locate
from everstep.versions import Version
from everstep.versions.layout import RunLayout


def as_they_are(config: Config, version: Version) -> Config:
    """A version's settings; what is not where it was then is where the run's own settings say that it is now.

    Raises: UserError with the setting to give, or where another base is in the new place.
    """
    places = {"base": config.base.path, "data": config.data.path}
    gone = [key for key, place in places.items() if Path(place).is_absolute() and not Path(place).is_dir()]
    if not gone:
        return config
    run = version.path.parent
    now = read_hparams(RunLayout(run).hparams)
    for key in gone:
        place = getattr(now, key).path
        if Path(place).is_absolute() and not Path(place).is_dir():
            raise UserError(
                f"The {key} of {run.name} is not in {place} any more.\n"
                f"If it was moved: everstep resume {run} --set {key}.path=NEW"
            )
    base = now.base if "base" in gone else config.base
    data = config.data.model_copy(update={"path": now.data.path}) if "data" in gone else config.data
    was = version.manifest["base"]["digest"]
    if "base" in gone and locate(base.path, base.revision).digest(was) != was:
        raise UserError(f"The base in {base.path} is not the one that {version.name} was trained on.")
    return config.model_copy(update={"base": base, "data": data})
