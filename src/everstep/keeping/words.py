"""Where words of a meeting lie: in the run's folder, for machines that share it, or beside its copies in a mirror.

Small files of JSON, each of which only one machine writes, whole. Never imports torch.
"""

import contextlib
import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from everstep.versions import fsops

Facts = Mapping[str, Any]


class Words(Protocol):
    """Names are those of files."""

    def read(self, name: str) -> Facts | None:
        """None where there is nothing, or nothing whole."""

    def write(self, name: str, facts: Facts) -> None:
        """In place of what was there. Raises: OSError, where it is known at once."""

    def clear(self) -> None:
        """None are left."""


class InFolder:
    """Words in the run's folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def read(self, name: str) -> Facts | None:
        """The folder is listed first: of what was not there a moment ago, NFS goes on saying so."""
        with contextlib.suppress(OSError), os.scandir(self.folder) as entries:
            if any(entry.name == name for entry in entries):
                return facts_of((self.folder / name).read_bytes())
        return None

    def write(self, name: str, facts: Facts) -> None:
        fsops.replace_file(self.folder / name, content_of(facts))

    def clear(self) -> None:
        """The folder is there, and empty."""
        with contextlib.suppress(FileNotFoundError):
            shutil.rmtree(self.folder)
        self.folder.mkdir(parents=True)


def content_of(facts: Facts) -> bytes:
    return json.dumps(facts).encode()


def facts_of(content: bytes | str) -> Facts | None:
    """None of what a shared disk shows in part."""
    try:
        found = json.loads(content)
    except ValueError:
        return None
    return found if isinstance(found, dict) else None
