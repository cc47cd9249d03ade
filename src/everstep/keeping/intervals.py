"""How far apart versions and snapshots best are, and what share of the time is useful then. Pure arithmetic.

Two clocks, since two kinds of failure leave different things. A trainer that dies leaves the memory that the keeper
holds, so what is lost goes by the clock of snapshots; a machine that fails leaves the disk, so what is lost goes by the
clock of versions. Each clock's best interval weighs what one copy costs against what a failure then costs.

Sources: Young, A first order approximation to the optimum checkpoint interval, CACM 17 (9), 1974. Daly, A higher order
estimate of the optimum checkpoint interval for restart dumps, Future Generation Computer Systems 22 (3), 2006.
Units: seconds.
"""

import math
from dataclasses import dataclass

from everstep.units import about, size

DAY_S = 86_400.0
SHORTEST_S = 10.0  # between two versions: nobody gains by less, and a list of versions shall be readable
LONGEST_S = 3600.0  # an hour of work is what a person puts up with losing, whatever is cheapest
LONGEST_SNAPSHOT_S = 60.0  # of the same for a trainer's death, which comes oftener and is nobody's fault
DISK_SHARE = 0.5  # of the time that the keeper may be at work on versions; beyond, each would wait for the one before
HOPELESS = 500.0  # so many failures are expected within one interval: e to this power is more than there is time
# Deaths that leave the machine as it was, for one that does not: three of four failures of large trainings were mended
# by starting the process again (DLRover's report on its flash checkpoint).
DEATHS_PER_FAILURE = 3


@dataclass(frozen=True, slots=True)
class Economy:
    """What versions may cost, and what they are for.

    Args:
        mtbf_s: mean time between failures of one machine that leave no more than its disk.
        bytes_a_day: that versions may write.
        machines: that fail together, as one training.
    """

    mtbf_s: float = 30 * DAY_S
    bytes_a_day: int = 500 * 10**9
    machines: int = 1

    @property
    def failures_s(self) -> float:
        """Mean time between failures of any of the machines."""
        return self.mtbf_s / self.machines

    @property
    def deaths_s(self) -> float:
        """Mean time between deaths of a trainer that leave its memory."""
        return self.failures_s / DEATHS_PER_FAILURE


@dataclass(frozen=True, slots=True)
class Cost:
    """What one version costs, as far as it was measured.

    Args:
        training_s: by which training came later: it waited, or was slower while the version was written.
        commit_s: from its beginning until the disk has it.
    """

    training_s: float | None = None
    commit_s: float | None = None
    size_bytes: int | None = None


@dataclass(frozen=True, slots=True)
class Interval:
    """Between versions, and what decided on it, in words."""

    seconds: float
    why: str

    @property
    def sentence(self) -> str:
        """every 12 min: a version costs 0.31 s of training, and a failure is expected every 30 days"""
        return f"every {about(self.seconds)}: {self.why}"


def young(cost_s: float, mtbf_s: float) -> float:
    """The interval at which copies and what failures lose cost the same: sqrt(2 C M). Source: Young 1974."""
    return math.sqrt(2 * cost_s * mtbf_s)


def daly(cost_s: float, mtbf_s: float) -> float:
    """Useful seconds between the end of one copy and the beginning of the next that make a training end soonest.

    Goes on to be right where a copy is no longer short beside the time between failures, where Young's is too long.
    Source: Daly 2006, the higher order estimate: sqrt(2 C M) [1 + sqrt(C / 2M) / 3 + (C / 2M) / 9] - C where C < 2 M,
    else M.
    """
    if cost_s >= 2 * mtbf_s:
        return mtbf_s
    part = cost_s / (2 * mtbf_s)
    return young(cost_s, mtbf_s) * (1 + math.sqrt(part) / 3 + part / 9) - cost_s


def useful_share(interval_s: float, cost_s: float, lost_s: float, mtbf_s: float) -> float:
    """Useful seconds of each second that passes, 0..1, with copies so far apart and failures that come at random.

    Args:
        lost_s: at each failure besides the work since the last copy: finding out, starting again, reading, and the time
            by which a copy that is not finished yet is no copy.

    Source: Daly 2006, the complete cost function: T = M e^(R/M) (e^((interval + C)/M) - 1) per interval of work.
    """
    passed = (interval_s + cost_s) / mtbf_s
    if passed + lost_s / mtbf_s > HOPELESS:
        return 0.0
    return interval_s / mtbf_s / (math.exp(lost_s / mtbf_s) * math.expm1(passed))


def version_interval(economy: Economy, cost: Cost) -> Interval:
    """The longest of what each bound asks for, so that all of them hold; the cheapest interval lies under an hour."""
    asked = [Interval(SHORTEST_S, f"{about(SHORTEST_S)} is the least")]
    if cost.training_s is not None:
        asked.append(_cheapest(economy, cost.training_s))
    if cost.commit_s is not None:
        spared = Interval(cost.commit_s / DISK_SHARE, f"the disk takes {_fine(cost.commit_s)} for a version")
        asked.append(spared)
    if cost.size_bytes is not None:
        asked.append(_affordable(economy, cost.size_bytes))
    return max(asked, key=lambda one: one.seconds)


def _cheapest(economy: Economy, training_s: float) -> Interval:
    best_s = daly(training_s, economy.failures_s)
    costs = f"a version costs {_fine(training_s)} of training"
    if best_s > LONGEST_S:
        return Interval(LONGEST_S, f"{costs}; {about(best_s)} would be cheapest, but an hour is what may be lost")
    return Interval(best_s, f"{costs}, and a failure is expected every {about(economy.failures_s)}")


def _affordable(economy: Economy, size_bytes: int) -> Interval:
    words = f"a version is {size(size_bytes)}, and a day may have {size(economy.bytes_a_day)} (versions.bytes_a_day)"
    return Interval(size_bytes * DAY_S / economy.bytes_a_day, words)


def snapshot_interval(cost_s: float, deaths_s: float) -> float:
    """Of copies into memory: the cheapest, but a minute at most; what they cost in all is bounded by whoever asks."""
    return min(daly(cost_s, deaths_s), LONGEST_SNAPSHOT_S)


def _fine(seconds: float) -> str:
    """0.034 s, 2.1 s, 3 min: one digit more than `about` has of little."""
    return f"{seconds:.2g} s" if seconds < 10 else about(seconds)
