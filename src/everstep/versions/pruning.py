"""Deciding and carrying out what becomes of older versions; nothing half-done ever lies under a good name.

Needs no run lock: a trainer only adds versions. Of two prunes one does the work.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from datetime import datetime

from everstep.errors import DamageFound, UserError
from everstep.versions import fsops
from everstep.versions.annotations import annotating
from everstep.versions.layout import MANIFEST, TRAINING
from everstep.versions.live import read_live
from everstep.versions.reach import reaching
from everstep.versions.reading import BEING_READ, alone_with, is_read
from everstep.versions.retention import Decision, Fate, Held, Policy, plan_prune
from everstep.versions.run import Run
from everstep.versions.trash import empty_trash, move_aside, pruning_alone
from everstep.versions.version import Version, verify

IN_USE = "a running training went on from it"
NOTES_LOST = "what is said of it cannot be read"
NO_MARKS: Mapping[int, str] = {}


def held_versions(
    run: Run,
    policy: Policy,
    in_use: Iterable[int] = (),
    marks: Mapping[int, str] = NO_MARKS,
    awaited: Collection[int] = (),
) -> list[Held]:
    """What a plan has to know of the run's versions. Reads manifests, notes and sizes only."""
    used = {*in_use, *_resumed_from(run)}
    held = (_held(run, version, policy, used, marks.get(version.number, "")) for version in run.versions())
    return [replace(found, is_awaited=found.number in awaited) for found in held if found is not None]


def decide(
    run: Run,
    policy: Policy,
    now_s: float,
    in_use: Iterable[int] = (),
    marks: Mapping[int, str] = NO_MARKS,
    awaited: Collection[int] = (),
) -> list[Decision]:
    """Exactly what a prune would do now, with nothing changed.

    Args:
        awaited: versions that a mirror lacks.

    Where anything is to go, the newest version that stays to resume from is read whole first. If it is damaged, it
    stays, counts for nothing, and the rest is decided anew.
    """
    held, whole = held_versions(run, policy, in_use, marks, awaited), set[int]()
    while True:
        decided = plan_prune(held, policy, now_s)
        todo = [decision.held for decision in decided if decision.fate is not Fate.KEEP]
        read = {found.number for found in todo if is_read(run.layout.version(found.number))}
        rest = _foundation(decided)
        if read:
            held = [replace(h, holds=(*h.holds, BEING_READ)) if h.number in read else h for h in held]
        elif not todo or rest is None or rest.number in whole:
            return decided
        elif _is_whole(run, rest.number):
            whole.add(rest.number)
        else:
            held = [replace(h, is_damaged=True) if h.number == rest.number else h for h in held]


def prune(
    run: Run,
    policy: Policy,
    now_s: float,
    in_use: Iterable[int] = (),
    marks: Mapping[int, str] = NO_MARKS,
    awaited: Collection[int] = (),
) -> list[Decision]:
    """Decide and carry out. Returns what became of which version, those that stay left out.

    Raises: Busy where another prune is at work; UserError, UnreachableDisk where the disk refuses it. Every listed
        version is whole.
    Crash: each version is as it was, slim, or gone to .trash, which the next prune or start empties.
    """
    with pruning_alone(run.layout):
        with reaching(run.path):  # a disk that answers badly takes nothing away
            empty_trash(run.layout)
            decided = decide(run, policy, now_s, in_use, marks, awaited)
        return carry_out(run, decided)


def carry_out(run: Run, decided: Sequence[Decision]) -> list[Decision]:
    """Do what was decided; what has changed since then is left as it is. The prune lock has to be held."""
    done = []
    for decision in decided:
        if decision.fate is Fate.KEEP:
            continue
        try:
            if _carry_out(run, decision):
                done.append(decision)
        except OSError as error:
            raise UserError(
                f"version_{decision.held.number} cannot be removed: {error}. Every version that is listed is whole; "
                f"what lies in {run.layout.trash} already goes at the next try."
            ) from None
    return done


def slim(run: Run, version: Version) -> int:
    """Drop what only a resume needs; returns the bytes freed.

    Raises: UserError if it is in use or the only one to resume from; Busy where a prune is at work.
    """
    with pruning_alone(run.layout):
        empty_trash(run.layout)
        held = _held(run, version, Policy(), _resumed_from(run), "")
        if held is None:
            raise UserError(f"{version.name} was removed meanwhile.")
        if held.size_bytes == held.slim_bytes and not held.is_damaged:
            raise UserError(f"{version.name} is slim already.")
        if held.is_damaged:
            raise DamageFound(f"{version.name} has lost files. Nothing was removed; everstep verify names them.")
        if IN_USE in held.holds:
            raise UserError(f"{version.name} stays whole: {IN_USE}.")
        others = [found.number for found in run.versions() if found.resumable and found.number != version.number]
        if not any(_is_whole(run, number) for number in reversed(others)):
            raise UserError(f"{version.name} is the only version that {run.name} can be resumed from; it stays whole.")
        decision = Decision(held, Fate.SLIM, ("asked",))
        if not _carry_out(run, decision, is_asked=True):
            raise UserError(f"{version.name} stays whole for now: it is {BEING_READ}.")
        return decision.frees_bytes


def _held(run: Run, version: Version, policy: Policy, used: Iterable[int], mark: str) -> Held | None:
    note, sizes = run.annotation(version.number), version.sizes_on_disk()
    if MANIFEST not in sizes:
        return None  # removed since its manifest was read
    training = sum(size for path, size in sizes.items() if path.startswith(f"{TRAINING}/"))
    is_damaged = version.is_incomplete(sizes)
    holds = [*([IN_USE] if version.number in used else []), *([] if note.is_readable else [NOTES_LOST])]
    return Held(
        number=version.number,
        step=version.step,
        created_s=datetime.fromisoformat(version.created_at).timestamp(),
        size_bytes=sum(sizes.values()),
        slim_bytes=sum(sizes.values()) - training,
        is_resumable=not is_damaged and all(path in sizes for path in version.files),
        is_pinned=note.pinned,
        labels=note.labels,
        score=policy.rank(note.scores),
        mark=mark,
        holds=tuple(holds),
        is_damaged=is_damaged,
    )


def _resumed_from(run: Run) -> list[int]:
    """What a running training went on from; of one that was killed too, until the next start."""
    live = read_live(run.layout)
    return [live.resumed_from] if live and live.resumed_from is not None and live.state == "running" else []


def _foundation(decided: Sequence[Decision]) -> Held | None:
    """The version that has to be whole before any other is touched."""
    sound = [d.held for d in decided if d.fate is Fate.KEEP and not d.held.is_damaged]
    resumable = [held for held in sound if held.is_resumable]
    return max(resumable or sound, key=lambda held: held.number, default=None)


def _is_whole(run: Run, number: int) -> bool:
    try:
        return not verify(run.version(number))
    except DamageFound:
        return False


def _carry_out(run: Run, decision: Decision, is_asked: bool = False) -> bool:
    """Take it out of the run at once, then take it apart. False if it is read, kept since then, or gone."""
    number = decision.held.number
    folder = run.layout.version(number)
    is_drop = decision.fate is Fate.DROP
    with ExitStack() as held:
        try:
            is_free = held.enter_context(alone_with(folder))
            held.enter_context(annotating(run.layout))
        except FileNotFoundError:
            return False
        note = run.annotation(number)
        if not is_free or (not is_asked and (note.pinned or note.labels or not note.is_readable)):
            return False
        part = folder if is_drop else folder / TRAINING
        if not part.is_dir():
            return False
        aside = move_aside(run.layout, part, folder.name if is_drop else f"{folder.name}-{TRAINING}")
    fsops.remove_tree(aside)
    return True
