"""EVERSTEP_ variables: each is a setting, and one that is none is refused like an unknown key."""

import difflib
from collections.abc import Mapping

from everstep.errors import UserError

PREFIX = "EVERSTEP_"
# Not settings: words of the command line, the keeper's address for a loop that it started, and what our tests read.
OTHERS = ("RUN", "SET", "CONFIG", "KEPT_BY", "GOLDEN", "CRASH_ROUNDS", "CRASH_SEED", "FAULT_TABLE")
BARE = ("base", "data")


def refuse_unknown_variables(surroundings: Mapping[str, str]) -> None:
    """Raises: UserError naming every variable that is no setting, with the nearest one that is."""
    names = [name for name in surroundings if name.upper().startswith(PREFIX)]
    if not names:
        return
    from everstep.config.load import known_keys  # pydantic would slow every other command

    known = {variable(key) for key in (*known_keys(), *BARE)}
    faults = []
    for name in sorted(names):
        if name in known or name.removeprefix(PREFIX) in OTHERS:
            continue
        near = difflib.get_close_matches(name.upper(), sorted(known), n=1, cutoff=0.5)
        faults.append(f"{name} is in the environment, but no setting{f'. Did you mean {near[0]}?' if near else '.'}")
    if faults:
        raise UserError("\n".join([*faults, "Nothing was started."]))


def variable(key: str) -> str:
    """EVERSTEP_OPTIM_SEED for optim.seed."""
    return PREFIX + key.upper().replace(".", "_")


def with_variable(line: str, surroundings: Mapping[str, str]) -> str:
    """What is wrong with a setting, with the variable that it comes from, if it does."""
    name = variable(line.partition(" ")[0].rstrip(":"))
    value = surroundings.get(name)
    return f"{name}: {line}" if value is not None and repr(value) in line else line
