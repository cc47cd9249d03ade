"""everstep replay"""

import sys
from contextlib import ExitStack
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from everstep.cli.place import open_version
from everstep.cli.printing import print_json, print_table
from everstep.errors import ExitCode, UserError
from everstep.models.files import AVERAGED, OPTIMIZER, WEIGHTS
from everstep.places import as_word, here
from everstep.versions import Run, run_folder, split_spec

if TYPE_CHECKING:
    from everstep.train.replay_verdict import Replayed

NAMES = {WEIGHTS: "weights", OPTIMIZER: "optimizer", AVERAGED: "averaged weights"}


def replay_(
    version: str,
    *,
    from_: Annotated[str | None, Parameter(name="--from")] = None,
    json: bool = False,
) -> int:
    """Train from the version before again, beside the run, and compare every bit; exit 1 where one differs.

    Finds bits that flipped before they were digested, which no checksum can. Nothing is written into the run.

    Parameters
    ----------
    version
        RUN@N, or RUN for its latest version.
    from_
        RUN@M, an earlier whole version of the same line to begin from; left out, the one that N went on from.
    json
        Print as JSON.
    """
    from rich.console import Console

    from everstep.train.progress import Reporter
    from everstep.train.replay_route import find_route

    here()  # PyTorch loads from nowhere else
    run, found = open_version(version)
    # What is said on the way must not stand in the JSON.
    reporter = Reporter(Console(file=sys.stderr if json else sys.stdout, highlight=False, soft_wrap=True))
    with ExitStack() as held:
        held.callback(reporter.close)
        route = find_route(run, found, None if from_ is None else _same_run(run, from_), held, reporter.say)
        before = "the start made anew" if route.begins is None else f"{route.begins.name} (step {route.first_step:,})"
        reporter.say(f"{run.name}: {before} to {found.name} (step {found.step:,}) again, beside the run ...")
        from everstep.train.replay import replay

        replayed = replay(route, reporter)
    if json:
        print_json({**asdict(replayed), "is_same": replayed.is_same, "verdict": replayed.verdict()})
    else:
        _print(replayed)
    return ExitCode.DONE if replayed.is_same else ExitCode.FAULT_FOUND


def _same_run(run: Run, spec: str) -> str:
    """The version's part of --from RUN@M. Raises: UserError if that is another run."""
    name, earlier = split_spec(spec)
    if earlier is None or run_folder(name).resolve() != run.path:
        raise UserError(f"--from {spec}: write it as {run.name}@M; a replay begins from a version of the same run.")
    return earlier


def _print(replayed: "Replayed") -> None:
    rows = [(NAMES.get(f.file, f.file), "tensors", f"{f.tensors:,}", f"{len(f.differing):,}") for f in replayed.files]
    rows.append(("losses, rates, examples", "steps", f"{replayed.recorded:,}", f"{len(replayed.steps_differing):,}"))
    print_table(("", "in", "compared", "differ"), rows, right=("compared", "differ"))
    print(replayed.verdict())
    if not replayed.has_same_tensors and replayed.begins is not None:
        print(f"To go on from before it: everstep resume {as_word(replayed.run)}@{replayed.begins}")
