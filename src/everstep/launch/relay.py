"""Words of a meeting that lie in a mirror, for a process that is going to fork.

What speaks over a network starts threads, and a process with threads cannot safely be forked: so another process does
all of it (`relaying.py`). Nothing here waits for a mirror, and none that is away raises. Never imports torch.
"""

import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any

from everstep.contracts import Report
from everstep.keeping.words import Facts, content_of, facts_of
from everstep.launch.relaying import FOLDER
from everstep.mirror.addresses import address_of

PROGRAM = (sys.executable, "-m", "everstep.launch.relaying")
POLL_S = 1.5  # between two looks: each is a request
TURN_S = 0.1
AGAIN_S = 5.0  # between two starts of the other process, where something ends it


class Relay:
    """`Words` in a mirror's place, and a look at what else lies there."""

    def __init__(self, target: str, run_name: str, report: Report) -> None:
        """Nothing is started before it is asked for something."""
        self.target, self.address, self._run_name, self._report = target, address_of(target, run_name), run_name, report
        self._process: subprocess.Popen[bytes] | None = None
        self._asked, self._started_at = 0, -AGAIN_S
        self._open = dict[int, bytes]()  # what was asked for and is not done, by number
        self._begun = b""  # of a line
        self._wanted, self._seen = set[str](), dict[str, str | None]()
        self._reading: int | None = None  # the number of the look that is under way
        self._looked_at = 0.0
        self.trouble = ""  # what the mirror says, while it takes nothing

    # --- words ----------------------------------------------------------------------------------------------

    def read(self, name: str) -> Facts | None:
        content = self.look(f"{FOLDER}/{name}")
        return None if content is None else facts_of(content)

    def write(self, name: str, facts: Facts) -> None:
        self._ask("write", path=f"{FOLDER}/{name}", content=content_of(facts).decode())

    def clear(self, *but: str) -> None:
        self._ask("clear", but=but)

    # --- more -----------------------------------------------------------------------------------------------

    def look(self, path: str) -> str | None:
        """A small file of the place as it was when it was last seen; None where there was none, or it never was."""
        self._wanted.add(path)
        self._hear()
        now = time.monotonic()
        if self._reading is None and now - self._looked_at > POLL_S:
            self._looked_at = now
            self._reading = self._ask("read", paths=sorted(self._wanted))
            self._wanted.clear()
        return self._seen.get(path)

    @property
    def is_settled(self) -> bool:
        """Whether the mirror has taken all that was written."""
        self._hear()
        return not self._open

    def settle(self, within_s: float, is_enough: Callable[[], bool] = lambda: False) -> bool:
        """Wait until it has, or somebody has enough of it; returns whether it has."""
        until = time.monotonic() + within_s
        while not self.is_settled and time.monotonic() < until and not is_enough():
            time.sleep(TURN_S)
        return self.is_settled

    def close(self, within_s: float = 0.0) -> None:
        """Nothing is asked any more; what was written gets so long to arrive."""
        self.settle(within_s)
        self._end()
        self._open.clear()

    # --- the other process ----------------------------------------------------------------------------------

    def _ask(self, kind: str, **facts: Any) -> int:
        self._asked += 1
        self._open[self._asked] = json.dumps({"number": self._asked, "kind": kind, **facts}).encode() + b"\n"
        if self._process is None:
            self._begin()
        else:
            self._put(self._process, self._open[self._asked])
        return self._asked

    def _put(self, process: "subprocess.Popen[bytes]", line: bytes) -> None:
        assert process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # it has ended, which is noticed where it is listened to
            os.write(process.stdin.fileno(), line)

    def _begin(self) -> None:
        """With all that is not done yet."""
        if time.monotonic() - self._started_at < AGAIN_S:
            return
        self._started_at, self._begun = time.monotonic(), b""
        self._process = subprocess.Popen(
            [*PROGRAM, self.target, self._run_name, str(os.getpid())],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            bufsize=0,
            start_new_session=True,  # no terminal's and no group's signal ends it before its time
        )
        assert self._process.stdout is not None
        os.set_blocking(self._process.stdout.fileno(), False)
        for line in self._open.values():
            self._put(self._process, line)

    def _end(self) -> None:
        if self._process is None:
            return
        self._process.kill()
        self._process.wait()
        for end in (self._process.stdin, self._process.stdout):
            assert end is not None
            end.close()
        self._process = None

    def _hear(self) -> None:
        if self._process is None and self._open:
            self._begin()
        if self._process is None:
            return
        assert self._process.stdout is not None
        while True:
            try:
                piece = os.read(self._process.stdout.fileno(), 1 << 16)
            except BlockingIOError:
                return
            if not piece:
                self._is_troubled("the process that reads it has ended")
                self._end()
                return
            *lines, self._begun = (self._begun + piece).split(b"\n")
            for line in lines:
                self._understand(json.loads(line))

    def _understand(self, said: Mapping[str, Any]) -> None:
        if "trouble" in said:
            self._is_troubled(str(said["trouble"]))
            return
        if self.trouble:
            self._report(f"The mirror in {self.address} answers again.")
            self.trouble = ""
        self._open.pop(int(said["done"]), None)
        self._seen |= said.get("seen", {})
        if said["done"] == self._reading:
            self._reading = None

    def _is_troubled(self, why: str) -> None:
        if not self.trouble:
            self._report(
                f"Machines that do not see the run's folder meet in the mirror in {self.address}, which takes nothing "
                f"now ({why}). It is tried again."
            )
        self.trouble = why
