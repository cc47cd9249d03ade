"""A word from a process to all that come from it: raised once, seen whenever one of them looks.

A signal would end a process that has no handler for it yet, and this cannot.
"""

import mmap


class Flag:
    """Shared by the process that makes it and those that are forked from it afterwards."""

    def __init__(self) -> None:
        self._byte = mmap.mmap(-1, 1)  # without a name: gone with the last of them

    def up(self) -> None:
        self._byte[0] = 1

    @property
    def is_up(self) -> bool:
        return self._byte[0] != 0
