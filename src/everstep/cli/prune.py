"""everstep prune"""

import time

from everstep.cli.place import open_run
from everstep.cli.printing import print_json, print_table
from everstep.config.policy import policy
from everstep.config.schema import Keep
from everstep.train.retiring import in_words, marked, not_mirrored
from everstep.units import size
from everstep.versions.pruning import decide, prune
from everstep.versions.retention import Decision
from everstep.watching.standing import settings_of


def prune_(run: str, *, dry_run: bool = False, json: bool = False) -> int:
    """Let versions go that no policy of the run keeps; its settings under keep say which.

    Parameters
    ----------
    dry_run
        Only say what would become of each version, and why.
    json
        Print as JSON.
    """
    opened = open_run(run)
    settings, now_s = settings_of(opened), time.time()
    keep = Keep() if settings is None else settings.keep
    waiting = set() if settings is None else not_mirrored(opened, settings)
    act = decide if dry_run else prune
    decided = act(opened, policy(keep), now_s, marks=marked(opened, keep), awaited=waiting)
    if json:
        print_json([_row(decision) for decision in decided])
    elif dry_run:
        columns = ("version", "step", "then", "frees", "why")
        print_table(columns, [_cells(decision) for decision in decided], right=("step", "frees"))
        left = sum(decision.left_bytes for decision in decided)
        print(f"{size(sum(decision.frees_bytes for decision in decided))} would be freed, {size(left)} left.")
    else:
        print(in_words(decided) or "Nothing to remove.")
    return 0


def _row(decision: Decision) -> dict[str, object]:
    return {
        "version": decision.held.number,
        "step": decision.held.step,
        "fate": decision.fate.value,
        "reasons": list(decision.reasons),
        "frees_bytes": decision.frees_bytes,
    }


def _cells(decision: Decision) -> tuple[str, ...]:
    frees = size(decision.frees_bytes) if decision.frees_bytes else ""
    held = decision.held
    return f"version_{held.number}", f"{held.step:,}", decision.fate.value, frees, "; ".join(decision.reasons)
