"""everstep resume"""

from typing import Annotated

from cyclopts import Parameter

from everstep.cli.place import open_run
from everstep.cli.printing import beside
from everstep.errors import UserError
from everstep.mirror.fetching import fetch, is_mirror
from everstep.mirror.folder import Folder
from everstep.units import size
from everstep.versions import Run, split_spec
from everstep.versions.layout import RUNS
from everstep.watching.standing import settings_of


def resume_(run: str, *, set: Annotated[tuple[str, ...], Parameter(negative=())] = ()) -> int:
    """Go on with a run, with changes on purpose where --set says so.

    Parameters
    ----------
    run
        RUN, or RUN@N to go back to a version; later versions stay. Of a mirror's folder the newest version is fetched
        into runs/ first.
    set
        key=value, a setting to change; may be given several times. What changes is recorded in the next version.
    """
    from everstep.launch.start import go_on

    name, version = split_spec(run)
    opened = fetched(open_run(name), version)
    if settings_of(opened) is None:
        raise UserError(f"{opened.name} is a loop of its own: start the program that made it again, and it goes on.")
    return go_on(opened, version, set)


def fetched(run: Run, spec: str | None) -> Run:
    """The run itself; of copies in a mirror the run that goes on from them here. Raises: UserError, DamageFound."""
    if not is_mirror(run.path):
        return run
    whole = [version for version in run.versions() if version.resumable]
    if spec is None and not whole:
        raise UserError(f"{run.path} has no version that can be gone on from; slim copies cannot.")
    version = whole[-1] if spec is None else run.find(spec)
    root = RUNS / run.name
    with beside(f"Fetching {version.name} of {run.name}", "bytes", size) as said:
        came = fetch(Folder(run.path), root, [version.number], said)
    if came:
        print(f"{version.name} fetched to {root}.")
    return Run.open(root)
