"""Processes that train together, as their keeper holds them: the one that launched them, and all that it has launched.

Whatever ends the first ends all of them, before anything is decided: nothing is committed while one may still write.
"""

import contextlib
import ctypes
import os
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass

from everstep.keeping.child import Child

SET_CHILD_SUBREAPER = 36  # prctl(2)
POLL_S = 0.01


def adopt_orphans() -> None:
    """Descendants whose parent has died become this process's children, so that their end can be waited for."""
    ctypes.CDLL(None, use_errno=True).prctl(SET_CHILD_SUBREAPER, 1, 0, 0, 0)


@dataclass(frozen=True, slots=True)
class Group(Child):
    """A launcher, which is the first of its process group, and the ranks in it."""

    def signal(self, number: int) -> None:
        """To all of them; nothing happens if they have ended."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, number)

    def end(self) -> int | None:
        """Of the launcher, as of any child; none of the others lives when this returns."""
        code = Child.end(self)
        self.signal(signal.SIGKILL)
        for _ in self._still_there():
            time.sleep(POLL_S)
        return code

    def _still_there(self) -> Iterator[None]:
        """Until no process is left; those that were orphaned are reaped."""
        while True:
            with contextlib.suppress(ChildProcessError):
                while os.waitpid(-self.pid, os.WNOHANG)[0]:
                    continue
            try:
                os.killpg(self.pid, 0)
            except ProcessLookupError:
                return
            yield
