"""A version that several machines write, in two phases: each its extents of the tensor files, from its own memory.

    prepare    the first machine makes the files, takes their space, and asks in a file that all machines see. Each
               writes the extents that it is asked for, makes them durable, and answers with digests of their pieces.
    commit     once all have answered, and what they wrote is what the first one's own memory holds, the first one alone
               writes the manifest.

Where a machine does not answer, refuses, or holds other bits, what was begun is dropped and the first one writes the
version alone, into new files: whoever comes late still writes into those that he was asked for, which are gone.
Never imports torch.
"""

import contextlib
import secrets
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from everstep.contracts import Report
from everstep.errors import DamageFound
from everstep.keeping.arena import Arena, PlannedFile
from everstep.keeping.sealed import PIECE_BYTES, WRITE_BYTES, Filling, piece_digest
from everstep.keeping.words import InFolder
from everstep.units import duration
from everstep.versions import fsops
from everstep.versions.layout import STAGING_NAME, RunLayout

ASKED, ANSWER = "prepare.json", "written-{}.json"
LEAST_BYTES = 2 * WRITE_BYTES  # of a machine's extents: less is written before a question is heard
PATIENCE_S, POLL_S = 10.0, 0.05
Pieces = dict[str, dict[int, str]]  # digests of pieces by their number, by file


class NotWritten(Exception):
    """A machine has not written what it was asked for."""


@dataclass(frozen=True, slots=True)
class Extent:
    """Bytes of a file of a version; begins, and ends unless the file does, on a multiple of WRITE_BYTES."""

    path: str
    begin: int
    end: int


def shared_out(files: Sequence[PlannedFile], machines: int) -> list[list[Extent]]:
    """Extents of each machine, which follow each other in the order of the files, about as many bytes each.

    Fewer machines where that would be less than is worth a question.
    """
    total = sum(file.size_bytes for file in files)
    machines = max(1, min(machines, total // LEAST_BYTES))
    found: list[list[Extent]] = [[] for _ in range(machines)]
    before = 0
    for file in files:
        for begin in range(0, file.size_bytes, WRITE_BYTES):
            end = min(begin + WRITE_BYTES, file.size_bytes)
            # By where its middle lies. Nothing of a file that is empty is anybody's.
            mine = found[(2 * before + end - begin) * machines // (2 * total)]
            if mine and mine[-1].path == file.path:
                mine[-1] = Extent(file.path, mine[-1].begin, end)
            else:
                mine.append(Extent(file.path, begin, end))
            before += end - begin
    return found


# --- the first machine ---------------------------------------------------------------------------------------


class Asking:
    """The first machine's side: others that hold the same memory, asked for extents of one version after the other."""

    def __init__(self, layout: RunLayout, report: Report) -> None:
        self._layout, self._report = layout, report
        self._nodes: list[int] = []  # whom to ask, by their number in the launch
        self._told = 1  # by how many machines versions are written

    def these(self, nodes: Sequence[int]) -> None:
        """They hold the same memory from now on. Called in another thread."""
        self._nodes = list(nodes)

    def ask(self, files: Sequence[PlannedFile], generation: int) -> "Asked | None":
        """None where nobody is worth asking."""
        nodes = self._nodes
        shares = shared_out(files, 1 + len(nodes))
        if len(shares) == 1:
            return None
        if len(shares) != self._told:
            self._told = len(shares)
            self._report(f"Versions are written by {len(shares)} machines, each its part.")
        theirs = {node: share for node, share in zip(nodes, shares[1:], strict=False) if share}
        return Asked(InFolder(self._layout.nodes), generation, shares[0], theirs)

    def alone(self, why: NotWritten) -> None:
        """From here on, until the ranks are started again: what has failed once would cost every version twice."""
        self._nodes = []
        self._report(f"{why} This machine writes versions alone from here on.")


class Asked:
    """One version that others write parts of."""

    def __init__(
        self, words: InFolder, generation: int, mine: Sequence[Extent], theirs: Mapping[int, list[Extent]]
    ) -> None:
        """
        Args:
            words: where machines leave them for each other.
        """
        self._words, self._generation, self._mine, self._theirs = words, generation, mine, theirs
        self._token, self._began = secrets.token_hex(8), time.monotonic()

    def is_mine(self, path: str, begin: int) -> bool:
        """Whether the bytes of a file from here on are this machine's to write."""
        return any(extent.path == path and extent.begin <= begin < extent.end for extent in self._mine)

    def begin(self, staging: Path) -> None:
        """The files are there. Raises: OSError."""
        extents = {node: [[one.path, one.begin, one.end] for one in some] for node, some in self._theirs.items()}
        asked = {"commit": self._token, "generation": self._generation, "staging": staging.name, "extents": extents}
        fsops.ensure_folder(self._words.folder)
        self._words.write(ASKED, asked)

    def finish(self, noted: Mapping[str, Sequence[str]], name_of: Callable[[str, int], str]) -> None:
        """Wait for all answers, and hold them against what this machine's own memory holds.

        Args:
            noted: digests of its pieces, by file.
            name_of: the first tensor of a piece.

        Raises: NotWritten.
        """
        patience_s = max(PATIENCE_S, 2 * (time.monotonic() - self._began))
        until, waiting = time.monotonic() + patience_s, set(self._theirs)
        while waiting:
            for node in sorted(waiting):
                answer = self._words.read(ANSWER.format(node))
                if answer is not None and answer.get("commit") == self._token:
                    self._check(node, answer, noted, name_of)
                    waiting.remove(node)
            if waiting and time.monotonic() > until:
                names = ", ".join(map(str, sorted(waiting)))
                raise NotWritten(f"Machine {names} has not written its part within {duration(patience_s)}.")
            time.sleep(POLL_S if waiting else 0.0)

    def _check(
        self,
        node: int,
        answer: Mapping[str, Any],
        noted: Mapping[str, Sequence[str]],
        name_of: Callable[[str, int], str],
    ) -> None:
        if why := answer.get("refused"):
            raise NotWritten(f"Machine {node} has not written its part: {why}.")
        for extent in self._theirs[node]:
            for number in range(extent.begin // PIECE_BYTES, -(-extent.end // PIECE_BYTES)):
                if answer.get("pieces", {}).get(extent.path, {}).get(str(number)) != noted[extent.path][number]:
                    raise NotWritten(
                        f"Machine {node} holds other bits than the first one in {name_of(extent.path, number)} of "
                        f"{extent.path}: one of the two computes, or remembers, what is not so."
                    )


# --- the others ----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a machine is asked to write."""

    node: int
    commit: str
    generation: int
    staging: Path
    extents: Sequence[Extent]


def wanted(layout: RunLayout, node: int) -> Wanted | None:
    """The newest question to this machine, if there was any; it may have been answered."""
    facts = InFolder(layout.nodes).read(ASKED)
    try:
        # What is no name of a version's own staging folder is nothing that anybody has asked for.
        if facts is None or STAGING_NAME.fullmatch(facts["staging"]) is None:
            return None
        extents = [Extent(*one) for one in facts["extents"].get(str(node), ())]
        staging = layout.root / facts["staging"]
        return Wanted(node, facts["commit"], facts["generation"], staging, extents) if extents else None
    except (KeyError, TypeError, AttributeError):
        return None


def write_extents(arena: Arena, filling: Filling, asked: Wanted) -> Pieces:
    """Write them, behind the copy, and make them durable. Returns the digests of what was written.

    Raises: OSError; DamageFound if the slot is not what was claimed, or nothing comes of it.
    """
    found: Pieces = {}
    before, starts = 0, dict[str, int]()
    for file in arena.plan.files:
        starts[file.path] = before
        before += file.size_bytes
    with ExitStack() as files:
        opened = list[int]()
        for extent in asked.extents:
            opened.append(files.enter_context(fsops.existing_file(asked.staging / extent.path, is_direct=True)))
            pieces = found.setdefault(extent.path, {})
            for begin in range(extent.begin, extent.end, WRITE_BYTES):
                end = min(begin + WRITE_BYTES, extent.end)
                filling.await_bytes(starts[extent.path] + end)
                _write(filling, extent.path, begin, end, opened[-1], pieces)
        noted = filling.await_seal()["pieces"]
        for path, pieces in found.items():
            if any(noted[path][number] != digest for number, digest in pieces.items()):
                raise DamageFound(f"{path} is torn in its memory")
        filling.check()
        for descriptor in opened:
            fsops.flush(descriptor)
    return found


def _write(filling: Filling, path: str, begin: int, end: int, descriptor: int, pieces: dict[int, str]) -> None:
    """One write; digested after it, so that what changed between the two shows."""
    image, padded = filling.slot.image(path), filling.slot.padded_image(path)
    last = padded.nbytes if end == image.nbytes else end  # a write is whole pages; the first machine cuts the file
    fsops.write_pages(descriptor, padded[begin:last], begin)
    for first in range(begin, end, PIECE_BYTES):
        pieces[first // PIECE_BYTES] = piece_digest(image[first : min(first + PIECE_BYTES, end)])


def answer(layout: RunLayout, asked: Wanted, **facts: Any) -> None:
    """Pieces, or why it refuses. Where it cannot be told, the first one waits in vain, and writes alone."""
    with contextlib.suppress(OSError):
        InFolder(layout.nodes).write(ANSWER.format(asked.node), {"commit": asked.commit, **facts})
