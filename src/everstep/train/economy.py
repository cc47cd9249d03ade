"""The settings in the terms of whoever keeps: how a training is watched, and what versions may cost.

Never imports torch.
"""

from everstep.config.schema import Config
from everstep.keeping.intervals import Economy
from everstep.keeping.settings import Settings


def keeping_settings(config: Config, machines: int = 1) -> Settings:
    """Where the interval of versions is found by itself, that of snapshots weighs how often trainers die, too."""
    found = economy(config, machines)
    deaths_s = None if found is None else found.deaths_s
    return Settings(**config.keeper.model_dump(exclude={"mtbf"}), deaths_s=deaths_s)


def economy(config: Config, machines: int = 1) -> Economy | None:
    """None where the settings say themselves when versions are made.

    Args:
        machines: that train together, of which any may fail.
    """
    if not config.versions.every.is_auto:
        return None
    return Economy(config.keeper.mtbf.seconds, config.versions.bytes_a_day.total, machines)
