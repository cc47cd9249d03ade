"""What lies in memory, for people: of this run, and of runs that are not there any more.

Only looks. Never imports torch. Memory that nobody uses is never removed by itself, so somebody has to be told that it
is there, whose, and how to drop it.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from everstep.contracts import Report
from everstep.errors import UserError
from everstep.keeping.memory import Found, is_of, lying_about
from everstep.places import as_word, spelled
from everstep.units import size
from everstep.versions import Run
from everstep.versions.layout import identity_of

MOST_TOLD = 3  # at a start


def of_run(run: Run, ram_dir: str | None) -> list[Found]:
    """Memory of this run, in use or left."""
    identity = identity_of(run.path)
    return [
        found
        for found in _all(ram_dir)
        if found.run is not None and is_of(found.run, found.identity, run.path, identity)
    ]


def forgotten(run: Run, ram_dir: str | None) -> list[Found]:
    """Memory of other runs that nobody uses and no start will find: their folders are gone, or cannot be seen now."""
    ours = {found.path for found in of_run(run, ram_dir)}
    return [found for found in _all(ram_dir) if found.path not in ours and not found.is_used and _is_forgotten(found)]


def _all(ram_dir: str | None) -> list[Found]:
    try:
        return lying_about(spelled(ram_dir) if ram_dir else None)
    except UserError:  # a home that nobody knows here; looking needs none
        return lying_about(None)


def _is_forgotten(found: Found) -> bool:
    if found.run is None:
        return True
    if found.identity:
        return identity_of(Path(found.run)) != found.identity  # or another run stands in its place
    return not Path(found.run).is_dir()


def in_words(found: Found) -> str:
    """Of one that is this run's."""
    holds = "nothing whole yet" if found.step is None else f"step {found.step:,}"
    if found.is_used:
        return f"{holds} in {found.path}, in use"
    return f"{holds} in {found.path}, left: the next start commits it"


def sentence(found: Found) -> str:
    """Of one that nobody will find."""
    place, drop = f"{found.path} ({size(found.size_bytes)})", f"To drop it: rm -r {as_word(found.path)}"
    if found.run is None:
        return f"Memory in {place} cannot be read: it {found.why}. {drop}"
    holds = "a state" if found.step is None else f"step {found.step:,}"
    return (
        f"Memory in {place} holds {holds} of {found.run}, which is not there now. Nobody uses it; a start of that run "
        f"goes on from it. {drop}"
    )


def say_forgotten(run: Run, ram_dir: str | None, report: Report) -> None:
    """One line for each, at most MOST_TOLD."""
    for line in _lines(forgotten(run, ram_dir)):
        report(line)


def _lines(found: list[Found]) -> Iterator[str]:
    yield from map(sentence, found[:MOST_TOLD])
    if len(found) > MOST_TOLD:
        rest = sum(one.size_bytes for one in found[MOST_TOLD:])
        yield f"And {len(found) - MOST_TOLD} more ({size(rest)}): everstep status lists them."


def as_json(found: Found, is_of_this_run: bool) -> dict[str, Any]:
    """As everstep status --json prints it."""
    return {
        "path": str(found.path),
        "run": found.run,
        "is_of_this_run": is_of_this_run,
        "is_used": found.is_used,
        "step": found.step,
        "size_bytes": found.size_bytes,
        "why_unreadable": found.why or None,
    }
