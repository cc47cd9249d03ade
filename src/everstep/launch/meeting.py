"""Machines that train one run together: how they meet, through the run's folder or, where that is not shared, through a
mirror.

The first one keeps the run as ever, and decides what becomes a version. Each time that it starts ranks it calls
(`calling.py`); whoever answers (`answering.py`) takes part. Its end, or another call, is what the others wait for.
Never imports torch.
"""

import socket
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from everstep.errors import EverstepError, ExitCode
from everstep.keeping.words import Facts, InFolder
from everstep.versions.layout import RunLayout

CALL, GO, END = "call.json", "go.json", "end.json"  # of the first one; of the others, their number
RESCUE = "rescue.json"  # the first one's, too: whose memory has something newer than any version
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


def words_in(run: Path) -> InFolder:
    """Those in a run's folder."""
    return InFolder(RunLayout(run).nodes)


def meeting_of(go: Facts, node: int) -> Meeting:
    """As one of the machines has it."""
    places, answers = go["places"], {int(one): answer for one, answer in go["answers"].items()}  # JSON's keys are texts
    ranks = sum(answers[one]["ranks"] for one in places)
    return Meeting(go["nonce"], go["host"], go["port"], places.index(node), len(places), ranks)


def own_host(environ: Mapping[str, str]) -> str:
    """By which name others reach this machine: as whoever started all of them knows it."""
    for name in ("MASTER_ADDR", "SLURMD_NODENAME"):
        if name in environ:
            return environ[name]
    return socket.gethostname()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("", 0))
        return int(probe.getsockname()[1])
