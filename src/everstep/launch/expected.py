"""Which interval a training would find by itself, told before it begins: from what was measured, or assumed.

Never imports torch.
"""

from dataclasses import replace

from everstep.config.policy import course
from everstep.config.schema import Config
from everstep.keeping.intervals import Cost, Interval, version_interval
from everstep.train.economy import economy
from everstep.train.measured import Measured
from everstep.versions.forecast import Course

# As long as nothing was measured. Slow for a machine of today, so that the interval turns out shorter, not longer.
COPY_BYTES_PER_S, COMMIT_BYTES_PER_S = 2e9, 5e8


def expected_interval(config: Config, size_bytes: int, found: Measured | None = None) -> Interval | None:
    """None where the settings say themselves when versions are made.

    Args:
        size_bytes: of a whole version.
    """
    weighed = economy(config)
    if weighed is None:
        return None
    if found is None or found.committed is None:
        return version_interval(
            weighed, Cost(size_bytes / COPY_BYTES_PER_S, size_bytes / COMMIT_BYTES_PER_S, size_bytes)
        )
    is_waiting = config.keeper.snapshots == "off"
    written_s = found.committed.seconds if is_waiting else found.committed.copy_s
    drawn_s = 0.0 if found.evaluated is None else found.evaluated.pictures_s or 0.0
    return version_interval(weighed, Cost(written_s + drawn_s, found.committed.seconds, found.committed.version_bytes))


def expected_course(config: Config, size_bytes: int, found: Measured | None = None) -> Course:
    """The way ahead by the settings, with the interval that would be found where they leave it to the training."""
    interval = expected_interval(config, size_bytes, found)
    return course(config) if interval is None else replace(course(config), every_s=interval.seconds)
