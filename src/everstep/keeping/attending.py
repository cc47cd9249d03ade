"""A keeper's ear at one trainer, turn by turn: messages, signals, hangs, and at last its end."""

import os
import select
import signal
import time
import traceback
from typing import Any, Protocol

from everstep.keeping import stacks
from everstep.keeping.channel import Channel, Gone, Message
from everstep.keeping.child import Child
from everstep.keeping.signals import Listening

POLL_S = 0.5
MOST_FAULTS = 5  # of a keeper's, one after the other


class Attended(Protocol):
    """What is asked of a keeper."""

    def say(self, text: str) -> None: ...
    def give_arena(self, channel: Channel, message: Message) -> None: ...
    def hear_of_claim(self, message: Message) -> None: ...
    def was_damaged(self, number: int) -> None: ...
    def tell_outcomes(self, channel: Channel) -> None: ...
    def look_for_a_hang(self, child: Child, quiet_since: float) -> None: ...
    def leave_at_once(self, child: Child) -> None: ...
    def stop_committing(self) -> None: ...


class Attending:
    """The keeper's ear at one trainer, turn by turn."""

    def __init__(self, keeper: Attended, child: Child, channel: Channel, signals: Listening) -> None:
        self._keeper, self._child, self._channel, self._signals = keeper, child, channel, signals
        self._has_planned = self._has_told_stop = self._is_gone = self._has_parted = False
        self._quiet_since = time.monotonic()
        self.said_code: int | None = None  # how the trainer said that it ends

    @property
    def is_over(self) -> bool:
        """Whether it has ended, or, where it is somebody else's, has let go."""
        # Its workers may hold the channel open long after it has said goodbye.
        has_let_go = (self._is_gone and not self._has_parted) or self.said_code is not None
        return self._child.has_ended or (has_let_go and not self._child.is_ours)

    def until_the_end(self) -> None:
        """Nothing that goes wrong in here ends the keeping before the trainer ends."""
        faults = 0
        while not self.is_over:
            try:
                self.once()
                faults = 0
            except Exception:  # a fault of ours must cost no state: the trainer goes on, and so do we
                self._keeper.say(traceback.format_exc())
                faults += 1
                if faults == MOST_FAULTS:
                    self._part()
                time.sleep(POLL_S)
        self.hear_the_rest()

    def _part(self) -> None:
        """A keeper that cannot keep lets the trainer know, which would wait for ever: it saves by itself, and ends."""
        self._keeper.say("The keeper fails again and again: the trainer is left to save by itself.")
        self._has_parted = True
        try:
            self._keeper.stop_committing()  # first, so that no state is committed by both
        finally:
            self._is_gone = True
            self._channel.close()

    def once(self) -> None:
        """Wait for news, and act on them."""
        signals, channel = self._signals, self._channel
        reading: list[Any] = [self._child.handle, signals, *([] if self._is_gone else [channel])]
        writing = [channel] if channel.is_behind and not self._is_gone else []
        ready, writable, _ = select.select(reading, writing, [], POLL_S)
        if signals in ready:
            signals.drain()
        self._obey(signals)
        if writable:
            _flush(channel)
        if channel in ready:
            self._listen()
        self._keeper.tell_outcomes(channel)
        if self._child.handle not in ready:
            self._keeper.look_for_a_hang(self._child, self._quiet_since)

    def hear_the_rest(self) -> None:
        """What a trainer said before its death counts too."""
        try:
            self._listen()
        except Exception:
            self._keeper.say(traceback.format_exc())

    def _obey(self, signals: Listening) -> None:
        """Signals are for the keeper; the trainer hears of them from it alone."""
        if signals.is_paused:
            self._pause(signals)
        if signals.is_asked_again:
            self._keeper.leave_at_once(self._child)
        if signals.stop is not None and not self._has_told_stop:
            self._has_told_stop = True
            if not self._has_planned and self._child.is_ours:
                # Nothing was trained yet. A command may have to clean up, a trainer of ours has not.
                self._child.signal(signal.SIGKILL if self._child.hears_signals else signal.SIGTERM)
                return
            self._keeper.say(f"{signals.stop}: finishing this step and committing it. Once more leaves at once.")
            send(self._channel, "stop", signal=signals.stop)
            if self._child.hears_signals:
                self._child.signal(signal.SIGTERM)  # heard where messages are not: within a wait for data
        if signals.take_warning():
            send(self._channel, "save")
        if signals.take_question() and self._child.hears_signals:
            self._child.signal(stacks.ASKED)

    def _pause(self, signals: Listening) -> None:
        """Ctrl-Z stops both, and fg both again."""
        self._child.signal(signal.SIGSTOP)
        os.kill(os.getpid(), signal.SIGSTOP)  # goes on here once somebody continues us
        signals.is_paused = False
        self._child.signal(signal.SIGCONT)
        self._quiet_since = time.monotonic()

    def _listen(self) -> None:
        try:
            while not self._is_gone and self._channel.is_waiting():
                self._understand(self._channel.receive())
        except Gone:
            self._is_gone = True

    def _understand(self, message: Message) -> None:
        keeper, kind = self._keeper, message["kind"]
        if kind == "plan":
            self._has_planned = True
            keeper.give_arena(self._channel, message)
        elif kind == "bye":
            self.said_code = int(message["code"])
        elif kind == "damaged":
            keeper.was_damaged(int(message["number"]))
        else:
            keeper.hear_of_claim(message)


def send(channel: Channel, kind: str, descriptor: int | None = None, **facts: Any) -> None:
    """A trainer that is gone hears nothing; its end is noticed elsewhere."""
    try:
        channel.send(kind, descriptor, **facts)
    except Gone:
        return


def _flush(channel: Channel) -> None:
    try:
        channel.flush()
    except Gone:
        return
