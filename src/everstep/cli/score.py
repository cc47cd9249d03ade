"""everstep score"""

import os
from dataclasses import asdict
from typing import Annotated

from cyclopts import Parameter

from everstep.cli.place import open_run
from everstep.cli.printing import beside, print_json
from everstep.errors import UserError
from everstep.places import as_word, here
from everstep.versions import Run, split_spec


def score_(
    version: str,
    *,
    all_: Annotated[bool, Parameter(name="--all", negative=())] = False,
    pairs: int | None = None,
    again: Annotated[bool, Parameter(negative=())] = False,
    json: bool = False,
) -> int:
    """Measure control gain and adherence of versions on disk, on the held-out pairs, and draw their contact sheets.

    Parameters
    ----------
    version
        RUN@N for one version; RUN with --all for all that have no score yet.
    all_
        All versions of the run. Can be ended and called again: it does what is left.
    pairs
        Held-out pairs to draw for adherence; left out, as many as the run's contact sheets show.
    again
        Also those that have been scored.
    json
        Print as JSON.
    """
    name, spec = split_spec(version)
    run = open_run(name)
    if all_ == (spec is not None):
        raise UserError(
            f"Either one version, everstep score {as_word(name)}@latest, or all: everstep score {as_word(name)} --all."
        )
    here()  # PyTorch loads from nowhere else
    from everstep.evaluation.rescoring import rescore, unscored

    asked = run.versions() if spec is None else [run.find(spec)]
    todo = asked if again or spec is not None else unscored(run, asked)
    if not todo:
        print_json([]) if json else print(
            f"All {len(asked)} versions of {run.name} have a score; --again measures anew."
        )
        return 0
    _refuse_read_only(run)
    done = []
    turns = rescore(run, todo, pairs)
    for count, version_ in enumerate(todo, start=1):
        with beside(f"[{count}/{len(todo)}] Measuring {version_.name}"):
            turn = next(turns)
        done.append(asdict(turn.scored))
        if not json:
            print(f"[{count}/{len(todo)}] {turn.version.name}, step {turn.version.step:,}: {turn.in_words}", flush=True)
    if json:
        print_json(done)
    else:
        print(turn.verdict.sentence)
    return 0


def _refuse_read_only(run: Run) -> None:
    """Raises: UserError before anything is measured, where it could not be written down."""
    if not os.access(run.layout.records, os.W_OK):
        raise UserError(f"{run.name} cannot be scored: {run.layout.records} cannot be written to. Nothing was changed.")
