"""everstep report"""

from pathlib import Path

from everstep.cli.compare import compared
from everstep.cli.place import open_run, open_version
from everstep.cli.printing import beside
from everstep.errors import UserError
from everstep.units import size
from everstep.versions import Run, fsops
from everstep.watching.remembered import RememberedRun
from everstep.watching.report import report


def report_(run: str, *, out: Path | None = None, compare: tuple[str, ...] = ()) -> int:
    """Write a run's page as one HTML file, to send or to keep: curves, verdict, every version's pictures.

    Parameters
    ----------
    out
        The file; left out, RUN.html in the folder that the command runs in.
    compare
        A version, as in everstep compare; twice or more: what these draw for the same pairs now, side by side, and how
        far their weights are apart, becomes a part of the page.
    """
    opened = open_run(run)
    path = out or Path(f"{opened.name}.html")
    if len(compare) == 1:
        raise UserError("There is nothing to compare with: --compare is given for each of two versions, or more.")
    beside_each_other = compared([open_version(spec_in(opened, spec)) for spec in compare]).page() if compare else None
    with beside("Reading the versions", "versions") as said:
        page = report(RememberedRun(opened.path), said, beside_each_other)
    try:
        fsops.replace_file(path, page.encode())
    except OSError as error:
        raise UserError(f"{path} cannot be written: {error.strerror}.") from None
    print(f"{opened.name} is written to {path}, {size(path.stat().st_size)}; any browser opens it.")
    return 0


def spec_in(run: Run, spec: str) -> str:
    """RUN@N stays; N alone is a version of this run."""
    return spec if "@" in spec else f"{run.path}@{spec}"
