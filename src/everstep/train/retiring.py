"""What a run's settings say of older versions, carried out after each new one."""

import time
from collections.abc import Callable

from everstep.config.policy import policy
from everstep.config.schema import Config, Keep
from everstep.errors import EverstepError
from everstep.mirror.following import Following
from everstep.records.scores import marks
from everstep.units import size
from everstep.versions import Run
from everstep.versions.lock import Busy
from everstep.versions.pruning import prune
from everstep.versions.retention import Decision, Fate


def retiring(keep: Keep, in_use: int | None) -> Callable[[Run], str]:
    """A function that lets older versions go and says which. What fails in it costs no training."""

    def retire(run: Run) -> str:
        if keep.everything:
            return ""
        try:
            done = prune(run, policy(keep), time.time(), () if in_use is None else (in_use,), marked(run, keep))
        except Busy:
            return ""  # somebody's own prune; the next version comes soon
        except (EverstepError, OSError) as error:
            return f"Older versions stay: {error}"
        return in_words(done)

    return retire


def following(config: Config, in_use: int | None, mirrors: Following) -> Callable[[Run], str]:
    """All that comes after a new version: it is sent to mirrors, and older ones go."""
    retire = retiring(config.keep, in_use)
    return lambda run: " ".join(filter(None, (mirrors(run), retire(run))))


def mirrors_of(config: Config) -> Following:
    return Following(config.mirror.targets, config.mirror.slim)


def marked(run: Run, keep: Keep) -> dict[int, str]:
    """The versions at the jump, where they are to be kept, with what they are."""
    return marks(run) if keep.jump else {}


def in_words(done: list[Decision]) -> str:
    """Made slim: version_3. Dropped: version_1, version_2. 1.2 GB freed."""
    named = {
        word: ", ".join(f"version_{decision.held.number}" for decision in done if decision.fate is fate)
        for word, fate in (("Made slim", Fate.SLIM), ("Dropped", Fate.DROP))
    }
    parts = [f"{word}: {names}." for word, names in named.items() if names]
    return " ".join([*parts, f"{size(sum(decision.frees_bytes for decision in done))} freed."]) if parts else ""
