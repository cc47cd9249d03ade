"""All effects that the store has on a disk, so that a test can record, fail and replay every one of them.

Nothing else in `versions` may open a file for writing, rename, or remove. Errors are OSError, as the system gave them.
"""

import contextlib
import errno
import fcntl
import os
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from everstep.places import NO_ROOM as NO_ROOM

CHUNK_BYTES = 64 << 20  # a multiple of every block size
BLOCK_BYTES = 4096
DIRECT = getattr(os, "O_DIRECT", 0)
NOT_OFFERED = (errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOTTY)


def make_folder(path: Path) -> None:
    """Make one folder; its parent has to be there."""
    path.mkdir()


def ensure_folder(path: Path) -> None:
    """Make a folder unless it is there."""
    path.mkdir(exist_ok=True)


@contextmanager
def new_file(path: Path, size_bytes: int, is_direct: bool = False) -> Iterator[int]:
    """A new file to be written inside, its space taken: a full disk shows before anything is written.

    Past the page cache where that is asked for and the file system can, so that neither the data set nor the trainer's
    memory is pushed out. Nothing of it is durable before `flush`. After an error the file must not be believed.
    Crash: a file of any length up to size_bytes, with any content.
    """
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
    try:
        descriptor = os.open(path, flags | (DIRECT if is_direct else 0), 0o666)
    except OSError as error:
        if not is_direct or error.errno not in NOT_OFFERED:
            raise
        path.unlink(missing_ok=True)
        descriptor = os.open(path, flags, 0o666)
    try:
        _take_space(descriptor, size_bytes)
        yield descriptor
    finally:
        os.close(descriptor)


@contextmanager
def existing_file(path: Path, is_direct: bool = False) -> Iterator[int]:
    """A file that another process has made, to be written in parts inside. Raises FileNotFoundError: it makes none."""
    flags = os.O_WRONLY | os.O_CLOEXEC
    try:
        descriptor = os.open(path, flags | (DIRECT if is_direct else 0))
    except OSError as error:
        if not is_direct or error.errno not in NOT_OFFERED:
            raise
        descriptor = os.open(path, flags)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def write_pages(descriptor: int, pages: memoryview, offset: int) -> None:
    """Write whole pages that begin on a page of memory, at a place in the file that does too."""
    while pages:
        try:
            written = os.pwrite(descriptor, pages[:CHUNK_BYTES], offset)
        except OSError as error:
            # Some file systems take O_DIRECT at the open and refuse it at the write (FUSE, overlays, odd block sizes).
            if error.errno not in NOT_OFFERED or not _drop_direct(descriptor):
                raise
            continue
        if written % BLOCK_BYTES and written < len(pages):
            _drop_direct(descriptor)  # a short write: what follows is no block any more
        pages, offset = pages[written:], offset + written


def flush(descriptor: int, size_bytes: int | None = None) -> None:
    """Make a file durable; where a size is given, cut it there first.

    Linux reports a failed flush once and then forgets it, so it must not be tried again.
    """
    if size_bytes is not None:
        os.ftruncate(descriptor, size_bytes)
    os.fsync(descriptor)


def write_file(path: Path, pieces: Iterable[memoryview | bytes], size_bytes: int) -> None:
    """Write a new file and flush it to the disk.

    Crash: a file of any length up to size_bytes, with any content.
    """
    with new_file(path, size_bytes) as descriptor:
        write_all(descriptor, pieces)
        os.fsync(descriptor)


def write_all(descriptor: int, pieces: Iterable[memoryview | bytes]) -> None:
    """Write pieces one after the other. Not flushed."""
    for piece in pieces:
        _write_all(descriptor, memoryview(piece))


def replace_file(path: Path, content: bytes) -> None:
    """Put new content under a name at once. Crash: the old file or the new one, whole. An error leaves the old one."""
    beside = path.with_name(f".{path.name}.{os.getpid()}.new")
    beside.unlink(missing_ok=True)
    try:
        write_file(beside, [content], len(content))
        rename(beside, path)
    except OSError:
        _forget(beside)
        raise
    flush_folder(path.parent)


def replace_unflushed(path: Path, content: bytes) -> None:
    """Put new content under a name at once, for readers; after a power cut it may be gone."""
    beside = path.with_name(f".{path.name}.{os.getpid()}.new")
    try:
        beside.write_bytes(content)
        rename(beside, path)
    except OSError:
        _forget(beside)
        raise


def append_line(path: Path, line: str) -> None:
    """Add a line to a log and flush it. Crash: the line, a part of it, or nothing of it."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o666)
    try:
        _write_all(descriptor, memoryview(line.encode() + b"\n"))
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def flush_folder(path: Path) -> None:
    """Make the names in a folder durable, where the file system can."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in NOT_OFFERED:
            raise
    finally:
        os.close(descriptor)


def rename(old: Path, new: Path) -> None:
    """Rename within one file system; a file that is in the way is replaced, a folder is not."""
    os.rename(old, new)


def remove_file(path: Path) -> None:
    path.unlink(missing_ok=True)


def remove_tree(path: Path) -> None:
    """Remove a folder and all in it. Crash: some of it."""
    shutil.rmtree(path)


def free_bytes(path: Path) -> int:
    """What an ordinary user may still write."""
    status = os.statvfs(path)
    return status.f_bavail * status.f_frsize


def _drop_direct(descriptor: int) -> bool:
    """Write through the page cache from here on. Returns whether it was done otherwise until now."""
    flags = fcntl.fcntl(descriptor, fcntl.F_GETFL)
    fcntl.fcntl(descriptor, fcntl.F_SETFL, flags & ~DIRECT)
    return bool(flags & DIRECT)


def _forget(beside: Path) -> None:
    """What a full disk took of a file that is not to be."""
    with contextlib.suppress(OSError):
        beside.unlink(missing_ok=True)


def _take_space(descriptor: int, size_bytes: int) -> None:
    if size_bytes == 0 or not hasattr(os, "posix_fallocate"):
        return
    try:
        os.posix_fallocate(descriptor, 0, size_bytes)
    except OSError as error:
        if error.errno not in NOT_OFFERED:
            raise


def _write_all(descriptor: int, piece: memoryview) -> None:
    piece = piece.cast("B")
    while piece:
        written = os.write(descriptor, piece[:CHUNK_BYTES])
        piece = piece[written:]
