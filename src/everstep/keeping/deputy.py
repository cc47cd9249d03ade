"""The keeper of a machine that is not the first: its memory holds the same copies as the first one's, and outlives its
ranks.

It writes the parts of a version that the first machine asks it for, and commits nothing. Where the first machine is
lost, what is here is the newest there is: a start that this machine takes part in goes on from it. Never imports torch.
"""

import time
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from everstep.contracts import Report
from everstep.errors import DamageFound, EverstepError
from everstep.keeping.arena import Arena, PlannedFile, SlotState, plan_arena
from everstep.keeping.attending import send
from everstep.keeping.channel import Channel, Gone, Message
from everstep.keeping.ending import Settled, in_memory, rescued, settle
from everstep.keeping.extents import Wanted, answer, wanted, write_extents
from everstep.keeping.memory import leave, leftovers, release, shelter, take_memory
from everstep.keeping.sealed import Filling, Lineage
from everstep.places import spelled
from everstep.priority import lower_thread
from everstep.versions import Run
from everstep.versions.layout import identity_of, is_planned

ASIDE_S, BUSY_S = 1.0, 0.1  # between two looks at what the first machine asks
SOON_S = 60.0  # after a claim; where no question comes in that time, none may come at all


class Deputy:
    """Over all starts of a launch."""

    def __init__(self, run: Run, node: int | None, ram_dir: str | None, report: Report) -> None:
        """
        Args:
            run: the first machine's, or a copy of it.
            node: this machine's number in the launch; None where it does not see the first one's run, and can write
                nothing into it.
        """
        self._run, self._node, self._report = run, node, report
        self._ram_dir = spelled(ram_dir) if ram_dir else None
        self.has_first_ended = False  # and has said so, with all that it held settled
        self._arena: Arena | None = None
        self._claims: dict[int, Filling] = {}  # by generation
        self._claimed_at = 0.0
        self._asked: Wanted | None = None  # the newest question
        self._writing: Future[None] | None = None
        self._worker: ThreadPoolExecutor | None = None  # while there are ranks: they are forked from a single thread

    @property
    def period_s(self) -> float:
        """How long to wait for news: a claim is soon followed by a question."""
        return BUSY_S if self._claims and time.monotonic() - self._claimed_at < SOON_S else ASIDE_S

    # --- what the ranks of this machine say -----------------------------------------------------------------

    def hear(self, channel: Channel) -> bool:
        """All that is there. Returns whether there may be more."""
        try:
            while channel.is_waiting():
                self._understand(channel, channel.receive())
        except Gone:
            return False
        return True

    def _understand(self, channel: Channel, message: Message) -> None:
        kind = message["kind"]
        if kind == "plan":
            try:
                where = self._take_memory(message["plan"], message["coming_bytes"])
            except (EverstepError, OSError) as error:  # its ranks wait for an answer, and can do without memory
                self._arena, where = None, f"none ({error})"
            if where is not None:
                self._report(f"Snapshots on this machine too: {where}.")
            arena = self._arena
            path = str(arena.path) if arena and arena.path else None
            send(channel, "arena", arena.descriptor if arena else None, node=self._node, path=path)
        elif kind == "claim":
            self._claim(message["slot"], message["generation"], message["step"])
        elif kind in ("sealed", "void") and (filling := self._claims.get(message["generation"])) is not None:
            filling.sealed() if kind == "sealed" else filling.void(message["why"])

    def _take_memory(self, plan: dict[str, Any], coming_bytes: int) -> str | None:
        """Like the first machine's, and under the same name. Returns where it is, if it is new."""
        files = tuple(PlannedFile(**file) for file in plan["files"])
        like = {name: plan[name] for name in ("nonce", "newest", "identity")}
        held = self._arena
        if held is not None and (held.plan.nonce, held.plan.files) == (plan["nonce"], files):
            return None
        self.let_go()
        taken = take_memory(
            lambda slots: replace(plan_arena(self._run.path, files, plan["notes_bytes"], slots), **like),
            self._ram_dir,
            coming_bytes=coming_bytes,
        )
        self._arena = taken.arena
        return taken.where

    def _claim(self, slot: int, generation: int, step: int) -> None:
        """What was claimed before is a version by now, or will be one without this machine."""
        assert self._arena is not None
        for older in [one for one in self._claims if one != self._now_written]:
            self._give_back(older)
        self._claims[generation] = Filling(self._arena.slots[slot], generation, step)
        self._claimed_at = time.monotonic()

    @property
    def _now_written(self) -> int | None:
        return None if self._asked is None or self._writing is None else self._asked.generation

    def _give_back(self, generation: int) -> None:
        slot = self._claims.pop(generation).slot
        if slot.state is SlotState.CLAIMED and slot.generation == generation:
            slot.set_state(SlotState.SEALED)

    # --- what the first machine asks ------------------------------------------------------------------------

    def look(self) -> None:
        """Answer what it asks now. Called every `period_s`."""
        if self._writing is not None:
            if not self._writing.done():
                return
            self._writing = None
            if self._asked is not None and self._asked.generation in self._claims:
                self._give_back(self._asked.generation)
        asked = None if self._node is None or not self._claims else wanted(self._run.layout, self._node)
        if asked is None or (self._asked is not None and asked.commit == self._asked.commit):
            return
        filling = self._claims.get(asked.generation)
        if filling is not None:
            self._asked = asked
            self._worker = self._worker or ThreadPoolExecutor(1, "everstep-extents", initializer=lower_thread)
            self._writing = self._worker.submit(self._write, asked, filling)
        elif asked.generation < max(self._claims):  # a later one has taken its place; an earlier word may be on its way
            self._asked = asked
            answer(self._run.layout, asked, refused=f"its copy {asked.generation} is not in memory there")

    def _write(self, asked: Wanted, filling: Filling) -> None:
        """In the thread."""
        assert self._arena is not None
        try:
            pieces = write_extents(self._arena, filling, asked)
        except FileNotFoundError:  # the first machine has dropped it, and writes it alone
            return
        except (OSError, DamageFound) as error:
            answer(self._run.layout, asked, refused=str(error))
        except Exception as error:
            answer(self._run.layout, asked, refused=f"{error!r}; this is a bug")
        else:
            answer(self._run.layout, asked, pieces=pieces)

    # --- ends -----------------------------------------------------------------------------------------------

    def ranks_ended(self) -> None:
        """What they have not sealed, they never will."""
        for filling in self._claims.values():
            if filling.slot.is_whole and filling.slot.generation == filling.generation:
                filling.sealed()
            else:
                filling.void("was not whole when the ranks ended")
        if self._worker is not None:
            self._worker.shutdown()
        self._worker = self._writing = None
        for generation in list(self._claims):
            self._give_back(generation)

    def let_go(self) -> None:
        """Give the memory back if all that it holds is a version; else leave it, and say where."""
        arena, self._arena = self._arena, None
        self._claims.clear()
        if arena is None:
            return
        if not self._holds_more(arena):
            release(arena)
            return
        path = arena.path or shelter(arena)
        if path is None:
            self._report("What this machine held in memory is lost with this process: no place could be found for it.")
            release(arena)
            return
        self._report(in_memory(self._run, arena, path, Settled()))
        leave(arena)

    def _holds_more(self, arena: Arena) -> bool:
        """Than there are versions, as far as that can be told."""
        if self._node is None and self.has_first_ended:
            return False
        try:
            return arena.newest() is not None and bool(Lineage(self._run, arena).uncommitted())
        except (EverstepError, OSError):
            return True

    # --- what an earlier launch has left on this machine ----------------------------------------------------

    def left(self) -> int | None:
        """The step of the newest state that lies in memory here, in nobody's use, and that no version has."""
        found: int | None = None
        if self._node is None:  # what there are versions of cannot be told from here
            return None
        for arena in leftovers(self._run.path, identity_of(self._run.path), self._ram_dir):
            with suppress(EverstepError, OSError, DamageFound):
                lineage = Lineage(self._run, arena)
                states = lineage.uncommitted()
                if not states:
                    release(arena)
                    continue
                if lineage.overtaken_by() is None:
                    found = max(-1 if found is None else found, int(states[0].notes()["step"]))
            leave(arena)
        return found

    def drop_copies(self, identity: str, step: int) -> None:
        """Give back what a machine that does not see the first one's run held for it, and a kill left here, up to the
        step that is gone on from: it was copied from the line of versions that has come there.
        """
        for arena in leftovers(self._run.path, identity, self._ram_dir):
            newest, is_older = arena.newest(), False
            with suppress(DamageFound):
                is_older = newest is None or int(newest.notes()["step"]) <= step
            is_copy = is_planned(Path(arena.plan.run).parent.name)
            release(arena) if is_copy and is_older else leave(arena)

    def rescue(self) -> int | str:
        """Make a version of it: the first machine holds the run's lock, has asked for it, and waits.

        Returns the version's number, or why there is none.
        """
        found: int | str = "it is not there any more"
        for arena in leftovers(self._run.path, identity_of(self._run.path), self._ram_dir):
            settled = settle(self._run, arena, self._report)
            if settled.version is not None:
                self._report(rescued(settled.version, settled.version.step))
                found = settled.version.number
            elif settled.refused is not None and isinstance(found, str):
                found = str(settled.refused)
            release(arena) if settled.is_safe else leave(arena)
        return found
