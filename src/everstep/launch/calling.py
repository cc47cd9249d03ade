"""The first of several machines: it calls the others, tells them who takes part, and at last the end.

Never imports torch.
"""

import contextlib
import os
import secrets
import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from everstep.contracts import During, Report
from everstep.errors import UnreachableDisk, UserError
from everstep.keeping.words import Facts, Words, facts_of
from everstep.launch.meeting import (
    CALL,
    END,
    GO,
    POLL_S,
    RESCUE,
    Meeting,
    Stopped,
    free_port,
    meeting_of,
    own_host,
    words_in,
)
from everstep.launch.relay import Relay
from everstep.units import duration
from everstep.versions import fsops
from everstep.versions.layout import MIRROR, RunLayout, identity_of

FIRST_S, AGAIN_S = 600.0, 60.0  # what others get to answer: at first, while machines start, and after an end
ALIVE_S = 60.0  # how long it counts that one says that it is still fetching
SEND_AGAIN_S = 20.0
RESCUE_S = 600.0  # what a machine gets to make a version of what it holds
LINGER_S = 10.0  # the most that the first one waits until its end was heard in a mirror
CLEARED_S = 3.0  # what the mirror gets then to let go of what was said


@dataclass(slots=True)
class Launch:
    """What somebody else's launcher has started on several machines, as the first one has it.

    name: tells its words from those of launches before. unheard: machines that have to hear of the end yet.
    """

    name: str
    nodes: int
    relay: Relay | None = None
    unheard: set[int] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.unheard = set(range(1, self.nodes))

    def forget_older(self, run: Path) -> None:
        """What a launch of the same name has left in a run's folder is nobody's call any more. Never raises."""
        folder = words_in(run)
        for name in (CALL, END):
            said = folder.read(name)
            if said is not None and said.get("launch") == self.name:
                with contextlib.suppress(OSError):
                    fsops.remove_file(folder.folder / name)

    def tell_end(self, run: Path, code: int) -> None:
        """For all of its machines, whether anything was trained or not; what lies in a mirror goes. Never raises."""
        folder, end = words_in(run), {"launch": self.name, "code": code}
        with contextlib.suppress(OSError):
            folder.folder.mkdir(exist_ok=True)  # in a run that is there; one that came to nothing is not made for it
            folder.write(END, end)
        if self.relay is not None:
            with contextlib.suppress(OSError):  # no process can be started
                self._tell_mirror(self.relay, folder, end)

    def _tell_mirror(self, relay: Relay, folder: Words, end: Facts) -> None:
        until = time.monotonic() + LINGER_S
        relay.write(END, end)
        while self.unheard and time.monotonic() < until:
            for words in (folder, relay):
                self.unheard -= {node for node in self.unheard if self._has_heard(words.read(f"{node}.json"))}
            time.sleep(POLL_S)
        relay.clear(*([END] if self.unheard else []))  # who comes late still finds it
        relay.close(CLEARED_S)

    def _has_heard(self, answer: Facts | None) -> bool:
        return answer is not None and answer.get("launch") == self.name and "heard" in answer


@dataclass(slots=True)
class Caller:
    """Calls the others, as often as ranks are started. send: has the mirror brought up to date; returns what to say."""

    layout: RunLayout
    launch: Launch
    ranks: int  # of this machine
    report: Report
    during: During
    is_stopped: Callable[[], bool]
    send: Callable[[], str] = lambda: ""
    nonce: str = ""
    _apart: dict[int, object] = field(default_factory=dict)  # machines that share no folder, and their last word
    _sent_at: float = 0.0

    def call(self, facts: Facts) -> Meeting | None:
        """Wait for the others, and tell those that are there who takes part.

        Returns None where one of them held something newer in its memory, which is a version now: another call follows,
        to go on from that.

        Args:
            facts: what is trained from what, for the others to compare, or to fetch.

        Raises: Stopped, UserError, UnreachableDisk.
        """
        patience_s = AGAIN_S if self.nonce else FIRST_S
        folder, relay = words_in(self.layout.root), self.launch.relay
        self.nonce = secrets.token_hex(8)
        call = {"launch": self.launch.name, "nonce": self.nonce, **facts}
        for words in self._places():  # the folder first: who sees it goes by it
            words.clear()
            words.write(CALL, call)
        answers = {
            0: {"ranks": self.ranks, "shares": True},
            **self._answers(patience_s, facts.get("version") is not None),
        }
        if len(answers) < self.launch.nodes:
            missing = ", ".join(str(node) for node in range(self.launch.nodes) if node not in answers)
            self.report(
                f"No answer from machine {missing} within {duration(patience_s)}: {len(answers)} of "
                f"{self.launch.nodes} go on."
            )
        if self._is_rescued(answers, facts.get("step", -1)):
            return None
        host, port = own_host(os.environ), free_port()
        places = sorted(answers)
        self.launch.unheard = {node for node in places if not answers[node]["shares"]}
        go = {"nonce": self.nonce, "host": host, "port": port, "places": places, "answers": answers}
        folder.write(GO, go)
        if relay is not None and self.launch.unheard:
            relay.write(GO, go)
            self._await_the_mirror(relay)
        return meeting_of(go, 0)

    def _is_rescued(self, answers: Mapping[int, Facts], step: int) -> bool:
        """Whether a state newer than this step that lay in another machine's memory, the newest, is a version now.

        Raises: Stopped; UnreachableDisk if it does not come.
        """
        held = {node: answer["held"] for node, answer in answers.items() if answer.get("held") is not None}
        node = max(held, key=lambda one: (held[one], -one), default=0)
        if node == 0 or held[node] <= step:
            return False
        self.report(
            f"Machine {node} holds step {held[node]:,} in its memory, newer than any version: it makes one of it."
        )
        words_in(self.layout.root).write(RESCUE, {"nonce": self.nonce, "node": node})
        until = time.monotonic() + RESCUE_S
        with self.during(f"Waiting for machine {node}"):
            while time.monotonic() < until:
                self._refuse_to_go_on()
                rescued = (self._answer(node) or {}).get("rescued")
                if rescued is not None:
                    if isinstance(rescued, str):
                        self.report(f"It could not: {rescued}")
                    return isinstance(rescued, int)
                time.sleep(POLL_S)
        # Nobody knows whether it still writes into the run, so nobody else may.
        raise UnreachableDisk(
            f"Machine {node} has not made it within {duration(RESCUE_S)}. Nothing was trained, and its memory is as it "
            "was; versions are whole. The same line asks it again."
        )

    def _places(self) -> list[Words]:
        relay = self.launch.relay
        return [words_in(self.layout.root), *([] if relay is None else [relay])]

    def _answers(self, patience_s: float, has_version: bool) -> dict[int, Facts]:
        """Of each machine that answers. One that fetches a version is waited for as long as it says so."""
        found, until, others = dict[int, Facts](), time.monotonic() + patience_s, range(1, self.launch.nodes)
        with self.during("Waiting for the other machines", "answers") as said:
            while len(found) < len(others) and time.monotonic() < until:
                self._refuse_to_go_on()
                if self.launch.relay is not None:
                    self.launch.relay.look(MIRROR)  # first: known no later than an answer is
                for node in others:
                    answer = None if node in found else self._answer(node)
                    if answer is not None and "ranks" in answer:
                        found[node] = answer
                    elif answer is not None and self._apart[node] != answer["coming"]:
                        self._apart[node] = answer["coming"]
                        until = max(until, time.monotonic() + ALIVE_S)
                if has_version and self._apart and time.monotonic() - self._sent_at > SEND_AGAIN_S:
                    self._bring_up_to_date()
                said(len(found), len(others))
                time.sleep(POLL_S)
        return found

    def _answer(self, node: int) -> Facts | None:
        """Raises: UserError if it refuses, or cannot be answered."""
        for words in self._places():
            answer = words.read(f"{node}.json")
            if answer is not None and answer.get("nonce") == self.nonce:
                if why := answer.get("refused"):
                    raise UserError(f"Machine {node}: {why}")
                if not answer["shares"]:
                    self._is_apart(node)
                return answer
        return None

    def _bring_up_to_date(self) -> None:
        """What is gone on from has to come to the mirror, which may lack it; again, where that failed."""
        self._sent_at = time.monotonic()
        if told := self.send():
            self.report(told)

    def _refuse_to_go_on(self) -> None:
        """Raises: Stopped."""
        if self.is_stopped():
            raise Stopped("Stopped while it waited for the other machines. Versions are whole.")

    def _is_apart(self, node: int) -> None:
        """Raises: UserError if the mirror has the copies of another run: nobody can fetch this one's from there."""
        relay = self.launch.relay
        assert relay is not None, "there it was met"
        if node not in self._apart:
            self._apart[node] = None
            self.report(f"Machine {node} does not see the run's folder: it is met in {relay.address}.")
        held = facts_of(relay.look(MIRROR) or "")
        if held is not None and held.get("identity") != identity_of(self.layout.root):
            raise UserError(
                f"Machine {node} does not see the run's folder, and {relay.address}, where it is met, holds copies of "
                f"another run. Nothing was trained. To go on with that one: everstep resume {relay.address}; to begin "
                "another: --run takes another name."
            )

    def _await_the_mirror(self, relay: Relay) -> None:
        """Those that read it there must hear it before this machine's ranks begin to wait for theirs."""
        with self.during(f"Waiting for {relay.address}"):
            relay.settle(FIRST_S, self.is_stopped)
        self._refuse_to_go_on()
        if not relay.is_settled:
            raise UnreachableDisk(
                f"{relay.address}, where machines that do not see the run's folder are met, takes nothing: "
                f"{relay.trouble}. Versions are whole."
            )

    def forget(self) -> None:
        """Where the input is wrong: nothing may be left of a run that has just been made. Never raises."""
        shutil.rmtree(self.layout.nodes, ignore_errors=True)
