"""The end of a training waits for what mirrors lack.

A container, and a scheduler's job, end with their first process, whoever still sends in them.
"""

import contextlib
import signal
import time
from collections.abc import Iterator
from types import FrameType

from everstep.config.schema import Config
from everstep.errors import EverstepError
from everstep.keeping.signals import AGAIN
from everstep.mirror.following import Following
from everstep.train.progress import Reporter
from everstep.train.retiring import lacking
from everstep.units import duration
from everstep.versions import Run

POLL_S = 0.2


def see_off(run: Run, config: Config, mirrors: Following, reporter: Reporter) -> None:
    """Wait until senders have ended, for as long as the settings say, or until somebody has enough of it. The run is
    nobody's meanwhile. Raises nothing.
    """
    left_s, targets = config.mirror.wait.seconds, config.mirror.targets
    if not targets or left_s <= 0 or not _is_more_to_send(run, config):
        return
    until = time.monotonic() + left_s
    what = f"Sending to {', '.join(targets)}; Ctrl-C leaves that behind"
    with _asked() as asked, contextlib.suppress(TimeoutError), reporter.during(what):
        while mirrors.is_sending(run):
            if asked or time.monotonic() > until:
                raise TimeoutError
            time.sleep(POLL_S)
    for said in mirrors.failures():
        reporter.say(said)
    if mirrors.is_sending(run):
        why = "" if asked else f"Not all is there after {duration(left_s)} (mirror.wait). "
        reporter.say(
            f"{why}Sending goes on by itself; what is not sent then, the next start sends, or everstep mirror."
        )


def _is_more_to_send(run: Run, config: Config) -> bool:
    with contextlib.suppress(EverstepError):  # its disk is gone; or it is, since no version of it was made
        return bool(lacking(run, config, run.versions()))
    return False


@contextlib.contextmanager
def _asked() -> Iterator[list[int]]:
    """Signals that ask to leave meanwhile; afterwards they change nothing any more."""
    asked = list[int]()

    def note(number: int, frame: FrameType | None) -> None:
        asked.append(number)

    try:
        for number in AGAIN:
            signal.signal(number, note)
        yield asked
    finally:
        for number in AGAIN:
            signal.signal(number, signal.SIG_IGN)
