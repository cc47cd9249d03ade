"""What a place for copies can do, whatever it is: a folder, an object store, another machine. One suite tests them all.

Owns the protocol, and what people are told where a place refuses. Knows nothing of versions.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from importlib import import_module
from typing import Any, Protocol

from everstep.errors import DiskFull, UnreachableDisk, UserError
from everstep.places import FORBIDDEN, NO_ROOM, told

PIECE_BYTES = 8 << 20
Still = Callable[[], None]  # raises UserError once somebody else has taken over
INSTALL = "pip install 'everstep[mirror]'"


class Place(Protocol):
    """Names are paths below it, with slashes. What is there under its name is whole, and durable.

    Every method raises OSError, with the number that a disk would have given.
    """

    @property
    def address(self) -> str:
        """As people name it; without anything secret."""

    def size(self, name: str) -> int | None:
        """In bytes; None where there is nothing."""

    def put(self, name: str, content: Iterable[memoryview | bytes], size_bytes: int) -> bool:
        """Whole under its name, in place of what was there, or not at all.

        Returns whether the place itself has vouched for every byte, by a digest of what it stores; else it has to be
        read back. Where `content` raises, nothing of it is there. Crash: what was there before, or all of the new.
        """

    def create(self, name: str, content: bytes) -> bool:
        """The same where there is nothing yet; returns whether there was not. Of several that would, one does."""

    def read(self, name: str) -> bytes | None:
        """A small file; None where there is none."""

    def stream(self, name: str, size_bytes: int) -> Iterator[memoryview | bytes]:
        """A file of this size from its beginning. Each piece is good until the next is taken."""

    def names(self, name: str = "") -> list[str]:
        """Of what lies directly in a folder."""

    def files(self, folder: str) -> dict[str, int]:
        """All that lies in a folder and in those below it: path inside the folder -> size in bytes."""

    def delete(self, name: str) -> None:
        """A file, or nothing where there is none. Crash: before or after."""

    def alone(self, may_wait: bool) -> AbstractContextManager[Still]:
        """Inside, nobody else sends there. Raises: UserError where somebody does, unless that may be waited for."""


@contextmanager
def sending(place: Place) -> Iterator[None]:
    """Inside, an error of the system is one of that place. Raises: DiskFull, UserError, UnreachableDisk."""
    try:
        yield
    except OSError as error:
        kind = DiskFull if error.errno in NO_ROOM else UserError if error.errno in FORBIDDEN else UnreachableDisk
        raise kind(
            f"{place.address} does not take it: {told(error)}. Versions that are there are whole; the same line goes "
            "on."
        ) from error


def library(name: str, needed_by: str) -> Any:
    """A library that only addresses need. Raises: UserError with what to install."""
    try:
        return import_module(name)
    except ImportError:
        root = name.partition(".")[0]
        raise UserError(f"{needed_by} needs {root}, which is not installed. Nothing was changed.\n{INSTALL}") from None


def another_sends(address: str) -> UserError:
    return UserError(f"Another process sends to {address} now. Nothing was sent here.")
