"""After a trainer's end: whether it is started again, and from where. Pure; the keeper carries it out."""

import signal
from collections.abc import Sequence
from dataclasses import dataclass

from everstep.errors import ExitCode

NEAR_STEPS = 10  # deaths so soon after a version speak against that version
MEANT = (ExitCode.DONE, ExitCode.WRONG_INPUT, ExitCode.STOPPED, ExitCode.NOT_FINITE)  # another start would end alike


@dataclass(frozen=True, slots=True)
class End:
    """How a trainer ended."""

    code: int | None  # its exit code, or minus the signal that ended it; None where it was nobody's child
    step: int  # where it was, as far as it told

    @classmethod
    def of(cls, code: int | None, said: int | None, step: int) -> "End":
        """A program that was stopped has said so; after its loop it goes on, and may well end with 0."""
        is_told = said is not None and (code is None or (code == 0 and said in MEANT))
        return cls(said if is_told else code, step)

    @property
    def exit_code(self) -> int:
        """Of the whole program: a killed trainer can be resumed."""
        return int(ExitCode.STOPPED) if self.code is None or self.code < 0 else self.code

    @property
    def words(self) -> str:
        """After "the trainer"."""
        if self.code is None:
            return "has ended"
        if self.code >= 0:
            return f"ended with exit code {self.code}"
        try:
            return f"was ended by {signal.Signals(-self.code).name}"
        except ValueError:  # most real-time signals have no name
            return f"was ended by signal {-self.code}"


@dataclass(frozen=True, slots=True)
class Whole:
    """A version that could be gone on from."""

    number: int
    step: int


@dataclass(frozen=True, slots=True)
class Next:
    """What is done after an end: leave with a code, or go on from a version (None for the very start)."""

    exit_code: int | None
    version: int | None = None
    gave_up_on: int | None = None  # the version that was passed over, since trainers died near it


def next_after(
    end: End, is_safe: bool, is_asked_to_stop: bool, starts_left: int, deaths: Sequence[int], wholes: Sequence[Whole]
) -> Next:
    """Decide.

    Args:
        is_safe: everything that was in memory is on the disk.
        deaths: the steps at which trainers died, this one last.
        wholes: the versions that can be gone on from, oldest first.
    """
    if not is_safe:
        return Next(int(ExitCode.DISK_FULL))
    if end.code in MEANT or is_asked_to_stop or starts_left <= 0:
        return Next(end.exit_code)
    left = list(wholes)
    while len(left) > 1 and _deaths_near(left[-1], deaths) > 1:
        left.pop()
    passed = wholes[-1].number if left and left[-1] != wholes[-1] else None
    return Next(None, left[-1].number if left else None, passed)


def _deaths_near(version: Whole, deaths: Sequence[int]) -> int:
    return sum(0 <= step - version.step <= NEAR_STEPS for step in deaths)
