"""everstep verify"""

from everstep.cli.place import open_run
from everstep.cli.printing import beside, print_json
from everstep.errors import ExitCode, UserError
from everstep.units import size
from everstep.versions import split_spec, verify
from everstep.versions.reading import reading


def verify_(run: str, *, json: bool = False) -> int:
    """Read a version, or all of a run, and check every digest; exit 1 where one fails.

    Parameters
    ----------
    run
        RUN for all its versions, or RUN@N for one.
    json
        Print as JSON.
    """
    name, spec = split_spec(run)
    opened = open_run(name)
    versions = opened.versions() if spec is None else [opened.find(spec)]
    faults: list[dict[str, str | None]] = (
        [] if spec else [{"version": str(path), "what": reason} for path, reason in opened.damaged()]
    )
    checked = []
    for version in versions:
        try:
            with reading(version.path), beside(f"Reading {version.name}, {size(version.size_bytes)}"):
                found = verify(version)
        except UserError as gone:
            if not json:
                print(gone)
            continue
        checked.append(version.name)
        faults += [{"version": version.name, "file": f.file, "tensor": f.tensor, "what": f.what} for f in found]
        if not json:
            print(f"{version.name}: {'damaged' if found else 'whole'}, {size(version.size_bytes)}")
    if json:
        print_json({"checked": checked, "faults": faults})
    else:
        for fault in faults:
            print("  " + ": ".join(str(part) for part in fault.values() if part))
    return ExitCode.FAULT_FOUND if faults else ExitCode.DONE
