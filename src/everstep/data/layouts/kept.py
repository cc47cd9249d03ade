"""A list as it was read, in a form that is read in a tenth of the time: a column of texts each, not a line a pair."""

import json
import zlib
from dataclasses import astuple
from functools import partial
from itertools import repeat
from typing import Any

from everstep.data.layouts.files import Files
from everstep.data.layouts.listing import Finding, Listed, Listing

LEVEL = 1  # of compression: names of a list differ in little


def packed(listing: Listing) -> bytes:
    """All of it but where it is, and how its files are read."""
    lines, targets, conditions, captions, *_ = zip(*listing.pairs, strict=True) if listing.pairs else [()] * 4
    several = {at: pair[4:] for at, pair in enumerate(listing.pairs) if pair[4] or pair[5]}
    told = {
        "layout": listing.layout,
        "is_captioned": listing.is_captioned,
        "findings": list(map(astuple, listing.findings)),
        "without": list(map(astuple, listing.without)),
        "columns": (lines, targets, conditions, captions),
        "several": list(several.items()),
        "is_distinct": not several and _are_distinct([*targets, *filter(None, conditions)]),
    }
    return zlib.compress(json.dumps(told).encode(), LEVEL)


def unpacked(kept: bytes, where: str, list_at: str, files: Files, identity: bytes) -> Listing:
    """The same listing again."""
    told: dict[str, Any] = json.loads(zlib.decompress(kept))
    pairs = list(map(partial(tuple.__new__, Listed), zip(*told["columns"], repeat(()), repeat(()), strict=False)))
    for at, (conditions, captions) in told["several"]:
        pairs[at] = pairs[at]._replace(other_conditions=tuple(conditions), other_captions=tuple(captions))
    findings, without = (tuple(Finding(*one) for one in told[name]) for name in ("findings", "without"))
    return Listing(
        where,
        list_at,
        told["layout"],
        tuple(pairs),
        findings,
        files,
        told["is_captioned"],
        without,
        identity,
        is_recalled=True,
        is_distinct=told["is_distinct"],
    )


def _are_distinct(names: list[str]) -> bool:
    return len(set(names)) == len(names)
