"""everstep resume"""

from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from everstep.cli.place import open_run
from everstep.cli.printing import beside
from everstep.errors import UserError
from everstep.mirror.addresses import is_address, name_at, place_at
from everstep.mirror.fetching import fetch, find, is_mirror
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
    opened = fetched(name, version)
    if settings_of(opened) is None:
        raise UserError(f"{opened.name} is a loop of its own: start the program that made it again, and it goes on.")
    return go_on(opened, version, set)


def fetched(name: str, spec: str | None) -> Run:
    """The run itself; of copies in a mirror the run that goes on from them here. Raises: UserError, DamageFound."""
    if is_address(name):
        # In a process of its own: what speaks over a network starts threads, and this process is to fork a trainer.
        with ProcessPoolExecutor(1, get_context("spawn")) as apart:
            number, root, has_come = apart.submit(_fetch, name, name_at(name), spec).result()
    else:
        run = open_run(name)
        if not is_mirror(place_at(str(run.path))):
            return run
        number, root, has_come = _fetch(str(run.path), run.name, spec)
    if has_come:
        print(f"version_{number} fetched to {root}.")
    return Run.open(root)


def _fetch(mirror: str, own: str, spec: str | None) -> tuple[int, Path, bool]:
    """The version's number, the run's folder here, and whether it was not there yet."""
    place, root = place_at(mirror), RUNS / own
    if not is_mirror(place):
        raise UserError(f"{place.address} holds no copies of a run; they lie in TARGET/RUN. Nothing was changed.")
    number = find(place, spec)
    with beside(f"Fetching version_{number} of {own}", "bytes", size) as said:
        return number, root, bool(fetch(place, root, [number], said))
