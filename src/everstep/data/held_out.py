"""Which pairs are kept apart: a property of the pairs alone, so that neither order nor seed can change it.

Who is held out is decided by a hash of the pair's name; who looks like one that is held out goes with it, so that
nothing is judged on a picture that was trained on under another name.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np
import xxhash

from everstep.contracts import PairSource
from everstep.data.looks import Looks
from everstep.errors import UserError

LARGEST_SHARE = 0.05
# A small set holds out more of itself: with fewer than 10 pairs nothing can be told for sure.
ENOUGH, LARGEST_SHARE_OF_FEW = 16, 0.1
MOST_PASSED_OVER = 1000  # in a row, for being like too many others; then fewer are held out
By = Literal["name", "look"]  # by the hashes of names alone, as it turned out, or not


@dataclass(frozen=True, slots=True)
class Split:
    """Pair numbers, each in exactly one of the two, and how they were chosen."""

    training: tuple[int, ...]
    held_out: tuple[int, ...]
    by: By | None = None  # None where looks did not count: not known, torn, or a run of before they did
    alike: int = 0  # held out since they look like another that is
    is_torn: bool = False  # whether near duplicates are on both sides, since no other choice is small enough

    def sentence(self) -> str | None:
        """What there is to say of near duplicates when a training begins."""
        if self.is_torn:
            return (
                "Nearly all pictures look like many others: those held out have near duplicates that are trained on, "
                "which flatters all scores."
            )
        if not self.alike:
            return None
        are = "1 near duplicate is" if self.alike == 1 else f"{self.alike:,} near duplicates are"
        return f"{are} held out together with the pictures they are like, so that none is trained on."


class LookedAt(PairSource, Protocol):
    """A source that knows what its targets look like."""

    def looks(self) -> Looks | None: ...


def split(
    source: PairSource,
    count: int,
    before: Collection[str] = (),
    *,
    by: By | None = None,
    looks: Looks | None = None,
) -> Split:
    """Hold out the `count` pairs with the smallest hash of their name; at most 5 % of them, or 16 if that is more
    and not above a tenth; but at least one of two.

    Args:
        before: names of those held out so far, where the data may have changed since. They stay held out as far as
            they are there. Others join them only if they have never been trained on, which their hash tells where
            the choice was by name: it is below the largest one held out before. Where none of either is there, the
            choice is made anew.
        by: how those before were chosen.
        looks: of all pairs' targets. Near duplicates are on one side, and of a group that does not fit none is held
            out; one that joins, or looks like one that stays, is treated likewise.

    Raises: UserError if nothing is left to train on.
    """
    total = len(source)
    few = min(ENOUGH, int(total * LARGEST_SHARE_OF_FEW))
    room = min(count, max(1, few, int(total * LARGEST_SHARE))) if total > 1 else 0
    hashes = list(map(_hash, map(source.name, range(total))))
    by_hash: list[int] = np.argsort(np.array(hashes, np.uint64), kind="stable").tolist()
    staying = _as_before(source, by_hash, hashes, room, before, by, looks) if before else []
    if staying:
        return _apart(total, staying, by)
    if looks is None or not room:
        return _apart(total, by_hash[:room], None)
    chosen = _chosen(by_hash, room, looks)
    if not chosen:
        return _apart(total, by_hash[:room], None, is_torn=True)
    held_out = [pair for pair in by_hash if pair in chosen]  # by hash, as it will be when it is asked again
    alike = sum(chosen[pair] for pair in held_out)
    return _apart(total, held_out, "name" if held_out == by_hash[: len(held_out)] else "look", alike)


def split_as(source: LookedAt, count: int, recorded: Mapping[str, Any]) -> Split:
    """The split of a version, of which `recorded` is what its manifest says of the data."""
    by: By | None = recorded.get("held_out_by")
    # The same data are split the same, whatever a later program would think of their looks.
    is_settled = by is None or recorded["fingerprint"] == source.fingerprint()
    return split(source, count, recorded["held_out"], by=by, looks=None if is_settled else source.looks())


def _apart(total: int, held_out: list[int], by: By | None, alike: int = 0, is_torn: bool = False) -> Split:
    if total > 1 and len(held_out) == total:
        raise UserError(
            f"All {total:,} pairs were held out by this run before, so none of them is trained on. Nothing was changed."
        )
    apart = set(held_out)
    return Split(tuple(pair for pair in range(total) if pair not in apart), tuple(held_out), by, alike, is_torn)


def _chosen(by_hash: list[int], room: int, looks: Looks) -> dict[int, bool]:
    """Whole groups of near duplicates in the order of their first hash, as they fit: is it one that came along?"""
    chosen: dict[int, bool] = {}
    passed_over: set[int] = set()
    in_a_row = 0
    for pair in by_hash:
        if len(chosen) == room or (chosen and in_a_row == MOST_PASSED_OVER):
            break
        if pair in chosen or pair in passed_over:
            continue
        group, is_whole = _group(pair, room - len(chosen), looks)
        if is_whole:
            chosen |= {each: each != pair for each in group}
            in_a_row = 0
        else:
            passed_over |= group  # the room that is left only shrinks
            in_a_row += 1
    return chosen


def _group(pair: int, most: int, looks: Looks) -> tuple[set[int], bool]:
    """All that look like it, like those, and so on; or so many of them that they are too many."""
    group, asked = {pair}, [pair]
    while asked and len(group) <= most:
        found = set(looks.like(asked.pop())) - group
        group |= found
        asked += sorted(found)
    return group, len(group) <= most


def _as_before(
    source: PairSource,
    by_hash: list[int],
    hashes: list[int],
    room: int,
    before: Collection[str],
    by: By | None,
    looks: Looks | None,
) -> list[int]:
    names, largest = set(before), max(map(_hash, before), default=-1)
    staying = {pair for pair in by_hash if source.name(pair) in names}
    if looks is not None:
        staying |= {other for pair in staying for other in looks.like(pair)}
    untrained = [] if by == "look" else [pair for pair in by_hash if hashes[pair] <= largest and pair not in staying]
    joining: set[int] = set()
    for pair in untrained:
        if len(staying | joining) >= room:
            break
        if looks is None or looks.like(pair) == [pair]:
            joining.add(pair)
    return [pair for pair in by_hash if pair in staying | joining]


def _hash(name: str) -> int:
    return xxhash.xxh3_64_intdigest(name.encode(errors="surrogatepass"))
