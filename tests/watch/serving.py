"""Waiting for what a page or a training does."""

import time
from collections.abc import Callable


def wait_for(is_there: Callable[[], object], timeout_s: float = 60) -> None:
    until = time.monotonic() + timeout_s
    while not is_there():
        assert time.monotonic() < until
        time.sleep(0.02)
