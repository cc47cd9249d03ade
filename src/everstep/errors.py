"""What ends the program on purpose: one exception for people, and the exit codes that scripts rely on.

Owns the exit codes. Knows nothing of what went wrong: the sentence comes from where it was found.
"""

from enum import IntEnum


class ExitCode(IntEnum):
    """How a command ended. Part of the command line contract; never renumbered."""

    DONE = 0  # done, or already complete
    FAULT_FOUND = 1  # a check found a fault
    WRONG_INPUT = 2  # what the user asked for cannot be done as asked
    STOPPED = 3  # stopped on request or by a signal; resumable
    DISK_FULL = 4  # stopped by a disk that is full, or fails; resumable
    NOT_FINITE = 5  # training became non-finite; the last good version is named
    BUG = 70  # ours


class EverstepError(Exception):
    """Base of everything raised for a person to read: the message is printed without a trace."""

    exit_code = ExitCode.WRONG_INPUT


class UserError(EverstepError):
    """The input is wrong, in words that say what, where, what is safe, and the next act."""


class DamageFound(EverstepError):
    """A check found a fault on disk: a file, a tensor, a version that is not what its manifest says."""

    exit_code = ExitCode.FAULT_FOUND


class NotCommitted(EverstepError):
    """A version could not be written: the disk is full, or fails. Older versions are whole."""

    exit_code = ExitCode.DISK_FULL


class DiskFull(NotCommitted):
    """There is no room for the version."""


class UnreachableDisk(EverstepError):
    """The disk that holds a run does not answer, or not as a disk does. Nothing is known to be damaged."""

    exit_code = ExitCode.DISK_FULL


class DataUnreadable(EverstepError):
    """Pairs that could be read when training began cannot be read any more; versions are whole."""

    exit_code = ExitCode.DISK_FULL


class NotFinite(EverstepError):
    """Loss, gradients or weights are no longer finite numbers; nothing of it was published."""

    exit_code = ExitCode.NOT_FINITE


class FirstNotFinite(NotFinite):
    """The very first loss of a training is no number: nothing that was learned can be the cause."""


class NothingTrained(NotFinite):
    """In fp16, step after step is skipped: the gradients are no numbers, whatever the loss is scaled by."""
