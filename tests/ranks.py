"""Ranks that end at an exact moment of what they do together."""

import importlib
import os
import signal

# What a rank does, and the function in which it does it.
MOMENTS = {
    "a step": ("everstep.train.gradients", "Shared", "mean"),
    "an exchange": ("everstep.keeping.team", "Team", "_exchange"),
    "a copy": ("everstep.keeping.copier", "Copier", "begin"),
    "a seal": ("everstep.keeping.copier", "Copier", "_complete"),
    "a resume": ("everstep.train.state", "TrainState", "restore"),
    "an evaluation": ("everstep.train.together", "TeamRounds", "_done"),
}


class KillRank:
    """One of them ends itself when it is at a moment for the so manieth time; the others go on. Can be sent."""

    def __init__(self, rank: int, moment: str, count: int, number: signal.Signals = signal.SIGKILL) -> None:
        self.rank, self.moment, self.count, self.number = rank, moment, count, number

    def __call__(self) -> None:
        module, kind, name = MOMENTS[self.moment]
        found = getattr(importlib.import_module(module), kind)
        original, seen = getattr(found, name), 0

        def counted(*given: object, **more: object) -> object:
            nonlocal seen
            if os.environ.get("RANK") == str(self.rank):
                seen += 1
                if seen == self.count:
                    os.kill(os.getpid(), self.number)
            return original(*given, **more)

        setattr(found, name, counted)


def processes_of(keeper: int) -> list[int]:
    """The launcher that a keeper has started, then its ranks, which are started in their order."""
    launcher = _children(keeper)[0]
    return [launcher, *sorted(_children(launcher))]


def _children(pid: int) -> list[int]:
    with open(f"/proc/{pid}/task/{pid}/children") as file:
        return [int(word) for word in file.read().split()]
