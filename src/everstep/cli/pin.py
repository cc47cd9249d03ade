"""everstep pin"""

from everstep.cli.place import open_version, refuse_if_gone
from everstep.versions import write_annotation


def pin_(version: str, *, off: bool = False) -> int:
    """Keep a version whatever the policies say.

    Parameters
    ----------
    version
        RUN@N.
    off
        Take the pin away again.
    """
    run, found = open_version(version)
    write_annotation(run.layout, found.number, pinned=not off)
    refuse_if_gone(found)
    print(f"{found.name} is {'no longer pinned' if off else 'pinned'}.")
    return 0
