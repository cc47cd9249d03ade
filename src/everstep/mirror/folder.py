"""A place for copies that is a folder: another disk, a mount of another machine's."""

import errno
import fcntl
import os
import stat
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from everstep.errors import DamageFound
from everstep.mirror.backend import Still, another_sends
from everstep.places import FORBIDDEN
from everstep.versions import fsops
from everstep.versions.ahead import Ahead
from everstep.versions.lock import folder_lock

UNLINKED = (*FORBIDDEN, *fsops.NOT_OFFERED, errno.EMLINK)  # what file systems without hard links say, as of USB sticks

PART = ".part"  # beside what is being written; nothing reads it, and the next try begins it anew


class Folder:
    """A `Place` on a disk."""

    def __init__(self, root: Path) -> None:
        self.root = root

    @property
    def address(self) -> str:
        return str(self.root)

    def size(self, name: str) -> int | None:
        try:
            found = (self.root / name).stat()
        except (FileNotFoundError, NotADirectoryError):
            return None
        return found.st_size if stat.S_ISREG(found.st_mode) else None

    def put(self, name: str, content: Iterable[memoryview | bytes], size_bytes: int) -> bool:
        path = self._prepared(name)
        beside = path.with_name(path.name + PART)
        beside.unlink(missing_ok=True)
        try:
            fsops.write_file(beside, content, size_bytes)
            fsops.rename(beside, path)
        except BaseException:
            beside.unlink(missing_ok=True)
            raise
        fsops.flush_folder(path.parent)
        return False  # a disk vouches for nothing

    def create(self, name: str, content: bytes) -> bool:
        """Where the file system knows no hard links, of several that would those that take turns do not meet."""
        path = self._prepared(name)
        beside = path.with_name(path.name + PART)
        beside.unlink(missing_ok=True)
        try:
            fsops.write_file(beside, [content], len(content))
            try:
                os.link(beside, path)
            except FileExistsError:
                return False
            except OSError as error:
                if error.errno not in UNLINKED:
                    raise
                if path.exists():
                    return False
                fsops.rename(beside, path)
        finally:
            beside.unlink(missing_ok=True)
        fsops.flush_folder(path.parent)
        return True

    def read(self, name: str) -> bytes | None:
        try:
            return (self.root / name).read_bytes()
        except (FileNotFoundError, NotADirectoryError):
            return None

    def stream(self, name: str, size_bytes: int) -> Iterator[memoryview | bytes]:
        """Past the page cache where that can be had: what was just written would be read from memory otherwise."""
        with Ahead(self.root / name) as ahead:
            try:
                yield from ahead.pieces(size_bytes)
            except DamageFound:
                return  # it ends sooner; whoever compares digests says so

    def names(self, name: str = "") -> list[str]:
        try:
            return sorted(entry.name for entry in (self.root / name).iterdir())
        except (FileNotFoundError, NotADirectoryError):
            return []

    def files(self, folder: str) -> dict[str, int]:
        root = self.root / folder
        return {str(path.relative_to(root)): path.stat().st_size for path in sorted(root.rglob("*")) if path.is_file()}

    def delete(self, name: str) -> None:
        path = self.root / name
        fsops.remove_file(path)
        for parent in path.parents:  # an empty folder is nothing elsewhere, too
            if parent == self.root or self.root not in parent.parents:
                break
            try:
                parent.rmdir()
            except OSError:
                break
        else:
            return
        fsops.flush_folder(parent)

    @contextmanager
    def alone(self, may_wait: bool) -> Iterator[Still]:
        """Where the file system has no locks, nobody knows."""
        self.root.mkdir(exist_ok=True)
        with folder_lock(self.root, fcntl.LOCK_EX | (0 if may_wait else fcntl.LOCK_NB)) as is_free:
            if not is_free:
                raise another_sends(self.address)
            yield lambda: None

    def _prepared(self, name: str) -> Path:
        """Its path; the folders on the way are there, for good."""
        path = self.root / name
        for parent in reversed(path.parents):
            if parent != self.root and self.root not in parent.parents:
                continue
            if not parent.is_dir():
                fsops.ensure_folder(parent)
                fsops.flush_folder(parent.parent)
        return path
