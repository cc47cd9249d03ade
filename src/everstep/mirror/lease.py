"""Being alone in a place without locks: a file that is created only where there is none, and renewed while one works.

How old it is, the place's own clock says, never ours. Where a lease fails nothing is harmed: what lies in a place is
created only where there is nothing, or is the same whoever sends it. It only saves two from sending the same.
"""

import contextlib
import secrets
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

from everstep.errors import UserError
from everstep.mirror.backend import Place, Still, another_sends

LEASE = ".lease"
LASTS_S = 60.0  # without a sign of life, by the place's clock
RENEWED_S = 15.0
ASKED_S = 2.0  # how often who waits looks


class Dated(Place, Protocol):
    """A place that knows when its files were written."""

    def age_s(self, name: str) -> float | None:
        """By its own clock; None where there is no such file."""


@contextmanager
def leased(place: Dated, may_wait: bool) -> Iterator[Still]:
    """Inside, whoever goes by leases does not send there. Raises: UserError where somebody does; OSError.

    Crash: a lease that nobody renews, which the next one takes over.
    """
    token = secrets.token_hex(16).encode()
    while not _is_taken(place, token):
        if not may_wait:
            raise another_sends(place.address)
        time.sleep(ASKED_S)
    is_over, is_lost = threading.Event(), threading.Event()

    def renew() -> None:
        while not is_over.wait(RENEWED_S):
            with contextlib.suppress(OSError):  # a place that is away is noticed by who sends
                if place.read(LEASE) != token:
                    is_lost.set()
                    return
                place.put(LEASE, [token], len(token))

    def still() -> None:
        if is_lost.is_set():
            raise UserError(
                f"Another process has taken over sending to {place.address}, since this one gave no sign of life. "
                "Versions that are there are whole."
            )

    renewing = threading.Thread(target=renew, name="everstep-lease", daemon=True)
    renewing.start()
    try:
        yield still
    finally:
        is_over.set()
        if not is_lost.is_set():
            renewing.join()
            with contextlib.suppress(OSError):
                if place.read(LEASE) == token:
                    place.delete(LEASE)


def _is_taken(place: Dated, token: bytes) -> bool:
    """Whether it is ours now; one that was left behind is taken over."""
    if place.create(LEASE, token) or place.read(LEASE) == token:  # the answer to a create may have been lost
        return True
    left = place.read(LEASE)
    age_s = place.age_s(LEASE)
    if age_s is not None and age_s < LASTS_S:
        return False
    if left is not None and place.read(LEASE) == left:  # it was not renewed meanwhile
        place.delete(LEASE)
    return place.create(LEASE, token)
