"""Where RUN and RUN@N are on disk."""

from everstep.errors import UserError
from everstep.versions import Run, Version, run_folder, split_spec


def open_run(name: str) -> Run:
    """Raises: UserError with the nearest name if there is no such run."""
    return Run.open(run_folder(name))


def open_version(spec: str) -> tuple[Run, Version]:
    """RUN@N, or RUN for its latest version. Raises: UserError."""
    name, version = split_spec(spec)
    run = open_run(name)
    return run, run.find(version or "latest")


def refuse_if_gone(version: Version) -> None:
    """After a version was named to be kept, it is there for good, or this says that a prune was quicker.

    Raises: UserError.
    """
    if not version.path.is_dir():
        raise UserError(f"{version.name} was removed meanwhile, by a prune that had begun before.")
