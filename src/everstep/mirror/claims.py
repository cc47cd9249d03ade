"""Whose a place is, and whose a version's number in it: settled by files that are created only where there are none.

That holds though two send at once and each believes to be alone: what one has begun, no other writes into.
"""

import json
from collections.abc import Mapping
from typing import Any

from everstep.errors import UserError
from everstep.mirror.backend import Place
from everstep.versions import Run, Version
from everstep.versions.layout import HPARAMS, MIRROR, identity_of

CLAIMS = ".claims"  # folder of a place: for each number that was begun there the digest of its manifest
KINDS = ("whole copies", "slim copies")


def facts_of(place: Place) -> Mapping[str, Any] | None:
    """Whose copies a place holds, and which kind; None where it holds none; empty where that cannot be read."""
    content = place.read(MIRROR)
    if content is None:
        return None
    try:
        told = json.loads(content)
    except ValueError:
        return {}
    return told if isinstance(told, dict) else {}


def claim_place(run: Run, place: Place, is_slim: bool) -> None:
    """The place is this run's from now on. Raises: UserError if it is another's, or of the other kind: a slim copy that
    has its manifest is not made whole afterwards.
    """
    mine = {"format": 1, "run": run.name, "identity": identity_of(run.path), "slim": is_slim}
    if place.read(MIRROR) is None and place.read(HPARAMS) is not None:
        raise UserError(f"{place.address} is a run itself. Nothing was sent; a mirror needs a folder of its own.")
    if place.create(MIRROR, (json.dumps(mine) + "\n").encode()):
        return
    theirs = facts_of(place) or {}
    if theirs.get("identity") != mine["identity"]:
        raise UserError(
            f"{place.address} holds copies of another run, called {theirs.get('run', 'nothing')}. Nothing was sent."
        )

    if theirs.get("slim") != is_slim:
        raise UserError(
            f"{place.address} holds {KINDS[not is_slim]}, and {KINDS[is_slim]} were asked for. Nothing was sent; they "
            "need a folder of their own."
        )


def claim_number(place: Place, version: Version) -> None:
    """Before the first byte of it. Raises: UserError if another version of this number was begun there."""
    mine = version.manifest_digest.encode()
    name = f"{CLAIMS}/{version.name}"
    if not place.create(name, mine) and place.read(name) != mine:
        raise another(place, version)


def another(place: Place, version: Version) -> UserError:
    return UserError(
        f"{place.address} has another {version.name}: two trainings went on from copies of one run, and both are "
        "mirrored there. Nothing of it was changed; the younger one needs a place of its own."
    )
