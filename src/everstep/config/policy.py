"""The settings in the terms of others: which versions stay, which way a run goes, and what changes nothing in it."""

from typing import TYPE_CHECKING

from everstep.config.amounts import Every
from everstep.config.thinning import Thinning
from everstep.contracts import Framing
from everstep.versions.forecast import Course
from everstep.versions.retention import Policy

if TYPE_CHECKING:  # slow to import, and a mirror's policy needs none of it
    from everstep.config.schema import Config, Data, Keep

# Sections that change nothing of what is trained: any start may have its own.
FREE = ("keep", "keeper", "mirror", "scoring", "tracking")
# Of ranks, the last bits of sums are what threads and GPUs are: the examples, and their order, are the same.
FREE_SETTINGS = ("data.cache_folder", "compute.ranks", "compute.parallel", "versions.bytes_a_day")


def is_free(key: str) -> bool:
    """Whether a setting changes nothing of what is trained."""
    return key in FREE_SETTINGS or key.partition(".")[0] in FREE


def policy(keep: "Keep") -> Policy:
    """The settings as the store understands them."""
    return Policy(
        everything=keep.everything,
        last=keep.last,
        best=keep.best,
        score=keep.score,
        every_versions=keep.every.versions,
        every_steps=keep.every.steps,
        every_s=keep.every.seconds,
        hourly=keep.hourly,
        daily=keep.daily,
        weekly=keep.weekly,
        within_s=keep.within.seconds if keep.within else None,
        budget_bytes=keep.budget.total if keep.budget else None,
    )


def mirror_policy(keep: Thinning, score: str) -> Policy | None:
    """Which versions a mirror keeps, as the store understands it; None where it keeps all."""
    rules = keep.rules()
    if not rules:
        return None
    every, within, budget = rules.get("every", Every()), rules.get("within"), rules.get("budget")
    return Policy(
        last=rules.get("last", 0),
        best=rules.get("best", 0),
        score=score,
        every_versions=every.versions,
        every_steps=every.steps,
        every_s=every.seconds,
        hourly=rules.get("hourly", 0),
        daily=rules.get("daily", 0),
        weekly=rules.get("weekly", 0),
        within_s=within.seconds if within else None,
        budget_bytes=budget.total if budget else None,
    )


def framing(data: "Data") -> Framing:
    """The settings as those who look at pairs understand them; of settings with nothing left open."""
    assert data.resolution is not None, "the base's own, once it is known"
    return Framing(data.resolution, data.condition_resize, data.resize)


def course(config: "Config") -> Course:
    """The settings as the store understands them."""
    return Course(
        max_steps=config.optim.max_steps,
        images_per_step=config.optim.images_per_step,
        every_steps=config.versions.every.steps,
        every_s=config.versions.every.seconds,
        policy=None if config.keep.everything else policy(config.keep),
    )
