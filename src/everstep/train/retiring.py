"""What a run's settings say of older versions, carried out after each new one."""

import time
from collections.abc import Callable, Sequence

from everstep.config.policy import policy
from everstep.config.schema import Config, Keep
from everstep.errors import EverstepError
from everstep.mirror.addresses import address_of
from everstep.mirror.following import Following
from everstep.mirror.known import awaited
from everstep.records.scores import marks
from everstep.units import size
from everstep.versions import Run, Version
from everstep.versions.fsops import free_bytes
from everstep.versions.lock import Busy
from everstep.versions.pruning import prune
from everstep.versions.retention import Decision, Fate

ROOM_FOR = 3  # versions that still fit, where no budget says how long what is not mirrored may stay


def retiring(config: Config, in_use: int | None) -> Callable[[Run], str]:
    """A function that lets older versions go and says which. What fails in it costs no training."""
    keep = config.keep

    def retire(run: Run) -> str:
        if keep.everything:
            return ""
        used = () if in_use is None else (in_use,)
        try:
            waiting = not_mirrored(run, config)
            done = prune(run, policy(keep), time.time(), used, marked(run, keep), waiting)
        except Busy:
            return ""  # somebody's own prune; the next version comes soon
        except (EverstepError, OSError) as error:
            return f"Older versions stay: {error}"
        return in_words(done)

    return retire


def following(config: Config, in_use: int | None, mirrors: Following) -> Callable[[Run], str]:
    """All that comes after a new version: it is sent to mirrors, and older ones go."""
    retire = retiring(config, in_use)
    return lambda run: " ".join(filter(None, (mirrors(run), retire(run))))


def mirrors_of(config: Config) -> Following:
    asked = {"--rate": config.mirror.rate, "--keep": config.mirror.keep if config.mirror.keep.rules() else None}
    words = [word for flag, value in asked.items() if value is not None for word in (flag, str(value))]
    return Following(config.mirror.targets, [*(["--slim"] if config.mirror.slim else []), *words])


def catch_up(run: Run, config: Config, mirrors: Following) -> str:
    """Before a training: what memory held is a version now, and a mirror may have been away, or is new."""
    versions = run.versions()
    count = len(lacking(run, config, versions))
    if count == 0:
        return ""
    return (
        mirrors(run) or f"Of {len(versions):,} versions a mirror is not known to have {count:,}; they are being sent."
    )


def not_mirrored(run: Run, config: Config) -> set[int]:
    """Versions that stay since a mirror lacks them: within the budget, or, where there is none, as long as three more
    versions fit on the disk. A mirror that is away must not fill it.
    """
    if not config.mirror.targets:
        return set()
    versions = run.versions()
    waiting = lacking(run, config, versions)
    room = ROOM_FOR * max((version.size_bytes for version in versions), default=0)
    may_wait = config.keep.budget is not None or free_bytes(run.path) >= room
    return waiting if may_wait else set()


def lacking(run: Run, config: Config, versions: Sequence[Version]) -> set[int]:
    """Those that a mirror is not known to have, nor to leave out by a policy of its own."""
    addresses = [address_of(target, run.name) for target in config.mirror.targets]
    return awaited(run, addresses, [version.number for version in versions])


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
