"""Where RUN and RUN@N are on disk."""

from pathlib import Path

from everstep.errors import UserError
from everstep.versions import Run, Version

RUNS_DIR = Path("runs")


def run_folder(name: str) -> Path:
    """A bare name is a folder in runs/; anything with a slash is a path."""
    if not name.strip() or "@" in name:
        raise UserError(f"{name!r} is no name for a run; RUN@N names a version, not a run.")
    return Path(name).expanduser() if "/" in name else RUNS_DIR / name


def open_run(name: str) -> Run:
    """Raises: UserError with the nearest name if there is no such run."""
    return Run.open(run_folder(name))


def split_spec(spec: str) -> tuple[str, str | None]:
    """RUN@N -> (RUN, N); RUN -> (RUN, None)."""
    name, at, version = spec.rpartition("@")
    return (name, version) if at else (spec, None)


def open_version(spec: str) -> tuple[Run, Version]:
    """RUN@N, or RUN for its latest version. Raises: UserError."""
    name, version = split_spec(spec)
    run = open_run(name)
    return run, run.find(version or "latest")
