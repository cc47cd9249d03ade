"""A disk that does not answer is not a disk that is damaged: which errors say so, and what people are told."""

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from everstep.errors import UnreachableDisk

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
def reaching(path: Path) -> Iterator[None]:
    """Inside, an error of the system is one of the disk. Raises: UnreachableDisk."""
    try:
        yield
    except OSError as error:
        raise UnreachableDisk(
            f"{path} cannot be read: {error.strerror or error}. Nothing was changed; what was committed there is whole "
            "once the disk answers again."
        ) from error
