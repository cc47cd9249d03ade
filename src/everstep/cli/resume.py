"""everstep resume"""

from typing import Annotated

from cyclopts import Parameter

from everstep.cli.place import open_run
from everstep.errors import UserError
from everstep.versions import split_spec
from everstep.watching.standing import settings_of


def resume_(run: str, *, set: Annotated[tuple[str, ...], Parameter(negative=())] = ()) -> int:
    """Go on with a run, with changes on purpose where --set says so.

    Parameters
    ----------
    run
        RUN, or RUN@N to go back to a version; later versions stay.
    set
        key=value, a setting to change; may be given several times. What changes is recorded in the next version.
    """
    from everstep.launch.start import go_on

    name, version = split_spec(run)
    opened = open_run(name)
    if settings_of(opened) is None:
        raise UserError(f"{opened.name} is a loop of its own: start the program that made it again, and it goes on.")
    return go_on(opened, version, set)
