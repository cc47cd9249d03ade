"""everstep keep"""

from typing import Annotated

from cyclopts import Parameter


def keep_(*command: Annotated[str, Parameter(allow_leading_hyphen=True)], restarts: int = 0) -> int:
    """Start a program of your own under a keeper: everstep keep -- python loop.py. It calls everstep.keep().

    Parameters
    ----------
    command
        The command and its arguments.
    restarts
        How often it is started again by itself when it died.
    """
    from everstep.errors import UserError
    from everstep.keeping.host import Command
    from everstep.keeping.settings import Settings

    if not command:
        raise UserError("There is no command to keep: everstep keep -- python loop.py")
    return Command(command, lambda text: print(text, flush=True)).run(Settings(restarts=restarts))
