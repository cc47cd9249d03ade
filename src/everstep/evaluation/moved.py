"""Where the base and the pairs of a version are now: both may have been moved since it was made.

Never imports torch.
"""

from pathlib import Path

from everstep.config.load import read_hparams
from everstep.config.schema import Config
from everstep.errors import UserError
from everstep.models.base import locate
from everstep.places import as_word
from everstep.versions import Version
from everstep.versions.layout import RunLayout


def is_gone(place: str) -> bool:
    """Whether a folder, or a file, is not there any more; of a hub id or what is built in nothing is known."""
    return Path(place).is_absolute() and not Path(place).exists()


def gone(run: Path, key: str, place: str) -> UserError:
    """What is said where base or data of a run are gone, with the setting to give."""
    return UserError(
        f"The {key} of {run.name} is not in {place} any more. Nothing was changed.\n"
        f"If it was moved: everstep resume {as_word(run)} --set {key}.path=NEW"
    )


def _made_elsewhere(config: Config) -> list[str]:
    """Settings that name the function or the model which makes conditions, where that is not there any more.

    Whether what is there now is the same, the fingerprint of the data tells.
    """
    function, _, _ = config.data.condition.rpartition(":")
    places = {"condition": function, "condition_model": config.data.condition_model or ""}
    return [key for key, place in places.items() if place and is_gone(place)]


def as_they_are(config: Config, version: Version) -> Config:
    """A version's settings; what is not where it was then is where the run's own settings say that it is now.

    Raises: UserError with the setting to give, or where another base is in the new place.
    """
    places = {"base": config.base.path, "data": config.data.path}
    moved = [key for key, place in places.items() if is_gone(place)]
    if not moved and not _made_elsewhere(config):
        return config
    run = version.path.parent
    now = read_hparams(RunLayout(run).hparams)
    for key in moved:
        if is_gone(place := getattr(now, key).path):
            raise gone(run, key, place)
    base = now.base if "base" in moved else config.base
    data = config.data.model_copy(update={"path": now.data.path}) if "data" in moved else config.data
    data = data.model_copy(update={key: getattr(now.data, key) for key in _made_elsewhere(config)})
    was = version.manifest["base"]["digest"]
    if "base" in moved and locate(base.path, base.revision).digest(was) != was:
        raise UserError(f"The base in {base.path} is not the one that {version.name} was trained on.")
    return config.model_copy(update={"base": base, "data": data})
