"""When the next version is due: after so many steps, after some time, or at once where nothing came of the last one."""

import time

from everstep.keeping.claims import Claim, Making

AGAIN = 3  # drafts in a row of which nothing came: what spoils every copy must not cost every step a copy


class Due:
    """Of one training. Knows nothing of how versions are made."""

    def __init__(self, last_step: int | None) -> None:
        """
        Args:
            last_step: of the version that the training goes on from.
        """
        self.last_step = last_step  # of the newest version, made or on its way
        self.saved_at = time.monotonic()  # when that was made, or set on its way
        self._spoilt, self._is_owed = 0, False

    def is_due(self, step: int, making: Making, every_s: float | None) -> bool:
        """Whether a version is to be made after this step.

        Args:
            every_s: the interval, where time decides.
        """
        if step in (self.last_step, making.max_steps):  # the last one is made at the end, and says so
            return False
        if self._is_owed:
            return True
        if making.every_steps is not None and step // making.every_steps > (self.last_step or 0) // making.every_steps:
            return True
        return every_s is not None and time.monotonic() - self.saved_at >= every_s

    def made(self, step: int) -> None:
        """The version of this step is made, or set on its way."""
        self.last_step, self.saved_at, self._is_owed = step, time.monotonic(), False

    def committed(self) -> None:
        """The disk has one: what spoilt others is over."""
        self._spoilt = 0

    def spoilt(self, claim: Claim) -> bool:
        """Nothing came of the claim, which nobody waits for: another is due at once, not one interval later.

        Returns whether it is; not where a newer one is on its way, nor again and again.
        """
        self._spoilt += 1
        is_again = self._spoilt <= AGAIN and claim.step == self.last_step
        self._is_owed = self._is_owed or is_again  # an older one that is spoilt afterwards takes nothing back
        return is_again


def next_step(step: int, making: Making) -> int | None:
    """The step of the next version where that can be told; time alone cannot."""
    every, most = making.every_steps, making.max_steps
    if every is None:
        return None
    coming = (step // every + 1) * every
    return coming if most is None else min(coming, most)
