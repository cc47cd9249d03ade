"""everstep slim"""

from everstep.cli.place import open_version
from everstep.units import size
from everstep.versions.pruning import slim


def slim_(version: str) -> int:
    """Drop what only a resume needs from a version; it can still be drawn with, started from and taken elsewhere.

    Parameters
    ----------
    version
        RUN@N.
    """
    run, found = open_version(version)
    freed = slim(run, found)
    print(f"{found.name} is slim now: {size(freed)} freed. It cannot be resumed any more.")
    return 0
