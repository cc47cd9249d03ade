"""Processes that end, and calls that fail, at the n-th effect that they have on the disk."""

import os
import signal
from collections.abc import Callable
from pathlib import Path

from effects import CHANGING, Effects


def killed_at(nth: int, root: Path, action: Callable[[], object]) -> bool:
    """Run it in a forked process that is gone before its n-th change of what lies below the root.

    Returns whether it was killed; False if it ended before.
    """
    count = 0

    def before(call: str, path: str) -> None:
        nonlocal count
        count += call in CHANGING
        if count == nth:
            os.kill(os.getpid(), signal.SIGKILL)

    def dying() -> None:
        with Effects(root, before):
            action()

    status = in_child(dying)
    assert os.WIFEXITED(status) or os.WTERMSIG(status) == signal.SIGKILL
    assert not os.WIFEXITED(status) or os.WEXITSTATUS(status) == 0
    return os.WIFSIGNALED(status)


def in_child(action: Callable[[], object]) -> int:
    """Run it in a forked process; returns how that ended, as waitpid says."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            action()
            code = 0
        finally:
            os._exit(code)
    return os.waitpid(child, 0)[1]


class Failing(Effects):
    """Inside, the n-th call of a kind fails: once, or from then on. Counts all calls of the kind."""

    def __init__(self, root: Path, call: str, nth: int, error: int, for_good: bool = False) -> None:
        super().__init__(root, self._fail)
        self.call, self.nth, self.error, self.for_good, self.count = call, nth, error, for_good, 0

    def _fail(self, call: str, path: str) -> None:
        self.count += call == self.call
        if call == self.call and (self.count == self.nth or (self.for_good and self.count > self.nth)):
            raise OSError(self.error, os.strerror(self.error))

    @property
    def has_failed(self) -> bool:
        return self.count >= self.nth
