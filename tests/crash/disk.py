"""A double of the disk that records what the store does, and plays back what a crash would have left of it.

The model is harsher than any file system we know: a file's bytes are there once its write was flushed, but the name of
a file or folder may be lost until its parent folder was flushed, each one independently of the others.
"""

import random
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from everstep.versions import fsops

NAMING = ("make_folder", "ensure_folder", "write_file", "rename")


@dataclass(frozen=True)
class Operation:
    """One call of fsops, with what it was called with; paths relative to the root."""

    name: str
    paths: tuple[str, ...]
    content: bytes = b""

    def parent(self) -> str:
        """The folder whose flush makes this operation durable."""
        return str(Path(self.paths[-1]).parent)


class Recorder:
    """While active, fsops works as ever and every operation is noted."""

    def __init__(self, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.root, self.operations = root, []
        for name in (*NAMING, "write_image", "flush_folder", "append_line", "remove_tree", "remove_file"):
            monkeypatch.setattr(fsops, name, self._noting(name, getattr(fsops, name)))

    def _noting(self, name: str, real: Any) -> Any:
        def call(*arguments: Any) -> None:
            paths = tuple(str(a.relative_to(self.root)) for a in arguments if isinstance(a, Path))
            if name == "write_image":
                real(*arguments)
                self.operations.append(Operation("write_file", paths, bytes(arguments[1][: arguments[2]])))
                return
            if name == "write_file":
                content = b"".join(bytes(piece) for piece in arguments[1])
                real(arguments[0], [content], arguments[2])
                self.operations.append(Operation(name, paths, content))
                return
            real(*arguments)
            content = arguments[1].encode() + b"\n" if name == "append_line" else b""
            self.operations.append(Operation(name, paths, content))

        return call


def pending(operations: list[Operation]) -> list[int]:
    """Numbers of the operations whose names could still be lost after all of these."""
    lost = []
    for number, operation in enumerate(operations):
        flushed_later = any(
            later.name == "flush_folder" and later.paths[0] == operation.parent() for later in operations[number:]
        )
        if operation.name in NAMING and not flushed_later:
            lost.append(number)
    return lost


def crashes(operations: list[Operation], seed: int, samples: int) -> Iterator[tuple[str, list[Operation]]]:
    """What may have reached the disk when the power went: for every prefix, all of it and subsets of the rest."""
    draws = random.Random(seed)
    for length in range(len(operations) + 1):
        done = operations[:length]
        at_risk = pending(done)
        yield f"after {length} of {len(operations)}", done
        for lost in subsets(at_risk, draws, samples):
            yield f"after {length}, without {sorted(lost)}", [op for i, op in enumerate(done) if i not in lost]
        if length < len(operations) and operations[length].content:
            torn = operations[length]
            for content in (b"", torn.content[: len(torn.content) // 2], bytes(len(torn.content))):
                yield f"within {length}", [*done, Operation(torn.name, torn.paths, content)]


def subsets(numbers: list[int], draws: random.Random, samples: int) -> list[set[int]]:
    """Every single one, all of them, and some at random."""
    chosen = [{number} for number in numbers] + ([set(numbers)] if numbers else [])
    return chosen + [{n for n in numbers if draws.random() < 0.5} for _ in range(samples if len(numbers) > 2 else 0)]


def play(operations: list[Operation], root: Path) -> None:
    """Do the operations again on a copy; one whose place is missing, since its folder was lost, does nothing."""
    for operation in operations:
        paths = [root / path for path in operation.paths]
        if not paths[-1].parent.is_dir() or (operation.name == "rename" and not paths[0].exists()):
            continue
        if operation.name in ("make_folder", "ensure_folder"):
            paths[0].mkdir(exist_ok=True)
        elif operation.name == "write_file":
            paths[0].write_bytes(operation.content)
        elif operation.name == "append_line":
            with paths[0].open("ab") as file:
                file.write(operation.content)
        elif operation.name == "rename":
            paths[0].rename(paths[1])
        elif operation.name == "remove_tree":
            shutil.rmtree(paths[0], ignore_errors=True)
        elif operation.name == "remove_file":
            paths[0].unlink(missing_ok=True)
