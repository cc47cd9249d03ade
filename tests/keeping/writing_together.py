"""Several machines that hold the same memory, all of which are this process."""

import threading
import time
from dataclasses import asdict
from pathlib import Path

from memory_of import content, copy, large_arena

from everstep.contracts import Draft
from everstep.keeping.arena import Arena
from everstep.keeping.channel import Channel
from everstep.keeping.committer import Committer
from everstep.keeping.deputy import Deputy
from everstep.keeping.sealed import slot_notes
from everstep.versions import Run, Version, verify


class Machine(threading.Thread):
    """One that is not the first: a real deputy, and what its ranks would say to it."""

    def __init__(self, run: Run, node: int | None, first: Arena) -> None:
        super().__init__(daemon=True)
        self.said = list[str]()
        self.deputy = Deputy(run, node, None, self.said.append)
        self.deputys, self.ranks = Channel.pair()
        self.is_over = threading.Event()
        self.ranks.send("plan", plan=asdict(first.plan), coming_bytes=0)
        self.deputy.hear(self.deputys)
        answer = self.ranks.receive()
        self.arena = Arena.attach(answer["descriptor"], Path(answer["path"]))

    def claim(self, generation: int, made: Draft, slot: int = 0) -> None:
        held = self.arena.slots[slot]
        held.begin(generation)
        self.ranks.send("claim", slot=slot, generation=generation, step=made.step)
        held.seal(slot_notes(made, copy(held, made)), claimed=True)
        self.ranks.send("sealed", generation=generation)

    def run(self) -> None:
        while not self.is_over.is_set():
            self.deputy.hear(self.deputys)
            self.deputy.look()
            time.sleep(0.01)

    def end(self) -> None:
        self.is_over.set()
        self.join()
        self.deputy.ranks_ended()


class Together:
    """The first machine and the others, over one run."""

    def __init__(self, run: Run, others: int) -> None:
        self.run_, self.said = run, list[str]()
        self.arena = large_arena(run, 3)
        self.committer = Committer(run, self.arena, lambda: None, lambda run: "", self.said.append)
        self.machines = [Machine(run, node, self.arena) for node in range(1, others + 1)]
        self.committer.asking.these([1 + at for at in range(others)])

    def start(self) -> None:
        for machine in self.machines:
            machine.start()

    def commit(self, made: Draft, generation: int = 1, theirs: Draft | None = None) -> Version:
        """All have copied the same, or the others something else."""
        slot = self.arena.slots[generation % 3]
        for machine in self.machines:
            machine.claim(generation, theirs or made, generation % 3)
        slot.begin(generation)
        self.committer.claim(slot.number, generation, made.step)
        slot.seal(slot_notes(made, copy(slot, made)), claimed=True)
        self.committer.sealed(generation)
        until = time.monotonic() + 60
        while time.monotonic() < until:
            for outcome in self.committer.outcomes():
                assert outcome.version is not None, outcome.error
                return outcome.version
            time.sleep(0.01)
        raise AssertionError("nothing came of it")

    def close(self) -> None:
        for machine in self.machines:
            if machine.is_alive():
                machine.end()
            machine.ranks.close()
            machine.deputys.close()
            machine.arena.close()
            machine.deputy.let_go()
        list(self.committer.finish())


def is_as_drafted(version: Version, made: Draft) -> None:
    assert verify(version) == []
    assert {path: (version.path / path).read_bytes() for path in content(made)} == content(made)
