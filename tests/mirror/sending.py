"""What the tests of places send, and how they look at what has come there."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
from drafts import ArrayTensor, draft
from kinds import Kind

from everstep.contracts import TensorFile
from everstep.mirror.backend import Place
from everstep.mirror.offered import faults_in, offer
from everstep.versions import Run

WEIGHTS = "controlnet/weights.safetensors"
LARGE_BYTES = 9 << 20  # two parts


def quiet(text: str) -> None:
    """Hears, and says nothing."""


def large(step: int) -> Any:
    """A version with a file of several parts."""
    whole = draft(step)
    array = np.random.default_rng(step).integers(0, 256, LARGE_BYTES, np.uint8)
    whole.tensor_files.append(TensorFile("training/large.safetensors", {"large": ArrayTensor(array)}))
    return whole


def bytes_of(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def assert_offered_is_whole(place: Place) -> list[int]:
    """What is offered there verifies. Returns its numbers."""
    there = offer(place)
    assert there.damaged == {}
    assert [fault for offered in there.whole.values() for fault in faults_in(place, offered)] == []
    return sorted(there.whole)


SENDER = """
import os, signal, sys
sys.path[:0] = {paths!r}
from pathlib import Path
from counting import Counting
from everstep.mirror import lease
from everstep.mirror.addresses import place_of
from everstep.mirror.copies import Terms, send
from everstep.versions import Run
at, lease.LASTS_S = int(sys.argv[3]), float(sys.argv[4])
place = Counting(place_of(sys.argv[2], "r"), lambda seen: os.kill(os.getpid(), signal.SIGKILL) if seen == at else None)
send(Run.open(Path(sys.argv[1])), place, Terms(may_wait=sys.argv[5:] == ["wait"]), print)
"""


def sender(run: Run, kind: Kind, at: int, lasts_s: float, *more: str) -> "subprocess.Popen[str]":
    """In a process of its own, killed at a call; 0 for none."""
    paths = [str(Path(__file__).parent), str(Path(__file__).parents[1] / "versions")]
    words = [sys.executable, "-c", SENDER.format(paths=paths), str(run.path), kind.target, str(at), str(lasts_s), *more]
    return subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
