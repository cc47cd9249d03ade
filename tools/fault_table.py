"""Writes what a run of the crash suite counted (docs/reliability.json) into the marked part of docs/reliability.md.

python tools/fault_table.py docs/reliability.json docs/reliability.md
"""

import json
import sys
from pathlib import Path
from typing import Any

BEGIN, END = "<!-- counted by make crash: begin -->", "<!-- counted by make crash: end -->"


def main() -> None:
    counted, page = map(Path, sys.argv[1:])
    page.write_text(filled(page.read_text(), json.loads(counted.read_text())))


def filled(page: str, counted: dict[str, Any]) -> str:
    """The page with the table of these counts in it. Raises: ValueError if the page has no marked part."""
    before, _, rest = page.partition(BEGIN)
    _, found, after = rest.partition(END)
    if not found:
        raise ValueError(f"the page has no part between {BEGIN} and {END}")
    return f"{before}{BEGIN}\n{rendered(counted)}\n{END}{after}"


def rendered(counted: dict[str, Any]) -> str:
    machine, faults = counted["machine"], counted["faults"]
    changed = " with changes that are not in it" if counted["is_changed_since"] else ""
    rounds = "as in `make test`" if counted["rounds"] is None else f"{counted['rounds']} rounds"
    where = f"{machine['system']}, {machine['cores']} cores, {machine['memory_gb']} GB, Python {machine['python']}"
    lines = [
        f"{len(faults)} kinds of fault on {counted['date']}: commit {counted['commit']}{changed}, "
        f"seed {counted['seed']}, {rounds}; {where}.",
        "",
        "| fault | injected | hit | survived | steps lost | where |",
        "| --- | ---: | ---: | ---: | ---: | --- |",
        *map(_row, faults),
    ]
    return "\n".join([*lines, *_guards(counted["guards"])])


def _row(row: dict[str, Any]) -> str:
    where = ", ".join(f"`{place.removeprefix('tests/')}`" for place in row["where"])
    if row["injected"] == 0 and row["not_run"]:
        return f"| {row['fault']} | not run here: {'; '.join(row['not_run'])} | | | | {where} |"
    survived = f"{row['survived']:,}" + (f", but: {'; '.join(row['failed'])}" if row["failed"] else "")
    return f"| {row['fault']} | {row['injected']:,} | {row['hit']:,} | {survived} | {row['steps_lost']:,} | {where} |"


def _guards(guards: list[dict[str, Any]]) -> list[str]:
    if not guards:
        return []
    rows = [f"| {guard['guard']} | {len(guard['noticed_by'])}: {_names(guard['noticed_by'])} |" for guard in guards]
    return ["", "Each guard taken out once, to see that it is missed:", "", "| taken out | tests that failed |",
            "| --- | --- |", *rows]  # fmt: skip


def _names(tests: list[str]) -> str:
    shown = sorted({test.rpartition("::")[2].partition("[")[0] for test in tests})
    return ", ".join(f"`{name}`" for name in shown)


if __name__ == "__main__":
    main()
