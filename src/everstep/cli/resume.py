"""everstep resume"""

import os
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from everstep.cli.place import open_run
from everstep.cli.printing import beside
from everstep.errors import UserError
from everstep.mirror.addresses import is_address, name_at, place_at, target_of
from everstep.mirror.fetching import fetch, find, is_mirror
from everstep.places import as_word
from everstep.units import size
from everstep.versions import Run, split_spec
from everstep.versions.layout import RUNS
from everstep.watching.standing import settings_of


def resume_(run: str, *, set: Annotated[tuple[str, ...], Parameter(negative=())] = ()) -> int:
    """Go on with a run, with changes on purpose where --set says so.

    Parameters
    ----------
    run
        RUN, or RUN@N to go back to a version; later versions stay. Of a mirror, a folder or an address, TARGET/RUN, the
        newest version is fetched into runs/ first.
    set
        key=value, a setting to change; may be given several times. What changes is recorded in the next version.
    """
    from everstep.launch.start import go_on

    name, version = split_spec(run)
    if not is_address(name):
        opened = _opened(name)
        if not is_mirror(place_at(str(opened.path))):
            return go_on(opened.path, lambda: _ours(opened), version, set, _targets(opened))
        name = str(opened.path)
    # Several machines may be told this: one of them fetches, and those that do not share its disk meet it there.
    return go_on(RUNS / name_at(name), lambda: _ours(fetched(name, version)), version, set, [target_of(name)])


def _opened(name: str) -> Run:
    """Raises: UserError; of a machine among others it knows why."""
    from everstep.launch.launched import place_from

    try:
        return open_run(name)
    except UserError as error:
        place = place_from(os.environ)
        if place is None or place.node == 0:
            raise
        raise UserError(
            f"{error}\nThis is machine {place.node} of {place.nodes}. Where they share no folder, all are told the "
            f"mirror in which they meet: everstep resume TARGET/{as_word(name)}"
        ) from None


def _ours(run: Run) -> Run:
    """Raises: UserError."""
    if settings_of(run) is None:
        raise UserError(f"{run.name} is a loop of its own: start the program that made it again, and it goes on.")
    return run


def _targets(run: Run) -> Sequence[str]:
    """Of the run's settings, where they are a training's."""
    found = settings_of(run)
    return () if found is None else found.mirror.targets


def fetched(mirror: str, spec: str | None) -> Run:
    """The run that goes on from copies here. Raises: UserError, DamageFound."""
    own = name_at(mirror)
    if is_address(mirror):
        # In a process of its own: what speaks over a network starts threads, and this process is to fork a trainer.
        with ProcessPoolExecutor(1, get_context("spawn")) as apart:
            number, root, has_come = apart.submit(_fetch, mirror, own, spec).result()
    else:
        number, root, has_come = _fetch(mirror, own, spec)
    if has_come:
        print(f"version_{number} fetched to {root}.")
    return Run.open(root)


def _fetch(mirror: str, own: str, spec: str | None) -> tuple[int, Path, bool]:
    """The version's number, the run's folder here, and whether it was not there yet."""
    place, root = place_at(mirror), RUNS / own
    if not is_mirror(place):
        raise UserError(f"{place.address} holds no copies of a run; they lie in TARGET/RUN. Nothing was changed.")
    number = find(place, spec)
    with beside(f"Fetching version_{number} of {own}", count=size) as said:
        return number, root, bool(fetch(place, root, [number], said))
