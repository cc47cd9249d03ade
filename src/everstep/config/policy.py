"""The settings in the terms of others: which versions stay, which way a run goes, and what changes nothing in it."""

from everstep.config.schema import Config, Data, Keep
from everstep.contracts import Framing
from everstep.versions.forecast import Course
from everstep.versions.retention import Policy

# Sections that change nothing of what is trained: any start may have its own.
FREE = ("keep", "keeper", "mirror", "scoring", "tracking")
# Of ranks, the last bits of sums are what threads and GPUs are: the examples, and their order, are the same.
FREE_SETTINGS = ("data.cache_folder", "compute.ranks", "compute.parallel", "versions.bytes_a_day")


def is_free(key: str) -> bool:
    """Whether a setting changes nothing of what is trained."""
    return key in FREE_SETTINGS or key.partition(".")[0] in FREE


def policy(keep: Keep) -> Policy:
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


def framing(data: Data) -> Framing:
    """The settings as those who look at pairs understand them; of settings with nothing left open."""
    assert data.resolution is not None, "the base's own, once it is known"
    return Framing(data.resolution, data.condition_resize, data.resize)


def course(config: Config) -> Course:
    """The settings as the store understands them."""
    return Course(
        max_steps=config.optim.max_steps,
        images_per_step=config.optim.images_per_step,
        every_steps=config.versions.every.steps,
        every_s=config.versions.every.seconds,
        policy=None if config.keep.everything else policy(config.keep),
    )
