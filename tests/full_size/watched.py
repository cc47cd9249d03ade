"""The program as its user runs it, in processes of its own, watched: how long it takes and how much memory it has."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

FIGURES = Path(__file__).parents[2] / "build/full-size"
PERIOD_S = 0.02
# So many slots of snapshots at most: with all three there would be little left for anybody else on 24 GB.
PROGRAM = (
    "import sys, everstep.keeping.keeper as keeper; keeper.SLOTS = {slots}; from everstep.cli.main import main; main()"
)


@dataclass(frozen=True)
class Ended:
    """What a command printed, and the most memory that it had."""

    out: str
    most_bytes: int


def everstep(folder: Path, *words: object) -> Ended:
    """Run it to its end, which has to be a good one."""
    line, most_bytes = [sys.executable, "-m", "everstep", *map(str, words)], 0
    with tempfile.TemporaryFile("w+") as out:
        process = subprocess.Popen(line, cwd=folder, stdout=out, stderr=subprocess.STDOUT)
        while process.poll() is None:  # what the system notes at its end is at least what this process has, too
            most_bytes = max(most_bytes, own_bytes(process.pid))
            time.sleep(PERIOD_S)
        out.seek(0)
        printed = out.read()
    assert process.returncode == 0, f"{' '.join(line)}\n{printed}"
    return Ended(printed, most_bytes)


def own_bytes(pid: int) -> int:
    """What a process has in memory now, without what it shares: the snapshots."""
    with contextlib.suppress(OSError, KeyError):
        facts = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
        return sum(int(facts[name].split()[0]) << 10 for name in ("RssAnon", "RssFile"))
    return 0


@dataclass
class Watched:
    """A training under way: its keeper, its trainer, and the most memory that the trainer has had."""

    keeper: subprocess.Popen[bytes]
    log: Path
    most_bytes: int = 0
    trainer: int = 0

    def watch(self) -> None:
        """Until it ends."""
        while self.keeper.poll() is None:
            self.trainer = self.trainer or self._child()
            self.most_bytes = max(self.most_bytes, own_bytes(self.trainer) if self.trainer else 0)
            time.sleep(PERIOD_S)

    def _child(self) -> int:
        with contextlib.suppress(OSError):
            children = Path(f"/proc/{self.keeper.pid}/task/{self.keeper.pid}/children").read_text().split()
            return int(children[0]) if children else 0
        return 0

    def wait_for(self, is_there: Callable[[], object], timeout_s: float = 1800) -> None:
        until = time.monotonic() + timeout_s
        while not is_there():
            assert self.keeper.poll() is None, self.log.read_text()
            assert time.monotonic() < until, self.log.read_text()
            time.sleep(0.05)


@contextlib.contextmanager
def training(folder: Path, *words: object, slots: tuple[int, ...] = (2,)) -> Iterator[Watched]:
    """Start `everstep train`; whatever is left of it at the end is killed."""
    log = folder / "train.log"
    line = [sys.executable, "-c", PROGRAM.format(slots=slots), "train", *map(str, words)]
    with log.open("wb") as file:
        keeper = subprocess.Popen(line, cwd=folder, stdout=file, stderr=file, start_new_session=True)
    watched = Watched(keeper, log)
    watching = threading.Thread(target=watched.watch)
    watching.start()
    try:
        yield watched
    finally:
        if keeper.poll() is None:
            for pid in filter(None, (keeper.pid, watched.trainer)):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        keeper.wait()
        watching.join()


def note(name: str, **figures: Any) -> None:
    """Print what was measured, and leave it for bench/full_size.py."""
    FIGURES.mkdir(parents=True, exist_ok=True)
    (FIGURES / f"{name}.json").write_text(json.dumps({"name": name, **figures}))
    print(name, figures, flush=True)
