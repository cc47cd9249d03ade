"""Base and network of a version on disk, verified and loaded, outside of its training."""

from typing import Any

from everstep.config.load import known_part, validate
from everstep.config.schema import Config
from everstep.errors import DamageFound, UserError
from everstep.models.arithmetic import arithmetic
from everstep.models.base import locate
from everstep.models.family import Family
from everstep.models.files import AVERAGED, WEIGHTS
from everstep.models.registry import open_family
from everstep.versions import Version, verify
from everstep.versions.torch import load_weights


def config_of(version: Version) -> Config:
    """The settings that a version was trained with. Raises: UserError for one of a loop of somebody's own."""
    if "config" not in version.manifest:
        raise UserError(f"{version.name} does not say how it was trained, so there is nothing to draw it on.")
    return validate(known_part(version.manifest["config"]), f"{version.name}: manifest.json")


def load(version: Version, config: Config, averaged: bool = True) -> tuple[Family, object]:
    """The base and the version's ControlNet, with averaged weights if asked for and there.

    Raises: DamageFound naming what is wrong, before anything is drawn.
    """
    refuse_damaged(version)
    family = open_base(config)
    return family, load_network(family, version, averaged)


def refuse_damaged(version: Version) -> None:
    """Reads it whole. Raises: DamageFound naming what is wrong."""
    wrong = verify(version)
    if wrong:
        raise DamageFound(f"{version.name} is damaged: {wrong[0]}. Nothing was drawn.")


def load_network(family: Family, version: Version, averaged: bool = True) -> Any:
    """The version's ControlNet, for a base that is there already."""
    controlnet = family.load_controlnet(str(version.path / "controlnet"))
    if weights_drawn_with(version, averaged) == AVERAGED:
        load_weights(controlnet, version, AVERAGED)
    return controlnet


def open_base(config: Config) -> Family:
    """The base that the settings name, on their device."""
    return open_family(locate(config.base.path, config.base.revision), arithmetic(config.compute), config.compute)


def weights_drawn_with(version: Version, averaged: bool = True) -> str:
    """The file of the averaged weights if they are asked for and there, else that of the weights themselves."""
    return AVERAGED if averaged and AVERAGED in version.files and version.resumable else WEIGHTS
