"""Carrying out a plan: versions are made slim or dropped, and nothing half-done ever lies under a good name.

Needs no run lock: a trainer only adds versions. Two prunes wait for each other.
"""

import secrets
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager
from datetime import datetime
from pathlib import Path

from everstep.errors import DamageFound, UserError
from everstep.versions import fsops
from everstep.versions.layout import TRAINING
from everstep.versions.live import read_live
from everstep.versions.lock import locked
from everstep.versions.retention import Decision, Fate, Held, Policy, plan_prune
from everstep.versions.store import Run, Version, describe_damage, verify


def held_versions(run: Run, policy: Policy, in_use: Iterable[int] = ()) -> list[Held]:
    """What a plan has to know of the run's versions. Reads manifests and notes only."""
    used = set(in_use)
    live = read_live(run.layout)
    if live is not None and live.resumed_from is not None and live.state == "running":
        used.add(live.resumed_from)
    found = []
    for version in run.versions():
        note = run.annotation(version.number)
        found.append(
            Held(
                number=version.number,
                step=version.step,
                created_s=datetime.fromisoformat(version.created_at).timestamp(),
                size_bytes=version.disk_bytes,
                slim_bytes=version.slim_bytes,
                is_resumable=version.resumable,
                is_pinned=note.pinned,
                labels=note.labels,
                score=note.scores.get(policy.score),
                is_in_use=version.number in used,
            )
        )
    return found


def prune(run: Run, policy: Policy, now_s: float, in_use: Iterable[int] = ()) -> list[Decision]:
    """Plan and apply. Returns what was done to which version; empty where another prune is at work.

    Raises: DamageFound, with nothing removed, if the version that everything rests on is not whole.
    """
    try:
        with _alone(run):
            plan = plan_prune(held_versions(run, policy, in_use), policy, now_s)
            return apply_prune(run, plan)
    except UserError:
        return []


def apply_prune(run: Run, plan: Sequence[Decision]) -> list[Decision]:
    """Carry out a plan. Crash: each version is as it was, or gone to .trash, which the next start empties."""
    todo = [decision for decision in plan if decision.fate is not Fate.KEEP]
    if not todo:
        return []
    _check_foundation(run, plan)
    for decision in todo:
        version = run.version(decision.held.number)
        if decision.fate is Fate.DROP:
            discard(run, version.path)
        elif (version.path / TRAINING).is_dir():
            discard(run, version.path / TRAINING, f"{version.name}-{TRAINING}")
    return todo


def slim(run: Run, version: Version) -> int:
    """Drop what only a resume needs; returns the bytes freed. Raises: UserError if it is the only one to resume."""
    with _alone(run):
        resumable = [found.number for found in run.versions() if found.resumable]
        if resumable == [version.number]:
            raise UserError(f"{version.name} is the only version that {run.name} can be resumed from; it stays whole.")
        if not version.resumable:
            raise UserError(f"{version.name} is slim already.")
        freed = version.disk_bytes - version.slim_bytes
        discard(run, version.path / TRAINING, f"{version.name}-{TRAINING}")
        return freed


def discard(run: Run, path: Path, name: str | None = None) -> None:
    """Move away under another name at once, then remove it at leisure."""
    fsops.ensure_folder(run.layout.trash)
    aside = run.layout.trash / f"{name or path.name}-{secrets.token_hex(4)}"
    fsops.rename(path, aside)
    fsops.flush_folder(path.parent)
    fsops.remove_tree(aside)


def _check_foundation(run: Run, plan: Sequence[Decision]) -> None:
    """Nothing is removed before the newest version to resume from was read whole."""
    kept = [d.held.number for d in plan if d.fate is Fate.KEEP and d.held.is_resumable]
    if not kept:
        return
    version = run.version(max(kept))
    wrong = verify(version)
    if wrong:
        raise DamageFound(f"{version.name} {describe_damage(version, wrong)}. Nothing was removed.")


def _alone(run: Run) -> AbstractContextManager[None]:
    return locked(run.layout.prune_lock, run.name, "prune")
