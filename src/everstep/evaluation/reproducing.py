"""A contact sheet drawn again from the version on disk, and compared picture by picture with what was drawn then."""

from dataclasses import dataclass
from importlib.metadata import version as installed

import torch
from PIL import Image

from everstep.config.schema import Compute, Config, Sampling
from everstep.errors import UserError
from everstep.evaluation.loading import config_of, open_base
from everstep.evaluation.moved import as_they_are
from everstep.evaluation.pictures.draw import Together, draw, shown_pairs
from everstep.evaluation.pictures.sheet import contact_sheet
from everstep.evaluation.sheets import picture_digest
from everstep.models.conditions import open_framer, open_pairs
from everstep.models.family import Family
from everstep.models.files import AVERAGED, WEIGHTS
from everstep.records.sheets import SheetFacts, read_sheet
from everstep.versions import Run, Version
from everstep.versions.reading import reading
from everstep.versions.torch import load_weights


@dataclass(frozen=True, slots=True)
class Reproduced:
    """The sheet as it was drawn now. differs: what is not as it was then, in words; it may explain other bits."""

    page: Image.Image
    same: int
    total: int
    differs: tuple[str, ...]


def reproduce(run: Run, version: Version) -> Reproduced:
    """Draw a version's sheet again, on the device and in the arithmetic of then where they are there.

    Raises: UserError if the version has none, or what it was drawn from is not there any more.
    """
    facts = read_sheet(run, version)
    if facts.averaged and not version.resumable:
        raise UserError(
            f"The sheet of {version.name} was drawn with averaged weights, which went when it was made slim."
        )
    config = as_they_are(config_of(version), version)
    source = open_pairs(config.data)
    shown = shown_pairs(open_framer(config, source), facts.pairs)
    if [item.caption for item in shown] != facts.captions:
        raise UserError(f"The pairs in {config.data.path} are not those that {version.name} was drawn from.")
    if facts.device == "cpu":
        torch.set_num_threads(facts.threads)
    family = open_base(_in_the_precision_of(facts, config))
    if family.base.digest(facts.base["digest"]) != facts.base["digest"]:
        raise UserError(f"The base {family.base.name} is not the one that {version.name} was drawn with.")
    controlnet = family.load_controlnet(str(version.path / "controlnet"))
    with reading(version.path):
        load_weights(controlnet, version, AVERAGED if facts.averaged else WEIGHTS)
    together = Together(facts.drawn_together)
    pictures = draw(family, controlnet, shown, _sampling(facts), together)
    same = [picture_digest(picture) == then for picture, then in zip(pictures, facts.digests, strict=True)]
    page = contact_sheet(facts.title, shown, pictures)
    return Reproduced(page, sum(same), len(same), tuple(_differences(facts, family, together)))


def _in_the_precision_of(facts: SheetFacts, config: Config) -> Config:
    """What auto meant where the sheet was drawn."""
    if config.compute.precision != "auto":
        return config
    compute = Compute.model_validate({**config.compute.model_dump(), "precision": facts.precision})
    return config.model_copy(update={"compute": compute})


def _sampling(facts: SheetFacts) -> Sampling:
    return Sampling(**{name: facts.sampler[name] for name in Sampling.model_fields})


def _differences(facts: SheetFacts, family: Family, together: Together) -> list[str]:
    found = []
    if facts.device != str(family.arithmetic.device):
        found.append(f"device {facts.device} then, {family.arithmetic.device} now")
    if facts.drawn_together != together.size:
        found.append(f"{facts.drawn_together} pictures drawn at once then, {together.size} now, for want of memory")
    if facts.sampler["scheduler_config"] != family.sampler_config(facts.sampler["scheduler"]):
        found.append("the scheduler's own settings")
    for name, then in facts.libraries.items():
        if then != installed(name):
            found.append(f"{name} {then} then, {installed(name)} now")
    return found
