"""everstep reproduce"""

from pathlib import Path

from everstep.cli.place import open_version
from everstep.cli.printing import beside
from everstep.errors import ExitCode, UserError


def reproduce_(version: str, *, out: Path | None = None) -> int:
    """Draw a version's contact sheet again from the disk; exit 1 if any picture differs from what was drawn then.

    Parameters
    ----------
    version
        RUN@N, or RUN for its latest version.
    out
        PNG file; left out, a name in the folder that the command runs in.
    """
    run, found = open_version(version)
    target = out or Path(f"{run.name}-{found.name}-again.png")
    if not target.parent.is_dir():
        raise UserError(f"--out {target}: there is no folder {target.parent}.")
    with beside(f"Drawing with {found.name} again"):
        from everstep.evaluation.reproducing import reproduce

        again = reproduce(run, found)
    again.page.save(target)
    if again.same == again.total:
        print(f"{found.name}: all {again.total} pictures are the same, bit for bit. {target}")
        return ExitCode.DONE
    print(f"{found.name}: {again.total - again.same} of {again.total} pictures differ from those drawn then. {target}")
    print("\n".join(f"  different from then: {what}" for what in again.differs) or "  Nothing known explains it.")
    return ExitCode.FAULT_FOUND
