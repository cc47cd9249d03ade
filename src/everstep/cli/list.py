"""everstep list"""

from collections.abc import Sequence
from typing import Any

from everstep.cli.place import open_run
from everstep.cli.printing import print_json, print_table
from everstep.records.scores import marks
from everstep.units import size
from everstep.versions import Run, lineage, rows
from everstep.versions.lineage import Branch, Node

HEADS = {
    "loss": "loss",
    "control_gain": "gain",
    "benefit": "benefit",
}  # name of a score -> head of its column; these come first


def list_(run: str, *, tree: bool = False, json: bool = False) -> int:
    """The versions of a run.

    Parameters
    ----------
    tree
        Draw which version went on from which.
    json
        Print as JSON.
    """
    opened = open_run(run)
    if json:
        print_json(rows(opened))
        return 0
    if tree:
        print("\n".join(tree_lines(opened)))
    else:
        _print_rows(opened)
    for path, reason in opened.damaged():
        print(f"not listed: {path} ({reason})")
    return 0


def _print_rows(run: Run) -> None:
    found, at_jump = rows(run), marks(run)
    known = {name for row in found for name in row["scores"]}
    scores = [*(name for name in HEADS if name in known), *sorted(known - HEADS.keys())]
    heads = [HEADS.get(name, name) for name in scores]
    columns = ("version", "step", "images", "reason", "size", *heads, "parent", "labels")
    cells = [_cells(row, scores, at_jump.get(row["version"])) for row in found]
    print_table(columns, cells, right=("step", "images", "size", *heads))


def _cells(row: dict[str, Any], scores: Sequence[str], mark: str | None) -> tuple[str, ...]:
    return (
        f"version_{row['version']}" + ("" if row["resumable"] else " (slim)"),
        f"{row['step']:,}",
        f"{row['images_seen']:,}",
        row["reason"],
        size(row["size_bytes"]),
        *(f"{row['scores'][name]:z.4f}" if name in row["scores"] else "" for name in scores),
        "" if row["parent"] is None else str(row["parent"]),
        ", ".join([*row["labels"], *(["pinned"] if row["pinned"] else []), *([mark] if mark else [])]),
    )


def tree_lines(run: Run) -> list[str]:
    """A line for each version under the one it went on from; one after the other as long as nothing branches off."""
    started = lineage.branches(run)
    lines: list[str] = []
    # What is still to be drawn, last first: a node or a run, what stands before its line, and before the next ones.
    waiting: list[tuple[Node | Branch, str, str]] = [
        (root, "", "") for root in reversed(lineage.tree(run, run.versions()))
    ]
    while waiting:
        item, mark, indent = waiting.pop()
        if isinstance(item, Branch):
            lines.append(mark + _run_line(item))
            continue
        lines.append(mark + _version_line(run, item))
        other_runs = [branch for branch in started if branch.number == item.version.number]
        if not other_runs and len(item.children) == 1:
            waiting.append((item.children[0], indent, indent))
        else:
            waiting += reversed(_marked([*other_runs, *item.children], indent))
    return lines


def _marked(following: list[Node | Branch], indent: str) -> list[tuple[Node | Branch, str, str]]:
    """With the lines that lead to each from the version above."""
    last = len(following) - 1
    return [
        (item, indent + ("└─ " if place == last else "├─ "), indent + ("   " if place == last else "│  "))
        for place, item in enumerate(following)
    ]


def _version_line(run: Run, node: Node) -> str:
    version, note = node.version, run.annotation(node.version.number)
    names = [*note.labels, *(["pinned"] if note.pinned else []), *([] if version.resumable else ["slim"])]
    parts = [version.name, f"step {version.step:,}", version.reason, ", ".join(names), _changes(node), _from(node)]
    return "  ".join(part for part in parts if part)


def _changes(node: Node) -> str:
    """What was changed on purpose when training went on to this version."""
    parent = node.version.parent
    changes = {} if parent is None else parent.changes
    return ", ".join(f"{key} {before} -> {after}" for key, (before, after) in changes.items())


def _from(node: Node) -> str:
    """Where it came from, where that is not the line above."""
    if node.origin is not None:
        folder, number = node.origin
        return f"(weights of {folder}@{number})"
    if node.lost is not None:
        return f"(from version_{node.lost}, which is gone)"
    return f"(after {_named(sorted(node.gone))})" if node.gone else ""


def _named(gone: Sequence[int]) -> str:
    if len(gone) == 1:
        return f"version_{gone[0]}, which is gone"
    return f"{len(gone)} versions that are gone, version_{gone[0]} to version_{gone[-1]}"


def _run_line(branch: Branch) -> str:
    count = f"{branch.versions} version{'s' if branch.versions > 1 else ''}"
    return f"run {branch.run.name}, from the weights: {count} to step {branch.last_step:,}"
