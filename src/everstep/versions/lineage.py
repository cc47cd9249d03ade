"""Which version went on from which: inside a run, across runs, and through versions that are gone.

A version's manifest names its parent; of versions that are gone, the run's log still does. Never imports torch.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from everstep.errors import DamageFound
from everstep.versions.recovery import read_log
from everstep.versions.run import Run
from everstep.versions.version import Version

Reference = tuple[str, int]  # run and number; a run with a slash is a folder, one without is the version's own run


@dataclass(slots=True)
class Node:
    """A version in the tree, under the nearest of its ancestors that is still there."""

    version: Version
    gone: list[int] = field(default_factory=list)  # numbers of the versions between, nearest first
    lost: int | None = None  # the ancestor that is gone and of which nothing more is known
    origin: Reference | None = None  # folder and number of the version in another run that all this came from
    children: list["Node"] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Branch:
    """A run that began with the weights of a version of this one."""

    run: Run
    number: int
    versions: int
    last_step: int


def tree(run: Run, versions: Iterable[Version]) -> list[Node]:
    """The roots: versions with no ancestor here. Children are in the order of their numbers."""
    nodes = {version.number: Node(version) for version in versions}
    logged = _logged_parents(run)
    roots: list[Node] = []
    for node in nodes.values():
        above = _climb(node, nodes, logged)
        (roots if above is None else above.children).append(node)
    return roots


def _climb(node: Node, nodes: dict[int, Node], logged: dict[int, Reference | None]) -> Node | None:
    """The nearest ancestor that is there; what is met on the way is noted in the node."""
    parent, passed = _reference(node.version.manifest.get("parent")), {node.version.number}
    while parent is not None:
        folder, number = parent
        if "/" in folder:
            node.origin = parent
            return None
        if number in nodes and number not in passed:
            return nodes[number]
        if number not in logged or number in passed:
            node.lost = number
            return None
        node.gone.append(number)
        passed.add(number)
        parent = logged[number]
    return None


def branches(run: Run) -> list[Branch]:
    """Runs beside this one that began with weights of one of its versions, by name. Reads their logs."""
    found = []
    for other in _beside(run):
        origin = _origin(other)
        if origin is not None and Path(origin[0]) == run.path and (versions := other.versions()):
            found.append(Branch(other, origin[1], len(versions), versions[-1].step))
    return found


def _beside(run: Run) -> Iterator[Run]:
    for folder in sorted(run.path.parent.iterdir()):
        try:
            if folder != run.path and Run.exists(folder):
                yield Run(folder)
        except OSError:
            continue  # somebody else's folder


def ancestors(version: Version) -> Iterator[tuple[Path, int, str]]:
    """Folder of the run, number and manifest digest of every ancestor, nearest first, as far as anything is known.

    Goes on into other runs where they are still there.
    """
    folder = version.path.parent
    parent: dict[str, Any] | None = version.manifest.get("parent")
    seen = set()
    while parent is not None and (digest := parent["manifest_digest"]) not in seen:
        seen.add(digest)
        folder = Path(parent["run"]) if "/" in parent["run"] else folder
        yield folder, int(parent["version"]), digest
        parent = _manifest_parent(folder, int(parent["version"]), digest)


def _manifest_parent(folder: Path, number: int, digest: str) -> dict[str, Any] | None:
    """The parent of a version that may be gone: then out of the log, which names it without its digest."""
    run = Run(folder)
    try:
        version = run.version(number)
        if version.manifest_digest == digest:
            return version.manifest.get("parent")
    except (DamageFound, OSError):
        pass
    lines = read_log(run.layout) if folder.is_dir() else []
    mine = [line for line in lines if line.get("digest") == digest]
    reference = _split(mine[-1].get("parent")) if mine else None
    if reference is None:
        return None
    theirs = _digest_of(reference, run, lines)
    return None if theirs is None else {"run": reference[0], "version": reference[1], "manifest_digest": theirs}


def _digest_of(reference: Reference, run: Run, lines: list[dict[str, Any]]) -> str | None:
    if "/" in reference[0]:
        other = Path(reference[0])
        lines = read_log(Run(other).layout) if other.is_dir() else []
    found = [line["digest"] for line in lines if line.get("version") == reference[1] and "digest" in line]
    return found[-1] if found else None


def _origin(run: Run) -> Reference | None:
    """The version of another run that a run began with."""
    logged = _logged_parents(run)
    known = list(logged.values())
    if not known:  # no log, or one from before parents were noted there
        known = [_reference(version.manifest.get("parent")) for version in run.versions()[:1]]
    return next((parent for parent in known if parent is not None and "/" in parent[0]), None)


def _logged_parents(run: Run) -> dict[int, Reference | None]:
    return {
        line["version"]: _split(line["parent"])
        for line in read_log(run.layout)
        if isinstance(line.get("version"), int) and "parent" in line
    }


def _reference(parent: dict[str, Any] | None) -> Reference | None:
    return None if parent is None else (str(parent["run"]), int(parent["version"]))


def _split(text: object) -> Reference | None:
    if not isinstance(text, str):
        return None
    run, _, number = text.rpartition("@")
    return (run, int(number)) if number.isdigit() else None
