"""everstep save"""

import time

from everstep.cli.place import open_run
from everstep.contracts import Reason
from everstep.errors import UserError
from everstep.versions import read_requests, write_request

POLL_S = 0.05


def save_(run: str, *, label: str | None = None, timeout_s: float = 600.0) -> int:
    """Let a running training commit a version after the step it is in.

    Parameters
    ----------
    label
        A name for the version: RUN@LABEL.
    timeout_s
        Seconds to wait for the commit.
    """
    opened = open_run(run)
    if opened.holder() is None:
        raise UserError(f"{opened.name} is not being trained; its last version is all there is to save.")
    before = opened.next_number()
    write_request(opened.layout, "save", label=label)
    until = time.monotonic() + timeout_s
    while any(request.kind == "save" for request in read_requests(opened.layout)):
        if opened.holder() is None:
            raise UserError(f"{opened.name} ended before it came to it; everstep list {run} shows what it left.")
        if time.monotonic() > until:
            raise UserError(f"{opened.name} has not saved within {timeout_s:g} s; it was asked to, and still may.")
        time.sleep(POLL_S)
    made = [version for version in opened.versions() if version.number >= before and version.reason == Reason.ASKED]
    if not made:
        raise UserError(f"{opened.name} could not save a version; what it prints says why.")
    print(f"{made[-1].name} (step {made[-1].step:,}) is {made[-1].path}")
    return 0
