"""The trainer's end of a channel: what is asked of the keeper, and what it says, sorted."""

from collections import deque
from collections.abc import Collection, Iterator
from typing import Any

from everstep.errors import EverstepError, ExitCode
from everstep.keeping.channel import Channel, Gone, Message


class KeeperGone(Exception):
    """The keeper died; what it held has to be settled by the trainer itself."""


class Unkept(EverstepError):
    """The keeper was gone before anything was trained, and other processes are not to go on."""

    exit_code = ExitCode.STOPPED


class Link:
    """Telling is safe from any thread; listening is the training thread's."""

    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        self._kept = deque[Message]()  # came while an answer was waited for
        self.is_gone = False

    def tell(self, kind: str, **facts: Any) -> None:
        """A keeper that is gone is noticed by whoever listens."""
        try:
            self._channel.send(kind, **facts)
        except Gone:
            self.is_gone = True

    def ask(self, kind: str, answer: str, **facts: Any) -> Message:
        """Ask, and wait for the answer of this kind; everything else is kept for `news`. Raises: KeeperGone."""
        return self.ask_any(kind, (answer,), **facts)

    def ask_any(self, kind: str, answers: Collection[str], **facts: Any) -> Message:
        """The same where there is more than one answer."""
        self.tell(kind, **facts)
        while True:
            message = self._receive()
            if message["kind"] in answers:
                return message
            self._kept.append(message)

    def news(self, timeout_s: float = 0.0) -> Iterator[Message]:
        """All that is there, waiting at most so long for the first of it. Raises: KeeperGone."""
        while self._kept:
            yield self._kept.popleft()
        while self._channel.is_waiting(timeout_s):
            yield self._receive()
            timeout_s = 0.0

    def listen(self) -> None:
        """Take in what is there, for `news`: a long work before the first step hears that nobody keeps it any more.

        Raises: KeeperGone.
        """
        while self._channel.is_waiting(0.0):
            self._kept.append(self._receive())

    def _receive(self) -> Message:
        try:
            return self._channel.receive()
        except Gone:
            self.is_gone = True
            raise KeeperGone from None

    def close(self) -> None:
        self._channel.close()
