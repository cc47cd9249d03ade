"""everstep stop"""

import time

from everstep.cli.asking import ask
from everstep.cli.place import open_run
from everstep.errors import ExitCode, UserError

POLL_S = 0.1


def stop_(run: str, *, wait: bool = True, timeout_s: float = 600.0) -> int:
    """Let a running training finish its step, commit and end.

    Parameters
    ----------
    wait
        Return only when the training has ended.
    timeout_s
        Seconds to wait for that.
    """
    opened = open_run(run)
    held = opened.holder()
    if held is None:
        raise UserError(f"{opened.name} is not being trained; there is nothing to stop.")
    ask(opened, "stop")
    if not wait:
        print(f"{opened.name}: asked process {held.pid} on {held.host} to stop.")
        return ExitCode.DONE
    until = time.monotonic() + timeout_s
    while opened.holder() is not None:
        if time.monotonic() > until:
            raise UserError(f"{opened.name} has not ended within {timeout_s:g} s; it was asked to, and may still.")
        time.sleep(POLL_S)
    last = opened.versions()[-1]
    print(
        f"{opened.name} has ended. {last.name} (step {last.step:,}) is {last.path}\n"
        f"Go on: everstep resume {opened.word}"
    )
    return ExitCode.DONE
