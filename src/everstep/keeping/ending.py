"""The one place where a training ends, whoever finds that it has: its keeper, its trainer alone, or the next start.

The law: after any end of trainer, keeper, terminal or disk, the newest sealed state is either committed or still in
memory and named, and the next start goes on from it. Memory is given back only when its newest sealed generation is a
committed version of the run. How a training ended decides about restarts, and about nothing here.
"""

import contextlib
from dataclasses import dataclass
from pathlib import Path

from everstep.contracts import ParentRef, Reason, Report
from everstep.errors import DamageFound, EverstepError, NotCommitted
from everstep.keeping.arena import Arena, SlotState
from everstep.keeping.memory import leave, leftovers, release, shelter
from everstep.keeping.sealed import Filling, Lineage, commit_slot
from everstep.places import spelled
from everstep.versions import Run, Version, write_annotation
from everstep.versions.layout import identity_of


@dataclass(frozen=True, slots=True)
class Settled:
    """What became of the states in memory."""

    version: Version | None = None  # that the newest of them has become now
    refused: EverstepError | None = None  # why the newest is still in memory alone
    overtaken: Version | None = None  # somebody else's later version, for which it was left where it is

    @property
    def is_safe(self) -> bool:
        """Whether the memory may be given back."""
        return self.refused is None and self.overtaken is None


def settle(run: Run, arena: Arena, report: Report) -> Settled:
    """Commit the newest whole state of an arena that no trainer writes to, unless it is a version already.

    A state that is torn or rotten is named and the one before it is taken. The run's lock has to be held.
    Crash: the memory is as it was; the next start settles it.
    """
    try:
        lineage = Lineage(run, arena)
        states = lineage.uncommitted()
        overtaken = lineage.overtaken_by() if states else None
        if overtaken is not None:
            return Settled(overtaken=overtaken)
        for slot in states:
            try:
                return Settled(_rescue(run, arena, Filling.of_sealed(slot), lineage.last(), report))
            except DamageFound as damage:
                report(f"A state in memory was refused: it {damage}.")
                slot.set_state(SlotState.FREE)
        return Settled()
    except EverstepError as error:
        return Settled(refused=error)
    except OSError as error:  # a disk that answers badly is a disk that refuses
        return Settled(refused=NotCommitted(f"{run.path} does not answer: {error}."))


def _rescue(run: Run, arena: Arena, filling: Filling, parent: ParentRef | None, report: Report) -> Version:
    version = commit_slot(run, arena, filling, parent, Reason.RESCUE)
    label = filling.slot.notes().get("label")
    if label is not None:
        name_version(run, version, label, report)
    return version


def name_version(run: Run, version: Version, label: str, report: Report) -> None:
    """Note the label that was asked for. A disk that refuses it costs the label, not the training."""
    try:
        write_annotation(run.layout, version.number, labels=(label,))
    except (EverstepError, OSError) as error:
        report(f"{version.name} could not be labelled {label!r}: {error}. everstep label {run.name}@{version.number}")


def let_go(arena: Arena, settled: Settled, run: Run, report: Report) -> bool:
    """Give the memory back if that is safe, else leave it where the next start finds it, and say where that is.

    Returns False where it has no name and no disk takes it: then it is lost with the process that holds it.
    """
    if settled.is_safe:
        release(arena)
        return True
    path = arena.path or shelter(arena)
    if path is None:
        return False
    report(in_memory(run, arena, path, settled))
    return True


def in_memory(run: Run, arena: Arena, path: Path, settled: Settled) -> str:
    """What lies there, why, and what to do."""
    step = "a state"
    with contextlib.suppress(DamageFound):  # whoever finds it says so: here it is only named
        if (newest := arena.newest()) is not None:
            step = f"step {newest.notes()['step']:,}"
    drop = f"To drop it: rm -r {path.parent}"
    if settled.overtaken is not None:
        return (
            f"Memory in {path.parent} holds {step} of this run, which {settled.overtaken.name} (step "
            f"{settled.overtaken.step:,}) has overtaken: it was made elsewhere since. It was left as it is.\n{drop}"
        )
    why = "" if settled.refused is None else f"{settled.refused} "
    return f"{why}{step.capitalize()} is kept in {path.parent}: the next start of {run.name} goes on from it.\n{drop}"


def rescued(version: Version, step: int) -> str:
    """In words: a version made of what was in memory, when the trainer was at this step."""
    back = max(0, step - version.step)
    return f"{version.name} (step {version.step:,}) was rescued from memory, {back} steps back: {version.path}"


def unsettled(error: Exception) -> NotCommitted:
    """A fault of ours after an end: nothing is known of what is in memory, so it is kept."""
    return NotCommitted(f"What is in memory could not be settled ({error!r}); this is a bug.")


def recover_memory(run: Run, ram_dir: str | None, report: Report) -> None:
    """What every start does: settle whatever an earlier training of this run left in memory.

    The run's lock has to be held. Raises: NotCommitted if the disk refuses a state; the memory stays, and is named.
    """
    folder = spelled(ram_dir) if ram_dir else None
    for arena in leftovers(run.path, identity_of(run.path), folder):
        settled = settle(run, arena, report)
        if settled.version is not None:
            version = settled.version
            report(f"Rescued {version.name} (step {version.step:,}) from memory in {arena.path}.")
        if settled.refused is not None:
            assert arena.path is not None
            sentence = in_memory(run, arena, arena.path, settled)
            leave(arena)
            raise NotCommitted(f"{sentence}\nNothing was started.")
        let_go(arena, settled, run, report)
        if settled.overtaken is not None:
            leave(arena)
