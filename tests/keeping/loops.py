"""Small loops of somebody's own, as scripts, and how they are run: in processes that can be killed."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from everstep.keeping.memory import lying_about
from everstep.versions import Run, Version, read_live, read_small
from everstep.versions.torch import read_torch
from program import WAIT_FOR_VERSION, Script

EVERSTEP = [sys.executable, "-c", "from everstep.cli.main import main; main()"]
STEPS = 60

# Draws from all generators that a process has, keeps an average of its own, and a schedule.
SCRIPT = """
import os, random, signal, sys, time
import numpy as np, torch, everstep
from everstep.keeping.settings import Settings

steps, pause_s = int(sys.argv[1]), float(sys.argv[2])
torch.manual_seed(0), np.random.seed(0), random.seed(0)
layers = torch.nn.Linear(4, 16), torch.nn.BatchNorm1d(16), torch.nn.Dropout(0.2), torch.nn.Linear(16, 1)
network = torch.nn.Sequential(*layers)
optimizer = torch.optim.AdamW(network.parameters(), lr=0.01)
schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 60)
average = torch.zeros(4, 16).T
everstep_keep = everstep.keep("own", network, optimizer, others={"schedule": schedule}, tensors={"average": average},
                              images_per_step=2, every=20, keeping=Settings(snapshots=1), settings={"lr": 0.01})
"""
# First in a step, before anything changes: all versions that are due are made.
ALL_MADE = "if step in (20, 40): wait_for_version(step)"
BODY = """
def train(kept, step):
    {first}
    inputs = torch.randn(8, 4) + float(np.random.rand()) + random.random()
    loss = (network(inputs) - inputs.sum(1, keepdim=True)).square().mean()
    optimizer.zero_grad()
    loss.backward()
    {within}
    optimizer.step()
    with kept.changing():
        schedule.step()
        average.lerp_(network[0].weight.detach(), 0.1)
    time.sleep(pause_s)
"""
LOOP = """
with everstep_keep as kept:
    for step in kept.steps(steps):
        train(kept, step)
print("ended", kept.ended, kept.step, flush=True)
"""


# The step before waits too, so that its own copy is made when the next one is due: copies that overlap are left out.
ONCE = """
    if step >= {step} - 1 and not os.path.exists('once'):
        time.sleep(0.3)
        if step == {step}:
            open('once', 'w'); {what}
"""


def once(step: int, what: str) -> str:
    """To be done within a step, the first time that it is made; the snapshot of the step before is whole then."""
    return ONCE.format(step=step, what=what)


def script(folder: Path, loop: str = LOOP, within: str = "pass", first: str = "pass") -> Path:
    """Write one. In every step `first` is done first, `within` between backward and the optimizer's step."""
    path = folder / "loop.py"
    path.write_text(WAIT_FOR_VERSION + SCRIPT + BODY.format(within=within, first=first) + loop)
    return path


class Running:
    """A loop in a process of its own; beside its keeper, or under `everstep keep`."""

    def __init__(self, path: Path, way: str, steps: int = STEPS, pause_s: float = 0.0, flags: tuple[str, ...] = ()):
        self.way, self.folder = way, path.parent
        # A file, not a pipe: who is killed leaves children that would hold the pipe open.
        self.log = self.folder / f"log-{time.monotonic_ns()}"
        self.process: subprocess.Popen[bytes] | Script
        if way == "beside":
            self.process = Script(path, (steps, pause_s), self.folder, self.log)
            return
        words = [*EVERSTEP, "keep", *flags, "--", sys.executable, str(path), str(steps), str(pause_s)]
        with self.log.open("w") as file:
            self.process = subprocess.Popen(words, stdout=file, stderr=file, cwd=self.folder, start_new_session=True)

    @property
    def out(self) -> str:
        return self.log.read_text()

    def wait(self) -> int:
        return self.process.wait(60)

    def wait_for(self, is_there: Callable[[], object]) -> None:
        until = time.monotonic() + 60
        while not is_there():
            assert self.process.poll() is None, self.out
            assert time.monotonic() < until, self.out
            time.sleep(0.002)

    def wait_for_step(self, step: int) -> None:
        self.wait_for(lambda: (live := read_live(self.run.layout)) is not None and live.step >= step)

    @property
    def run(self) -> Run:
        return Run(self.folder / "runs" / "own")

    @property
    def trainer(self) -> int:
        """The process that trains."""
        live = read_live(self.run.layout)
        assert live is not None
        return live.pid

    @property
    def keeper(self) -> int:
        if self.way == "under":
            return self.process.pid
        return next(pid for pid in children(self.process.pid) if b"everstep.keeping.host" in command_of(pid))

    def end(self) -> None:
        """The loop is killed; its keeper puts away what lies in memory, and ends by itself."""
        if self.process.poll() is None:
            keeper = self.keeper
            live = read_live(self.run.layout)
            self.kill(self.process.pid if self.way == "beside" or live is None else live.pid)
            wait_until_gone(keeper)
        self.process.wait()

    def kill(self, pid: int, number: signal.Signals = signal.SIGKILL) -> None:
        os.kill(pid, number)


def run_through(path: Path, way: str = "beside", steps: int = STEPS, flags: tuple[str, ...] = ()) -> str:
    """To its end; returns what it printed."""
    running = Running(path, way, steps, flags=flags)
    try:
        assert running.wait() == 0, running.out
    finally:
        running.end()
    return running.out


def children(pid: int) -> list[int]:
    return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def command_of(pid: int) -> bytes:
    return Path(f"/proc/{pid}/cmdline").read_bytes()


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()[0] != b"Z"
    except FileNotFoundError:
        return False


def wait_until_gone(pid: int) -> None:
    until = time.monotonic() + 60
    while is_alive(pid):
        assert time.monotonic() < until, command_of(pid)
        time.sleep(0.01)


def everstep(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """A verb, from another shell."""
    return subprocess.run([*EVERSTEP, *words], cwd=folder, capture_output=True, text=True, timeout=120)


def latest(folder: Path) -> Version:
    return Run(folder / "runs" / "own").find("latest")


def content(version: Version) -> dict[str, object]:
    """All that a resume law speaks of: tensors by name as bytes, counters, schedules, generators."""
    tensors = {
        f"{path}:{name}": (tuple(tensor.shape), bytes(tensor.reshape(-1).view(torch.uint8).tolist()))
        for path in version.files
        if path.endswith(".safetensors")
        for name, tensor in read_torch(version, path).items()
    }
    return {**tensors, "state": json.loads(read_small(version, "training/state.json"))}


def memory_of(run: Path) -> list[Path]:
    """What lies in memory of this run."""
    return [found.path for found in lying_about(None) if found.run == str(run)]


Start = Callable[..., Running]
both = pytest.mark.parametrize("way", ["beside", "under"])


def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, object]:
    """What a loop comes to that nobody disturbed: a fixture's function, of a module."""
    folder = tmp_path_factory.mktemp("straight")
    out = run_through(script(folder))
    assert f"ended final {STEPS}" in out
    return content(latest(folder))


def starting() -> Iterator[Start]:
    """Start a loop; whatever is left is killed at the end. A fixture's function."""
    started: list[Running] = []

    def call(*given: object, **named: object) -> Running:
        started.append(Running(*given, **named))
        return started[-1]

    yield call
    for running in started:
        running.end()
