"""Which pairs are kept apart: a property of the pair's name, so that neither order nor seed can change it."""

from collections.abc import Collection
from dataclasses import dataclass

import xxhash

from everstep.contracts import PairSource
from everstep.errors import UserError

LARGEST_SHARE = 0.05


@dataclass(frozen=True, slots=True)
class Split:
    """Pair numbers, each in exactly one of the two."""

    training: tuple[int, ...]
    held_out: tuple[int, ...]


def split(source: PairSource, count: int, before: Collection[str] = ()) -> Split:
    """Hold out the `count` pairs with the smallest hash of their name; at most 5 % of them, but at least one of two.

    Args:
        before: names of those held out so far, where the data may have changed since. They stay held out as far as
            they are there. Others join them only if they have never been trained on, which their hash tells: it is
            below the largest one held out before. Where none of either is there, the choice is made anew.

    Raises: UserError if nothing is left to train on.
    """
    total = len(source)
    room = min(count, max(1, int(total * LARGEST_SHARE))) if total > 1 else 0
    hashes = [_hash(source.name(pair)) for pair in range(total)]
    by_hash = sorted(range(total), key=hashes.__getitem__)
    held_out = _as_before(source, by_hash, hashes, room, before) or by_hash[:room]
    if total > 1 and len(held_out) == total:
        raise UserError(
            f"All {total:,} pairs were held out by this run before, so none of them is trained on. Nothing was changed."
        )
    apart = set(held_out)
    return Split(tuple(pair for pair in range(total) if pair not in apart), tuple(held_out))


def _as_before(
    source: PairSource, by_hash: list[int], hashes: list[int], room: int, before: Collection[str]
) -> list[int]:
    names, largest = set(before), max(map(_hash, before), default=-1)
    staying = {pair for pair in by_hash if source.name(pair) in names}
    untrained = [pair for pair in by_hash if hashes[pair] <= largest and pair not in staying]
    joining = set(untrained[: max(0, room - len(staying))])
    return [pair for pair in by_hash if pair in staying | joining]


def _hash(name: str) -> int:
    return xxhash.xxh3_64_intdigest(name.encode())
