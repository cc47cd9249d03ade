"""The way out: whatever is removed is moved away under another name at once, and taken apart there.

So nothing half-removed ever lies under a good name, and what a crash left in .trash is nobody's version.
"""

import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from everstep.versions import fsops, ofd
from everstep.versions.layout import RunLayout
from everstep.versions.lock import Busy, locked


@contextmanager
def pruning_alone(layout: RunLayout) -> Iterator[None]:
    """Of several that would remove, one does. Raises: Busy saying which process is at it; nothing is changed then."""
    try:
        with locked(layout.prune_lock, layout.root.name, "prune", lambda _: None) as held:
            try:
                yield
            finally:
                ofd.drop(held.descriptor)  # a child that was forked meanwhile would hold it to its end
    except Busy as busy:
        raise Busy(
            f"Versions of {layout.root.name} are being removed by process {busy.holder.pid} on {busy.holder.host} "
            "already. Nothing was changed here.",
            busy.holder,
        ) from None


def move_aside(layout: RunLayout, path: Path, name: str) -> Path:
    """Take something out of the run at once; returns where it is until it is taken apart.

    Raises: OSError; then it is where it was. Crash: where it was, or in .trash, whole.
    """
    fsops.ensure_folder(layout.trash)
    aside = layout.trash / f"{name}-{secrets.token_hex(4)}"
    fsops.rename(path, aside)
    fsops.flush_folder(path.parent)
    return aside


def empty_trash(layout: RunLayout) -> None:
    """Finish what a crash cut off. The prune lock has to be held."""
    if not layout.trash.is_dir():
        return
    for entry in list(layout.trash.iterdir()):
        if entry.is_dir() and not entry.is_symlink():
            fsops.remove_tree(entry)
        else:
            fsops.remove_file(entry)


def empty_unless_busy(layout: RunLayout) -> None:
    """The same at a start; a prune that is at work cleans up after itself."""
    if not layout.trash.is_dir():
        return
    try:
        with pruning_alone(layout):
            empty_trash(layout)
    except Busy:
        return
