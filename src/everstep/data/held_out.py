"""Which pairs are kept apart: a property of the pair's name, so that neither order nor seed can change it."""

from dataclasses import dataclass

import xxhash

from everstep.contracts import PairSource

LARGEST_SHARE = 0.05


@dataclass(frozen=True, slots=True)
class Split:
    """Pair numbers, each in exactly one of the two."""

    training: tuple[int, ...]
    held_out: tuple[int, ...]


def split(source: PairSource, count: int) -> Split:
    """Hold out the `count` pairs with the smallest hash of their name; at most 5 % of them, but at least one of two."""
    total = len(source)
    kept_apart = min(count, max(1, int(total * LARGEST_SHARE))) if total > 1 else 0
    by_hash = sorted(range(total), key=lambda pair: xxhash.xxh3_64_intdigest(source.name(pair).encode()))
    held_out = by_hash[:kept_apart]
    return Split(tuple(sorted(by_hash[kept_apart:])), tuple(held_out))
