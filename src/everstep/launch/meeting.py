"""Machines that train one run together: how they find each other, through the run's folder, which all of them share.

The first one keeps the run as ever, and alone writes it. Each time that it starts ranks it calls; whoever answers takes
part. Its end, or another call, is what the others wait for. Never imports torch.
"""

import contextlib
import json
import os
import secrets
import shutil
import socket
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeGuard

from everstep.contracts import During, Report
from everstep.errors import EverstepError, ExitCode, UserError
from everstep.units import duration
from everstep.versions import fsops
from everstep.versions.layout import RunLayout

FOLDER = "nodes"  # of the records
CALL, GO, END = "call.json", "go.json", "end.json"
FIRST_S, AGAIN_S = 600.0, 60.0  # what others get to answer: at first, while machines start, and after an end
SILENT_S, ENDED_S = 900.0, 180.0  # of the first one, before and after it has called, until the others go
POLL_S = 0.2


@dataclass(frozen=True, slots=True)
class Meeting:
    """Who trains together: as many machines, of which this is one, and all their ranks."""

    nonce: str
    host: str
    port: int
    node: int
    nodes: int
    ranks: int


class Stopped(EverstepError):
    """Somebody asked to stop before anything was trained."""

    exit_code = ExitCode.STOPPED


# --- the first one -------------------------------------------------------------------------------------------


@dataclass(slots=True)
class Caller:
    """Calls the others, as often as ranks are started."""

    layout: RunLayout
    launch: str  # its name, which tells a call from those of launches before
    nodes: int
    ranks: int  # of this machine
    report: Report
    during: During
    is_stopped: Callable[[], bool]
    nonce: str = ""

    def call(self, facts: Mapping[str, Any]) -> Meeting:
        """Wait for the others, and tell those that are there who takes part. Raises: Stopped, UserError.

        Args:
            facts: what is trained from what, for the others to compare.
        """
        patience_s = AGAIN_S if self.nonce else FIRST_S
        folder = self.layout.records / FOLDER
        with contextlib.suppress(FileNotFoundError):
            shutil.rmtree(folder)
        folder.mkdir(parents=True)
        self.nonce = secrets.token_hex(8)
        _write(folder / CALL, {"launch": self.launch, "nonce": self.nonce, **facts})
        answers = {0: self.ranks, **self._answers(folder, patience_s)}
        if len(answers) < self.nodes:
            missing = ", ".join(str(node) for node in range(self.nodes) if node not in answers)
            self.report(
                f"No answer from machine {missing} within {duration(patience_s)}: {len(answers)} of {self.nodes} go on."
            )
        host, port = own_host(os.environ), _free_port()
        places = sorted(answers)
        _write(folder / GO, {"nonce": self.nonce, "host": host, "port": port, "places": places, "ranks": answers})
        return Meeting(self.nonce, host, port, 0, len(places), sum(answers.values()))

    def _answers(self, folder: Path, patience_s: float) -> dict[int, int]:
        """The ranks of each machine that answers."""
        found, until = dict[int, int](), time.monotonic() + patience_s
        with self.during("Waiting for the other machines", "answers") as said:
            while len(found) < self.nodes - 1 and time.monotonic() < until:
                if self.is_stopped():
                    raise Stopped("Stopped while it waited for the other machines. Versions are whole.")
                for node in range(1, self.nodes):
                    answer = _read(folder / f"{node}.json")
                    if answer is not None and answer.get("nonce") == self.nonce:
                        if why := answer.get("refused"):
                            raise UserError(f"Machine {node}: {why}")
                        found[node] = int(answer["ranks"])
                said(len(found), self.nodes - 1)
                time.sleep(POLL_S)
        return found

    def forget(self) -> None:
        """Where the input is wrong: nothing may be left of a run that has just been made. Never raises."""
        shutil.rmtree(self.layout.records / FOLDER, ignore_errors=True)


def tell_end(run: Path, launch: str, code: int) -> None:
    """A launch has ended, for all of its machines, whether anything was trained or not. Never raises."""
    with contextlib.suppress(OSError):
        folder = RunLayout(run).records / FOLDER
        folder.mkdir(exist_ok=True)  # in a run that is there; one that came to nothing is not made for it
        _write(folder / END, {"launch": launch, "code": code})


# --- the others ----------------------------------------------------------------------------------------------


@dataclass(slots=True)
class Listener:
    """Answers calls, one after the other."""

    folder: Path  # of the run, which may not be there yet
    launch: str
    node: int
    is_stopped: Callable[[], bool]
    nonce: str = ""

    @property
    def _folder(self) -> Path:
        return RunLayout(self.folder).records / FOLDER

    def await_call(self) -> dict[str, Any] | int:
        """The facts of the next call; or, where the training has ended, its exit code. Raises: Stopped."""
        silent_s = ENDED_S if self.nonce else SILENT_S
        until = time.monotonic() + silent_s
        while time.monotonic() < until:
            call, end = _read(self._folder / CALL), _read(self._folder / END)
            if self._is_mine(end):
                return int(end["code"])
            if self._is_mine(call) and call["nonce"] != self.nonce:
                self.nonce = str(call["nonce"])
                return call
            if self.is_stopped() and not self.nonce:
                raise Stopped("Stopped while it waited for the first machine. Nothing was trained here.")
            time.sleep(POLL_S)
        raise Stopped(f"The first machine has not been heard of for {duration(silent_s)}: this one goes.")

    def answer(self, ranks: int) -> Meeting | None:
        """Say that this machine is there; returns None if it does not take part, or the call is an old one by now.

        Args:
            ranks: of this machine.

        Raises: Stopped.
        """
        self._say(ranks=ranks)
        while True:
            go, call, end = (_read(self._folder / name) for name in (GO, CALL, END))
            if go is not None and go.get("nonce") == self.nonce:
                break
            if call is None or call["nonce"] != self.nonce or self._is_mine(end):
                return None
            if self.is_stopped():
                raise Stopped("Stopped while it waited for the other machines. Nothing was trained here.")
            time.sleep(POLL_S)
        if self.node not in go["places"]:
            return None
        ranks = sum(go["ranks"].values())
        return Meeting(self.nonce, go["host"], go["port"], go["places"].index(self.node), len(go["places"]), ranks)

    def refuse(self, why: str) -> None:
        """Nothing can be trained here, and so nowhere."""
        self._say(refused=why)

    def _say(self, **facts: Any) -> None:
        with contextlib.suppress(OSError):  # the first one has called anew meanwhile, and made another folder
            _write(self._folder / f"{self.node}.json", {"nonce": self.nonce, **facts})

    def _is_mine(self, facts: Mapping[str, Any] | None) -> TypeGuard[dict[str, Any]]:
        """Whether it is of this launch, and no other's that a kill has left there."""
        return facts is not None and facts.get("launch") == self.launch


def own_host(environ: Mapping[str, str]) -> str:
    """By which name others reach this machine: as whoever started all of them knows it."""
    for name in ("MASTER_ADDR", "SLURMD_NODENAME"):
        if name in environ:
            return environ[name]
    return socket.gethostname()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("", 0))
        return int(probe.getsockname()[1])


def _write(path: Path, facts: Mapping[str, Any]) -> None:
    fsops.replace_file(path, json.dumps(facts).encode())


def _read(path: Path) -> dict[str, Any] | None:
    """None where there is nothing, or a shared disk shows it in part."""
    try:
        found = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) else None
