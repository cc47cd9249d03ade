"""everstep list"""

from typing import Any

from everstep.cli.place import open_run
from everstep.cli.printing import print_json, print_table
from everstep.versions import rows
from everstep.versions.units import size


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
    found = rows(opened)
    if json:
        print_json(found)
        return 0
    if tree:
        print("\n".join(tree_lines(found)))
        return 0
    columns = ("version", "step", "images", "reason", "size", "loss", "parent", "labels")
    table = [
        (
            f"version_{row['version']}" + ("" if row["resumable"] else " (slim)"),
            f"{row['step']:,}",
            f"{row['images_seen']:,}",
            row["reason"],
            size(row["size_bytes"]),
            f"{row['scores']['loss']:.4f}" if "loss" in row["scores"] else "",
            "" if row["parent"] is None else str(row["parent"]),
            ", ".join([*row["labels"], *(["pinned"] if row["pinned"] else [])]),
        )
        for row in found
    ]
    print_table(columns, table, right=("step", "images", "size", "loss"))
    for path, reason in opened.damaged():
        print(f"not listed: {path} ({reason})")
    return 0


def tree_lines(rows: list[dict[str, Any]]) -> list[str]:
    """A line for each version under the one it went on from; a version that is gone is named where it was."""
    here = {f"{row['version']}" for row in rows}
    children: dict[str | None, list[dict[str, Any]]] = {}
    for row in rows:
        parent = None if row["parent"] is None else str(row["parent"])
        number = None if parent is None else parent.rpartition("@")[2]
        children.setdefault(number if number in here else None, []).append(row)
    lines: list[str] = []
    waiting = [(row, "") for row in reversed(children.get(None, []))]
    while waiting:
        row, indent = waiting.pop()
        is_root = row in children.get(None, [])
        gone = f"(from {row['parent']}, which is not here)" if is_root and row["parent"] else ""
        names = ", ".join([*row["labels"], *(["pinned"] if row["pinned"] else [])])
        facts = (f"version_{row['version']}", f"step {row['step']:,}", row["reason"], names, gone)
        lines.append(indent + "  ".join(fact for fact in facts if fact))
        following = children.get(f"{row['version']}", [])
        inner = indent + ("    " if len(following) > 1 else "")
        waiting += [(child, inner) for child in reversed(following)]
    return lines
