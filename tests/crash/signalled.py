"""A training that is to be signalled: its keeper and trainer by number, and how it has to end."""

import os
from pathlib import Path

from trainers import in_memory, last_whole, told, wait_for_trainer, wait_until_it_tells

from program import Program

STOPPED = 3


def own_group() -> None:
    """As a shell or a service manager starts it, so that all of it can be signalled."""
    os.setpgid(0, 0)


class Training:
    """A program that trains, with the process number of its trainer."""

    def __init__(self, program: Program, folder: Path) -> None:
        self.program, self.folder = program, folder
        trainer = wait_for_trainer(program)
        assert trainer is not None, program.output
        assert wait_until_it_tells(program, trainer, folder), program.output
        assert program.process.pid is not None
        self.trainer, self.keeper = trainer, program.process.pid

    @property
    def step(self) -> int:
        live = told(self.folder, self.trainer)
        return -1 if live is None else live.step

    def goes_on(self) -> None:
        """Until it has made more steps than one that was asked to stop would make."""
        before = self.step
        self.program.wait_for(lambda: self.step > before + 5)

    def has_stopped_cleanly(self, reason: str = "signal") -> None:
        """By its own hand, with its very last step on the disk and nothing left in memory."""
        assert self.program.wait() == STOPPED, self.program.output
        last = last_whole(self.folder)
        assert (last.step, last.reason) == (self.step, reason), self.program.output
        assert last.step > 0
        assert in_memory(self.folder) == []
        assert "Traceback" not in self.program.output
