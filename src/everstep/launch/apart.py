"""A run that is made only for a while, to be measured or to be trained along with machines that hold the true one: on
the disk that the real one would be on, hidden, and gone at the end.

Its folder is locked for as long as anybody works in it, so that what a kill leaves is known, and removed by the next
one nearby. Never imports torch.
"""

import contextlib
import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from everstep.config.load import dump
from everstep.config.schema import Config
from everstep.launch.about import about
from everstep.places import absolute
from everstep.versions import Run, fsops
from everstep.versions.layout import is_planned, new_planned
from everstep.versions.lock import folder_lock


@contextmanager
def run_apart(folder: Path, config: Config) -> Iterator[Run]:
    """Yields a new run of the same name in a hidden folder beside `folder`; it is removed at the end.

    Raises, Crash: as `hidden_beside`; UserError.
    """
    with hidden_beside(folder) as hidden:
        yield Run.create(hidden / folder.name, dump(config), about(config.keep))


@contextmanager
def hidden_beside(folder: Path) -> Iterator[Path]:
    """Yields a hidden folder beside one that need not be there; it is removed at the end.

    Raises: OSError if the disk takes none. Crash: the hidden folder, which the next one removes.
    """
    near = absolute(folder).parent
    clear_planned(near)
    while not near.exists():
        near = near.parent
    clear_planned(near)
    hidden = new_planned(near, folder.name)
    fsops.make_folder(hidden)
    try:
        with folder_lock(hidden, fcntl.LOCK_EX | fcntl.LOCK_NB):
            yield hidden
    finally:
        fsops.remove_tree(hidden)


def clear_planned(parent: Path) -> None:
    """Remove what those that were killed have left in a folder, and in the one above it, where runs/ is made."""
    for place in (parent, parent.parent):
        with contextlib.suppress(OSError):
            for entry in place.iterdir():
                if is_planned(entry.name):
                    _clear(entry)


def _clear(planned: Path) -> None:
    with contextlib.suppress(OSError), folder_lock(planned, fcntl.LOCK_EX | fcntl.LOCK_NB) as is_free:
        if is_free:
            fsops.remove_tree(planned)
