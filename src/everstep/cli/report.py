"""everstep report"""

from pathlib import Path

from everstep.cli.place import open_run
from everstep.cli.printing import beside
from everstep.errors import UserError
from everstep.units import size
from everstep.versions import fsops
from everstep.watching.remembered import RememberedRun
from everstep.watching.report import report


def report_(run: str, *, out: Path | None = None) -> int:
    """Write a run's page as one HTML file, to send or to keep: curves, verdict, every version's pictures.

    Parameters
    ----------
    out
        The file; left out, RUN.html in the folder that the command runs in.
    """
    opened = open_run(run)
    path = out or Path(f"{opened.name}.html")
    with beside("Reading the versions", "versions") as said:
        page = report(RememberedRun(opened.path), said)
    try:
        fsops.replace_file(path, page.encode())
    except OSError as error:
        raise UserError(f"{path} cannot be written: {error.strerror}.") from None
    print(f"{opened.name} is written to {path}, {size(path.stat().st_size)}; any browser opens it.")
    return 0
