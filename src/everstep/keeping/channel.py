"""What keeper and trainer say to each other: short JSON messages over a pair of sockets, and the arena's descriptor.

A message arrives whole or not at all; the other's death shows as `Gone`.
"""

import json
import os
import select
import socket
from typing import Any

LONGEST_BYTES = 1 << 16
Message = dict[str, Any]


class Gone(Exception):
    """The other side is not there any more."""


class Channel:
    """One side of the pair. Sending is safe from any thread."""

    def __init__(self, end: socket.socket) -> None:
        self._end = end

    @classmethod
    def pair(cls) -> "tuple[Channel, Channel]":
        ends = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        return cls(ends[0]), cls(ends[1])

    def fileno(self) -> int:
        return self._end.fileno()

    def send(self, kind: str, descriptor: int | None = None, **facts: Any) -> None:
        """Raises: Gone."""
        text = json.dumps({"kind": kind, **facts}).encode()
        try:
            socket.send_fds(self._end, [text], [] if descriptor is None else [descriptor])
        except OSError as error:
            raise Gone from error

    def receive(self) -> Message:
        """Wait for a message; a descriptor that came with it is under "descriptor". Raises: Gone."""
        try:
            text, descriptors, _, _ = socket.recv_fds(self._end, LONGEST_BYTES, 1)
        except OSError as error:
            raise Gone from error
        if not text:
            raise Gone
        message: Message = json.loads(text)
        if descriptors:
            os.set_inheritable(descriptors[0], False)
            message["descriptor"] = descriptors[0]
        return message

    def is_waiting(self, timeout_s: float = 0.0) -> bool:
        """Whether a message, or the other's end, is there to be received."""
        return bool(select.select([self._end], [], [], timeout_s)[0])

    def close(self) -> None:
        self._end.close()
