"""Several machines, all of which are this one: what Slurm tells each of their processes, and where a training is."""

import os
from pathlib import Path
from typing import Any

import pytest

from everstep.launch.answering import Listener
from everstep.launch.relay import Relay
from everstep.mirror.addresses import place_of
from everstep.mirror.backend import Place
from everstep.versions.layout import RunLayout
from everstep.versions.live import read_live
from program import Program

TRAINING = ("--optim.batch-size", 4, "--optim.max-steps", 30, "--sampling.pairs", 0, "--scoring.overhead", 0)


def slurm(node: int, job: str, step: int = 0) -> dict[str, str]:
    """The environment of the only task on one of two nodes."""
    return {
        "SLURM_JOB_ID": job,
        "SLURM_STEP_ID": str(step),
        "SLURM_STEP_NUM_TASKS": "2",
        "SLURM_STEP_NUM_NODES": "2",
        "SLURM_STEP_TASKS_PER_NODE": "1(x2)",
        "SLURM_LOCALID": "0",
        "SLURM_NODEID": str(node),
        "SLURMD_NODENAME": "127.0.0.1",
        "GLOO_SOCKET_IFNAME": "lo",
    }


class Impatient:
    """Those that have gone are not waited for. Can be sent to another process."""

    def __call__(self) -> None:
        from everstep.launch import calling

        calling.AGAIN_S = 2.0


def is_at(folder: Path, step: int) -> bool:
    live = read_live(RunLayout(folder))
    return live is not None and live.step >= step


class Machines:
    """Start what srun starts on each, with a disk of its own."""

    def __init__(self, folder: Path, target: str, patch: pytest.MonkeyPatch, words: tuple[object, ...]) -> None:
        self.folder, self.target, self.words = folder, target, words
        self._patch, self._launch = patch, 0
        self.started: list[Program] = []
        for node in range(2):
            (folder / f"machine-{node}").mkdir()

    def launch(self) -> None:
        """What is started from here on is another launch."""
        self._launch += 1

    @property
    def name(self) -> str:
        """Of the launch."""
        return f"{os.getpid()}-{self.folder.name}-{self._launch}-0"

    def start(self, node: int, *more: object, words: tuple[object, ...] = (), **how: Any) -> Program:
        environ = slurm(node, f"{os.getpid()}-{self.folder.name}", self._launch)
        for name, value in environ.items():
            self._patch.setenv(name, value)
        line = words or (*self.words, "--mirror.targets", self.target, "--ranks", 1)
        self.started.append(Program((*line, *more), self.disk(node), **how))
        return self.started[-1]

    def disk(self, node: int) -> Path:
        return self.folder / f"machine-{node}"

    def run(self, node: int = 0) -> Path:
        return self.disk(node) / "runs/a"

    @property
    def place(self) -> Place:
        return place_of(self.target, "a")


def ended(*programs: Program) -> list[int]:
    codes = [program.wait(120) for program in programs]
    print("".join(f"--- {program.output}" for program in programs))
    return codes


def listening(machines: Machines) -> tuple[Listener, Relay]:
    relay = Relay(machines.target, "a", print)
    return Listener(machines.run(1), machines.name, 1, lambda: False, relay), relay
