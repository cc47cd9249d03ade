"""A double of the disk: what a power cut may leave of the calls that were made, in the harshest reading of POSIX.

Bytes and length of a file are volatile until that very file is flushed, O_DIRECT or not; until then any part of them
may be there, or zeros, or rubbish. An entry of a folder is volatile until that folder is flushed, each independently
of all others. So a rename that survives may show a file of which nothing survived.
"""

import os
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from effects import Effect, Effects

KEPT, LOST, HALF, ZEROS, RUBBISH = "kept", "lost", "half", "zeros", "rubbish"
VANISHED = "vanished"  # gone from the folder it was moved from, not come to where it was moved to
WHOLE_FILES = (LOST, HALF, ZEROS, RUBBISH)
ROOT = 0


@dataclass(frozen=True, slots=True)
class Entry:
    """A name that came (node) or went (None) in a folder; for a rename also the name that it was before."""

    folder: int
    name: str
    node: int | None
    old_folder: int | None = None
    old_name: str = ""


@dataclass(frozen=True, slots=True)
class Data:
    """Bytes of a file, or its length."""

    node: int
    offset: int = 0
    content: bytes = b""
    size_bytes: int | None = None


@dataclass(frozen=True, slots=True)
class Sync:
    """A flush of one file or one folder."""

    node: int


Change = Entry | Data | Sync
Fates = Mapping[int, str]  # number of a change -> what became of it


@dataclass
class Tree:
    """Files and folders as nodes, reached by names from the root."""

    entries: dict[int, dict[str, int]] = field(default_factory=lambda: {ROOT: {}})
    contents: dict[int, bytearray] = field(default_factory=dict)

    def copy(self) -> "Tree":
        contents = {node: bytearray(content) for node, content in self.contents.items()}
        return Tree({node: dict(names) for node, names in self.entries.items()}, contents)

    def find(self, parts: Sequence[str]) -> int | None:
        node: int | None = ROOT
        for part in parts:
            node = self.entries.get(node, {}).get(part) if node is not None else None
        return node

    def new_node(self, is_folder: bool) -> int:
        node = len(self.entries) + len(self.contents)
        if is_folder:
            self.entries[node] = {}
        else:
            self.contents[node] = bytearray()
        return node

    def files(self, node: int = ROOT, above: str = "") -> dict[str, bytes | None]:
        """All that can be reached: path -> bytes, None for a folder."""
        found: dict[str, bytes | None] = {}
        for name, below in self.entries[node].items():
            path = above + name
            found[path] = bytes(self.contents[below]) if below in self.contents else None
            if below in self.entries:
                found |= self.files(below, path + "/")
        return found

    def apply(self, change: Change, fate: str, draws: random.Random) -> None:
        """Let a change happen as far as its fate says."""
        if fate == LOST or isinstance(change, Sync):
            return
        if isinstance(change, Data):
            self._write(change, fate, draws)
            return
        if change.old_folder is not None:
            self.entries[change.old_folder].pop(change.old_name, None)
        if change.node is None:
            self.entries[change.folder].pop(change.name, None)
        elif fate != VANISHED:
            self.entries[change.folder][change.name] = change.node

    def _write(self, change: Data, fate: str, draws: random.Random) -> None:
        content = self.contents[change.node]
        if change.size_bytes is not None:
            del content[change.size_bytes :]
            content.extend(bytes(change.size_bytes - len(content)))
            return
        written = change.content[: len(change.content) // 2] if fate == HALF else change.content
        written = {ZEROS: bytes(len(written)), RUBBISH: draws.randbytes(len(written))}.get(fate, written)
        content.extend(bytes(max(0, change.offset + len(written) - len(content))))
        content[change.offset : change.offset + len(written)] = written


def on_disk(root: Path) -> dict[str, bytes | None]:
    """What really lies below a folder: path -> bytes, None for a folder."""
    below = {path: path.relative_to(root).as_posix() for path in root.rglob("*")}
    return {name: path.read_bytes() if path.is_file() else None for path, name in below.items()}


def tree_of(files: Mapping[str, bytes | None]) -> Tree:
    tree = Tree()
    for path in sorted(files):
        *above, name = path.split("/")
        folder, content = tree.find(above), files[path]
        assert folder is not None
        node = tree.new_node(is_folder=content is None)
        tree.entries[folder][name] = node
        if content is not None:
            tree.contents[node].extend(content)
    return tree


class Recorder:
    """Inside, everything works as ever and every change is noted. Outside, what a power cut leaves can be played."""

    def __init__(self, root: Path) -> None:
        self.root = root.resolve()
        self.before = tree_of(on_disk(self.root))
        self.changes: list[Change] = []
        self._now = self.before.copy()  # as the process sees it
        self._effects = Effects(self.root, after=self._note)

    def __enter__(self) -> "Recorder":
        self._effects.__enter__()
        return self

    def __exit__(self, kind: Any, *_: object) -> None:
        self._effects.__exit__()
        # Else something went past the calls that are watched, and every test on top of this sees too little.
        assert kind is not None or self._now.files() == on_disk(self.root)

    def _note(self, effect: Effect) -> None:
        for change in self._changes(effect):
            self._now.apply(change, KEPT, random.Random(0))
            self.changes.append(change)

    def _changes(self, effect: Effect) -> Iterator[Change]:
        folder, name, node = self._place(effect.path)
        if effect.call == "mkdir" or (effect.call == "open" and effect.is_new):
            assert folder is not None
            made = self._now.new_node(is_folder=effect.call == "mkdir")
            if made in self._now.contents:
                self.before.contents[made] = bytearray()
            else:
                self.before.entries[made] = {}
            yield Entry(folder, name, made)
        elif effect.call in ("unlink", "rmdir"):
            assert folder is not None
            yield Entry(folder, name, None)
        elif effect.call == "rename":
            new_folder, new_name, _ = self._place(effect.target)
            assert folder is not None
            assert new_folder is not None
            yield Entry(new_folder, new_name, node, folder, name)
        elif node is not None:  # else the file has no name any more
            yield from self._changes_of(node, effect)

    def _changes_of(self, node: int, effect: Effect) -> Iterator[Change]:
        length = len(self._now.contents.get(node, b""))
        if effect.call == "fsync":
            yield Sync(node)
        elif effect.call == "write":
            yield Data(node, effect.offset, effect.content)
        elif effect.size_bytes > length or (effect.size_bytes >= 0 and effect.call != "fallocate"):
            yield Data(node, size_bytes=effect.size_bytes)

    def _place(self, path: str) -> tuple[int | None, str, int | None]:
        """Folder, name and node of a path."""
        parts = [part for part in os.path.relpath(path, self.root).split("/") if part != "."]
        folder = self._now.find(parts[:-1]) if parts else None
        return folder, parts[-1] if parts else "", self._now.find(parts)
