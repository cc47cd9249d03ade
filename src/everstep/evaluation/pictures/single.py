"""One picture from a version on disk, from a condition that somebody brings."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from PIL import Image

from everstep.config.load import validate
from everstep.config.schema import Config, Sampling
from everstep.contracts import Counted, Pair, Uint8Array
from everstep.data import fit
from everstep.data.transform import fit_target
from everstep.errors import UserError
from everstep.evaluation.loading import config_of, load_network, open_base, refuse_damaged, weights_drawn_with
from everstep.evaluation.moved import as_they_are
from everstep.evaluation.pictures.draw import Shown, paint, rounded
from everstep.evaluation.sheets import arithmetic_facts, picture_digest, sampler_facts
from everstep.models.conditions import open_maker
from everstep.models.family import Family
from everstep.models.files import AVERAGED
from everstep.versions import Version
from everstep.versions.reading import reading

HELD = 3  # networks that stay in memory beside their base
Asked = Mapping[str, int | float | None]  # settings of sampling; None for the run's own


@dataclass(frozen=True, slots=True)
class Single:
    """A picture, and what drawing it again takes."""

    picture: Image.Image
    condition: Image.Image  # as the network was given it
    facts: dict[str, Any]


class Drawer:
    """Draws with the settings of a version's run. The base stays in memory, and the networks used last."""

    def __init__(self, device: str | None = None) -> None:
        """
        Args:
            device: another one than the run's.
        """
        self._device = device
        self._base: tuple[object, Family] | None = None
        self._networks: dict[tuple[str, bool], Any] = {}  # by digest, the one used last at the end

    def draw(
        self,
        version: Version,
        condition: Image.Image,
        prompt: str,
        asked: Asked,
        averaged: bool = True,
        makes_condition: bool = False,
        said: Counted = lambda done, total: None,
        name: str = "the condition",
    ) -> Single:
        """
        Args:
            averaged: with the averaged weights where the version has them.
            makes_condition: whether `condition` is a picture of which the condition is made as in training.
            said: told of denoising steps.
            name: of the condition, in what is said of it.

        Raises: UserError if the run makes no conditions, or what is asked cannot be, or memory does not hold it;
        DamageFound.
        """
        config = as_they_are(config_of(version), version)
        if self._device is not None:
            config = config.model_copy(update={"compute": config.compute.model_copy(update={"device": self._device})})
        sampling = sampling_asked(config, asked)
        shown = Shown(condition_for(config, condition, prompt, makes_condition, name), prompt)
        with reading(version.path):  # no prune takes it half-way
            family, network = self._network(version, config, averaged)
        picture = rounded(paint(family, network, [shown], sampling, said)[0])
        facts = {
            "manifest_digest": version.manifest_digest,
            "base": version.manifest["base"],
            "prompt": prompt,
            "sampler": sampler_facts(family, sampling),
            "averaged": weights_drawn_with(version, averaged) == AVERAGED,
            **arithmetic_facts(family),
            "digest": picture_digest(picture),
        }
        return Single(Image.fromarray(picture), Image.fromarray(shown.condition_HWC), facts)

    def _network(self, version: Version, config: Config, averaged: bool) -> tuple[Family, Any]:
        name = (version.manifest_digest, averaged)
        key = (config.base, config.compute)
        if self._base is None or self._base[0] != key:
            refuse_damaged(version)
            self._networks.clear()
            self._base = None  # before the next is read: two may be more than memory holds
            self._base = (key, open_base(config))
        family = self._base[1]
        if name not in self._networks:
            refuse_damaged(version)
            while len(self._networks) >= HELD:
                del self._networks[next(iter(self._networks))]
            self._networks[name] = load_network(family, version, averaged)
        network = self._networks[name] = self._networks.pop(name)
        return family, network


def sampling_asked(config: Config, asked: Asked) -> Sampling:
    """The run's, but for what is asked. Raises: UserError naming what cannot be."""
    settings = {**config.sampling.model_dump(), **{key: value for key, value in asked.items() if value is not None}}
    return validate({"sampling": settings}, "what was asked").sampling


def condition_for(config: Config, image: Image.Image, prompt: str, is_made: bool, name: str) -> Uint8Array:
    """[H,W,3], as the run would be given it. Raises: UserError if it is to be made, and the run makes none."""
    if not is_made:
        return fit(Pair(image, image, prompt), config.data.resolution or 0, config.data.condition_resize)[1]
    maker = open_maker(config)
    if maker is None:
        raise UserError(
            "--make-condition: the run's conditions are pictures (data.condition is file), so it knows no way to make "
            "one. Nothing was drawn. Without the flag, --condition is the condition itself."
        )
    return maker(fit_target(image, config.data.resolution or 0), name, None)
