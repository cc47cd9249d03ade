"""Files that people name: only plain ones are opened, so that a pipe or a device can hold nothing up."""

import os
import stat
from pathlib import Path
from typing import BinaryIO

KINDS = {
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


def open_plain(path: Path) -> BinaryIO:
    """Open for reading, through links. Raises: OSError; ValueError in words if it is no plain file."""
    _refuse_others(path.stat().st_mode)  # before it is opened: opening a device may already do something
    # Another may have taken its place since: a pipe without a writer would hold a plain open up for ever.
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | getattr(os, "O_NONBLOCK", 0))
    try:
        _refuse_others(os.fstat(descriptor).st_mode)
        return os.fdopen(descriptor, "rb")
    except BaseException:
        os.close(descriptor)
        raise


def read_plain(path: Path) -> bytes:
    """The content of a plain file. Raises: OSError; ValueError in words if it is none."""
    with open_plain(path) as file:
        return file.read()


def _refuse_others(mode: int) -> None:
    kind = stat.S_IFMT(mode)
    if kind != stat.S_IFREG:
        raise ValueError(f"is {KINDS.get(kind, 'no file')}, not a file")
