"""The settings in the terms of whoever keeps: how a training is watched, and what versions may cost.

Never imports torch.
"""

from everstep.config import Config
from everstep.keeping.intervals import Economy
from everstep.keeping.settings import Settings


def keeping_settings(config: Config) -> Settings:
    """Where the interval of versions is found by itself, that of snapshots weighs how often trainers die, too."""
    found = economy(config)
    deaths_s = None if found is None else found.deaths_s
    return Settings(**config.keeper.model_dump(exclude={"mtbf"}), deaths_s=deaths_s)


def economy(config: Config) -> Economy | None:
    """None where the settings say themselves when versions are made."""
    if not config.versions.every.is_auto:
        return None
    return Economy(config.keeper.mtbf.seconds, config.versions.bytes_a_day.total)
