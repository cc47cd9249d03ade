"""A file or a folder put in its place whole: written beside it under another name, and renamed at the end."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from everstep.versions import fsops


@contextmanager
def beside(target: Path) -> Iterator[Path]:
    """A name in the target's folder, in the same file system; what is left under it goes, whatever happened."""
    found = target.with_name(f".{target.name}.{os.getpid()}.new")
    try:
        yield found
    finally:
        if found.is_dir():
            shutil.rmtree(found, ignore_errors=True)
        found.unlink(missing_ok=True)


def put(made: Path, target: Path) -> None:
    """A file takes another's place at once; a folder cannot, so the old one steps aside first. Raises: OSError."""
    aside = target.with_name(f".{target.name}.{os.getpid()}.old")
    if made.is_dir():
        fsops.flush_folder(made)
        if target.is_dir():
            fsops.rename(target, aside)
    try:
        fsops.rename(made, target)
    except OSError:
        if aside.is_dir():
            fsops.rename(aside, target)
        raise
    fsops.flush_folder(target.parent)
    if aside.is_dir():
        fsops.remove_tree(aside)
