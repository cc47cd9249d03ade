"""What keeper and trainer say to each other: short JSON messages over a pair of sockets, and descriptors with them.

A message is framed by its length, so none is too long to be taken apart, and arrives whole or not at all; the other's
end shows as `Gone`. The keeper's side never waits to send: what the other does not take is kept and sent later.
"""

import json
import os
import select
import socket
import struct
import threading
from collections import deque
from typing import Any

LENGTH, FILE = struct.Struct("<I"), struct.Struct("i")
CREDENTIALS = struct.Struct("3i")  # pid, uid, gid
LONGEST_BYTES = 16 << 20
READ_BYTES = 1 << 16
MOST_WAITING = 1000  # messages kept for a side that takes none; beyond that the oldest go, since newer ones say more
Message = dict[str, Any]


class Gone(Exception):
    """The other side is not there any more."""


class Channel:
    """One side of the pair. Sending is safe from any thread; receiving is one thread's."""

    def __init__(self, end: socket.socket, waits: bool = True) -> None:
        """
        Args:
            waits: whether send may wait for the other side; where it does not, `flush` sends what is left.
        """
        self._end, self._waits = end, waits
        self._received, self._descriptors = bytearray(), deque[int]()
        self._waiting: deque[tuple[memoryview, int | None]] = deque()
        self._lock = threading.Lock()

    @classmethod
    def pair(cls) -> "tuple[Channel, Channel]":
        """The keeper's side, and the trainer's."""
        ends = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        return cls(ends[0], waits=False), cls(ends[1])

    def fileno(self) -> int:
        return self._end.fileno()

    # --- sending -------------------------------------------------------------------------------------------

    def send(self, kind: str, descriptor: int | None = None, **facts: Any) -> None:
        """Raises: Gone; ValueError if it is longer than any message may be."""
        text = json.dumps({"kind": kind, **facts, "has_descriptor": descriptor is not None}).encode()
        if len(text) > LONGEST_BYTES:
            raise ValueError(f"a message of {len(text):,} bytes is longer than {LONGEST_BYTES:,}")
        with self._lock:
            self._waiting.append((memoryview(LENGTH.pack(len(text)) + text), descriptor))
            if len(self._waiting) > MOST_WAITING:
                del self._waiting[1]  # the first may be sent in part
            self._send_waiting(self._waits)

    def flush(self) -> None:
        """Send what the other side takes now. Raises: Gone."""
        with self._lock:
            self._send_waiting(False)

    @property
    def is_behind(self) -> bool:
        """Whether something waits to be sent."""
        return bool(self._waiting)

    def _send_waiting(self, waits: bool) -> None:
        while self._waiting:
            rest, descriptor = self._waiting[0]
            try:
                # Not socket.send_fds, which takes flags and drops them: it waited for a side that does not read.
                rights = [] if descriptor is None else [(socket.SOL_SOCKET, socket.SCM_RIGHTS, FILE.pack(descriptor))]
                sent = self._end.sendmsg([rest], rights, 0 if waits else socket.MSG_DONTWAIT)
            except BlockingIOError:
                return
            except OSError as error:
                self._waiting.clear()
                raise Gone from error
            if sent == rest.nbytes:
                self._waiting.popleft()
            else:
                self._waiting[0] = (rest[sent:], None)

    # --- receiving -----------------------------------------------------------------------------------------

    def receive(self) -> Message:
        """Wait for a message; a descriptor that came with it is under "descriptor". Raises: Gone."""
        while not self._has_message():
            self._read()
        length = LENGTH.unpack_from(self._received)[0]
        message: Message = json.loads(self._received[LENGTH.size : LENGTH.size + length])
        del self._received[: LENGTH.size + length]
        if message.pop("has_descriptor", False) and self._descriptors:
            message["descriptor"] = self._descriptors.popleft()
        return message

    def is_waiting(self, timeout_s: float = 0.0) -> bool:
        """Whether a message, or the other's end, is there to be received."""
        return self._has_message() or bool(select.select([self._end], [], [], timeout_s)[0])

    def _has_message(self) -> bool:
        there = len(self._received) - LENGTH.size
        return there >= 0 and there >= LENGTH.unpack_from(self._received)[0]

    def _read(self) -> None:
        try:
            text, descriptors, _, _ = socket.recv_fds(self._end, READ_BYTES, 4)
        except OSError as error:
            raise Gone from error
        for descriptor in descriptors:
            os.set_inheritable(descriptor, False)
            self._descriptors.append(descriptor)
        if not text:
            raise Gone
        self._received += text

    def close(self) -> None:
        self._end.close()


def uid_of(end: socket.socket) -> int:
    """Whose process is at the other end of a connected socket."""
    return int(CREDENTIALS.unpack(end.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, CREDENTIALS.size))[1])
