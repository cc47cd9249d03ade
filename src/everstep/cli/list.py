"""everstep list"""

from everstep.cli.place import open_run
from everstep.cli.printing import print_json, print_table
from everstep.versions import rows
from everstep.versions.units import size


def list_(run: str, *, json: bool = False) -> int:
    """The versions of a run.

    Parameters
    ----------
    json
        Print as JSON.
    """
    opened = open_run(run)
    found = rows(opened)
    if json:
        print_json(found)
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
