"""How a verb asks something of a training that runs in another process."""

import time

from everstep.errors import NotCommitted, UserError
from everstep.telling import why
from everstep.units import size
from everstep.versions import Request, Run, fsops, is_waiting, write_request

POLL_S = 0.05


def ask(run: Run, kind: str, **details: object) -> Request:
    """Raises: NotCommitted if the disk does not take the request."""
    try:
        return write_request(run.layout, kind, **details)
    except OSError as error:
        held = run.holder()
        by_signal = f" kill -TERM {held.pid} on {held.host} stops it, too." if held and kind == "stop" else ""
        raise NotCommitted(
            f"{run.name} could not be asked to {kind} ({why(error)}; {size(fsops.free_bytes(run.path))} free in "
            f"{run.path}). It trains on, and its versions are whole.{by_signal}"
        ) from None


def wait_until_heard(run: Run, request: Request, timeout_s: float) -> None:
    """Until it was done or answered. Raises: UserError if the training ends before, or takes too long."""
    until = time.monotonic() + timeout_s
    while is_waiting(run.layout, request):
        if run.holder() is None:
            raise UserError(f"{run.name} ended before it came to it; everstep list {run.word} shows what it left.")
        if time.monotonic() > until:
            raise UserError(
                f"{run.name} has not done what it was asked to ({request.kind}) within {timeout_s:g} s; it still may."
            )
        time.sleep(POLL_S)


def refused_by_the_disk(run: Run) -> NotCommitted | None:
    """Where the training could not even write why it refused: what the disk itself tells. None if there is room."""
    versions, free = run.versions(), fsops.free_bytes(run.path)
    needed = versions[-1].size_bytes if versions else 0
    if free >= needed:
        return None
    return NotCommitted(
        f"{run.name} could not save a version: {versions[-1].name} takes {size(needed)}, {run.path} has {size(free)} "
        f"free. It trains on and tries again; older versions are whole. everstep prune {run.word} --dry-run shows what "
        "can go."
    )
