"""How much is tried, and by which chance: more of it, or another, without a change of the tests.

EVERSTEP_CRASH_ROUNDS is how often whatever is repeated is repeated, EVERSTEP_CRASH_SEED what its moments depend on.
"""

import os
import random

SEED = int(os.environ.get("EVERSTEP_CRASH_SEED", "1"))
ASKED = os.environ.get("EVERSTEP_CRASH_ROUNDS")


def rounds(ordinary: int, most: int | None = None) -> int:
    """How often: the ordinary number in `make test`, what was asked for elsewhere, at most so many."""
    asked = ordinary if ASKED is None else int(ASKED)
    return asked if most is None else min(asked, most)


def draws(name: str) -> random.Random:
    """The moments of one test, which do not depend on which others run."""
    return random.Random(f"{SEED} {name}")
