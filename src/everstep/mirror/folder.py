"""A place for copies that is a folder: another disk, a mount of another machine's."""

import errno
import os
from collections.abc import Iterable
from pathlib import Path

from everstep.places import FORBIDDEN
from everstep.versions import fsops

UNLINKED = (*FORBIDDEN, *fsops.NOT_OFFERED, errno.EMLINK)  # what file systems without hard links say, as of USB sticks

PART = ".part"  # beside what is being written; nothing reads it, and the next try begins it anew


class Folder:
    """Names are paths below it, with slashes. What is there under its name is whole, and durable.

    Every method raises OSError as the disk does.
    """

    def __init__(self, root: Path) -> None:
        self.root = root

    def size(self, name: str) -> int | None:
        """In bytes; None where there is nothing."""
        try:
            return (self.root / name).stat().st_size
        except (FileNotFoundError, NotADirectoryError):
            return None

    def put(self, name: str, content: Iterable[memoryview | bytes], size_bytes: int) -> None:
        """Crash: what was there before, or all of the new."""
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

    def create(self, name: str, content: bytes) -> bool:
        """The same where there is nothing yet; returns whether there was not.

        Of several that would, one does; where the file system knows no hard links, of those that take turns.
        """
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
        """A small file; None where there is none."""
        try:
            return (self.root / name).read_bytes()
        except (FileNotFoundError, NotADirectoryError):
            return None

    def names(self, name: str = "") -> list[str]:
        """Of what lies directly in a folder."""
        try:
            return sorted(entry.name for entry in (self.root / name).iterdir())
        except (FileNotFoundError, NotADirectoryError):
            return []

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
