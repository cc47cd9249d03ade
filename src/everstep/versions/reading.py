"""Holding a version open: what is being read is neither removed nor made slim meanwhile.

A reader takes a shared lock on the version's folder; whoever prunes tries for the only one and leaves what it does not
get for the next time. The system drops the lock when its holder dies. A file system without such locks refuses none.
"""

import fcntl
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path

from everstep.errors import UserError
from everstep.places import as_word
from everstep.versions.lock import folder_lock

BEING_READ = "being read by another process"


@contextmanager
def reading(folder: Path) -> Iterator[None]:
    """Nothing is taken from the version in this folder inside. Raises: UserError if it is gone already."""
    with ExitStack() as held:
        try:
            held.enter_context(folder_lock(folder, fcntl.LOCK_SH))
        except FileNotFoundError:
            raise UserError(
                f"{folder.name} was removed meanwhile. everstep list {as_word(folder.parent)} shows what is there."
            ) from None
        yield


def alone_with(folder: Path) -> AbstractContextManager[bool]:
    """Yields whether nobody reads the version; inside, readers wait. Raises: FileNotFoundError if it is gone."""
    return folder_lock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)


def is_read(folder: Path) -> bool:
    """Whether somebody holds the version open now."""
    try:
        with alone_with(folder) as is_free:
            return not is_free
    except FileNotFoundError:
        return False
