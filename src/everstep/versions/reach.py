"""A disk that does not answer is not a disk that is damaged: which errors say so, and what people are told."""

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from everstep.errors import DiskFull, UnreachableDisk, UserError
from everstep.places import FORBIDDEN, NO_ROOM, shortened, told

WHOLE = "what was committed there is whole once the disk answers again"

# Said of the way to the disk, or of this process, not of what was read: it may be whole once the disk is back.
AWAY = {
    getattr(errno, name)
    for name in (
        "ESTALE", "ETIMEDOUT", "EHOSTDOWN", "EHOSTUNREACH", "ENETDOWN", "ENETUNREACH", "ENETRESET", "ENOTCONN",
        "ECONNRESET", "ECONNREFUSED", "ECONNABORTED", "ESHUTDOWN", "EREMOTEIO", "ENODEV", "ENXIO", "EMFILE", "ENFILE",
        "ENOMEM",
    )
    if hasattr(errno, name)
}  # fmt: skip


def is_away(error: OSError) -> bool:
    """Whether nothing may be concluded from the error about what lies on the disk."""
    return error.errno in AWAY


def cause(error: BaseException) -> BaseException:
    """What the system said, where a sentence was made of it."""
    return error.__cause__ or error


@contextmanager
def writing(path: Path, sentence: str) -> Iterator[None]:
    """Inside, one file is written or one thing is changed, whole or not at all.

    Raises: UserError where this user may not, or the disk is mounted for reading alone; DiskFull.
    """
    try:
        yield
    except OSError as error:
        if error.errno not in (*FORBIDDEN, *NO_ROOM):
            raise
        kind = UserError if error.errno in FORBIDDEN else DiskFull
        raise kind(f"{sentence} ({shortened(path)}: {told(error)}). Nothing was changed.") from error


@contextmanager
def reaching(path: Path) -> Iterator[None]:
    """Inside, an error of the system is one of the disk. Raises: UnreachableDisk."""
    try:
        yield
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:
            raise UserError(f"{shortened(path)} is too long a name for this disk. Nothing was changed.") from error
        rest = "it is closed to this user" if error.errno in FORBIDDEN else WHOLE
        raise UnreachableDisk(f"{path} cannot be read: {told(error)}. Nothing was changed; {rest}.") from error
