"""A machine that is not the first: it answers calls, and hears of the end.

Never imports torch.
"""

import contextlib
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeGuard

from everstep.keeping.words import Facts, Words
from everstep.launch.meeting import CALL, END, GO, POLL_S, RESCUE, Meeting, Stopped, meeting_of, words_in
from everstep.launch.relay import Relay
from everstep.units import duration

SILENT_S, ENDED_S = 900.0, 180.0  # of the first one, before and after it has called, until the others go
LEFT_S = 15.0  # what the first one gets to take away what a launch of the same name has left
SURE_S = 3.0  # what a call gets to be seen in a shared folder, though a mirror has shown it


@dataclass(frozen=True, slots=True)
class Held:
    """A state of the run that lies in memory alone. rescue: makes a version of it; returns its number, or why not."""

    step: int
    rescue: Callable[[], int | str]


@dataclass(slots=True)
class Listener:
    """Answers calls, one after the other. relay: of the mirror in which one is met that shares no folder."""

    folder: Path  # of the run, which may not be there, now or ever
    launch: str
    node: int
    is_stopped: Callable[[], bool]
    relay: Relay | None = None
    is_repeated: bool = False  # a launch before may have had this name, and its words may lie there still
    nonce: str = ""
    _left: tuple[Facts | None, ...] = ()  # words that lay there when this one began
    _began: float = field(default_factory=time.monotonic)
    _met: Words | None = None  # where the first one has called
    _shown_at: float | None = None
    _said: int = 0

    def __post_init__(self) -> None:
        if self.is_repeated:
            self._left = tuple(words_in(self.folder).read(name) for name in (CALL, END))

    @property
    def shares(self) -> bool:
        """Whether the run's folder is the first one's."""
        return self._met is None or self._met is not self.relay

    def await_call(self) -> dict[str, Any] | int:
        """The facts of the next call; or, where the training has ended, its exit code. Raises: Stopped."""
        silent_s = ENDED_S if self.nonce else SILENT_S
        until = time.monotonic() + silent_s
        while time.monotonic() < until:
            for words in self._places():
                call, end = (self._new(words.read(name)) for name in (CALL, END))
                if self._is_mine(end):
                    self._say(words, launch=self.launch, heard=end["code"])
                    return int(end["code"])
                if self._is_mine(call) and call["nonce"] != self.nonce and self._is_sure(words):
                    self.nonce, self._met = str(call["nonce"]), words
                    return dict(call)
            if self.is_stopped() and not self.nonce:
                raise Stopped("Stopped while it waited for the first machine. Nothing was trained here.")
            time.sleep(POLL_S)
        way = "" if self.nonce or self.relay else " Machines that share no folder meet in a mirror: mirror.targets."
        raise Stopped(f"The first machine has not been heard of for {duration(silent_s)}: this one goes.{way}")

    def _new(self, words: Facts | None) -> Facts | None:
        """None for what lay there before, unless it stays: the first machine takes it away as it starts."""
        is_left = words in self._left and not self.nonce and time.monotonic() - self._began < LEFT_S
        return None if is_left else words

    def _places(self) -> Iterator[Words]:
        if self._met is not None:
            yield self._met
            return
        yield words_in(self.folder)
        if self.relay is not None:
            yield self.relay

    def _is_sure(self, words: Words) -> bool:
        """A shared folder shows the call too, and a moment later perhaps."""
        if words is not self.relay or self._met is not None:
            return True
        self._shown_at = self._shown_at or time.monotonic()
        return time.monotonic() - self._shown_at > SURE_S

    def answer(self, ranks: int, within_s: float = SILENT_S, held: "Held | None" = None) -> Meeting | None:
        """Say that this machine is there; returns None if it does not take part, or the call is an old one by now.

        Args:
            ranks: of this machine.
            within_s: what the first one gets to have all answers.
            held: what lies in its memory and is newer than any version.

        Raises: Stopped.
        """
        assert self._met is not None, "it was called"
        says = {"nonce": self.nonce, "shares": self.shares, "ranks": ranks}
        self._say(self._met, **says, held=None if held is None else held.step)
        until = time.monotonic() + within_s
        while (go := self._met.read(GO)) is None or go.get("nonce") != self.nonce:
            if self.is_over():
                return None
            if held is not None and self._is_asked_for_it():
                self._say(self._met, **says, rescued=held.rescue())
                held = None
            self.refuse_to_wait()
            if time.monotonic() > until:
                raise Stopped(f"The first machine has not been heard of for {duration(within_s)}: this one goes.")
            time.sleep(POLL_S)
        return meeting_of(go, self.node) if self.node in go["places"] else None

    def _is_asked_for_it(self) -> bool:
        assert self._met is not None, "it was called"
        asked = self._met.read(RESCUE)
        return asked is not None and (asked.get("nonce"), asked.get("node")) == (self.nonce, self.node)

    def is_over(self) -> bool:
        """Whether the call that was heard counts no more."""
        assert self._met is not None, "it was called"
        call = self._met.read(CALL)
        return call is None or call.get("nonce") != self.nonce or self._is_mine(self._met.read(END))

    def refuse_to_wait(self) -> None:
        """Raises: Stopped."""
        if self.is_stopped():
            raise Stopped("Stopped while it waited for the other machines. Nothing was trained here.")

    def say_coming(self) -> None:
        """It will answer, but has to fetch a version first; no more often than a mirror takes it."""
        if self.relay is not None and self.relay.is_settled:
            self._said += 1
            self._say(self.relay, nonce=self.nonce, shares=False, coming=self._said)

    def refuse(self, why: str) -> None:
        """Nothing can be trained here, and so nowhere."""
        assert self._met is not None, "it was called"
        self._say(self._met, nonce=self.nonce, shares=self.shares, refused=why)

    def _say(self, words: Words, **facts: Any) -> None:
        with contextlib.suppress(OSError):  # the first one has called anew meanwhile, and made another folder
            words.write(f"{self.node}.json", facts)

    def _is_mine(self, facts: Facts | None) -> TypeGuard[Facts]:
        """Whether it is of this launch, and no other's that a kill has left there."""
        return facts is not None and facts.get("launch") == self.launch
