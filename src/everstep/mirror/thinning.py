"""A policy of a mirror's own: which versions it takes, and which go from it. A plan that is pure, then its effects.

A copy goes manifest first, so that no kill leaves half of one that is offered.
"""

from collections.abc import Collection, Mapping
from datetime import datetime
from typing import Any

from everstep.mirror.backend import Place
from everstep.mirror.claims import CLAIMS
from everstep.mirror.offered import Offer, Offered
from everstep.versions import Run
from everstep.versions.layout import MANIFEST
from everstep.versions.retention import Fate, Held, Policy, plan_prune

NOTES_LOST = "what is said of it cannot be read"


def plan_passed(run: Run, there: Offer, damaged: Collection[int], policy: Policy | None, now_s: float) -> set[int]:
    """Versions that are here and that are not sent, since they would go from the place at once.

    Args:
        damaged: versions that are none to rely on.
    """
    here = {version.number: version.manifest for version in run.versions() if version.number not in damaged}
    return _gone(run, here | _manifests(there), policy, now_s) - there.whole.keys()


def plan_dropped(run: Run, there: Offer, policy: Policy | None, now_s: float) -> list[Offered]:
    """Versions that go from the place. Reads notes of the run, and nothing of the place."""
    return [there.whole[number] for number in sorted(_gone(run, _manifests(there), policy, now_s))]


def _manifests(there: Offer) -> dict[int, Mapping[str, Any]]:
    return {number: offered.manifest for number, offered in there.whole.items()}


def _gone(run: Run, manifests: Mapping[int, Mapping[str, Any]], policy: Policy | None, now_s: float) -> set[int]:
    """As retention decides here: pinned and labelled ones stay."""
    if policy is None:
        return set()
    held = [_held(run, number, told, policy) for number, told in manifests.items()]
    return {decision.held.number for decision in plan_prune(held, policy, now_s) if decision.fate is Fate.DROP}


def drop(place: Place, offered: Offered) -> None:
    """Raises: OSError. Crash: the copy, or files that nothing offers and that go at the next send."""
    place.delete(f"version_{offered.number}/{MANIFEST}")
    clear(place, offered.number)


def clear_unfinished(run: Run, place: Place, there: Offer) -> None:
    """Take away files that no manifest offers, of versions that are not here any more. Raises: OSError."""
    here = {version.number for version in run.versions()}
    for number in there.unfinished:
        if number not in here:
            clear(place, number)


def clear(place: Place, number: int) -> None:
    """All files of a version that is not offered, and then the claim to its number."""
    for path in place.files(f"version_{number}"):
        place.delete(f"version_{number}/{path}")
    place.delete(f"{CLAIMS}/version_{number}")


def _held(run: Run, number: int, told: Mapping[str, Any], policy: Policy) -> Held:
    note = run.annotation(number)
    size = sum(int(entry["size"]) for entry in told["files"].values())
    return Held(
        number=number,
        step=int(told["step"]),
        created_s=datetime.fromisoformat(str(told["created_at"])).timestamp(),
        size_bytes=size,
        slim_bytes=size,  # a copy goes or stays; it is not made slim where nothing can be renamed
        is_resumable=True,
        is_pinned=note.pinned,
        labels=note.labels,
        score=policy.rank(note.scores),
        holds=() if note.is_readable else (NOTES_LOST,),
    )
