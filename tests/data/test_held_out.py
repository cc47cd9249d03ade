"""What was held out before is never trained on, whatever becomes of the data."""

from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from everstep.contracts import Pair
from everstep.data import split
from everstep.errors import UserError


@dataclass(frozen=True)
class Names:
    """Pairs of which only the names matter here."""

    names: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.names)

    def name(self, pair: int) -> str:
        return self.names[pair]

    def load(self, pair: int) -> Pair:
        raise AssertionError("no picture is needed to split")

    def fingerprint(self) -> str:
        return str(self.names)


def names(*ranges: range) -> Names:
    return Names(tuple(f"{number}.png" for numbers in ranges for number in numbers))


def held(source: Names, count: int, before: tuple[str, ...] = ()) -> tuple[str, ...]:
    return tuple(source.name(pair) for pair in split(source, count, before).held_out)


def test_the_same_data_are_split_the_same() -> None:
    source = names(range(1000))
    first = held(source, 64)
    assert len(first) == 50
    assert held(source, 64, first) == first


def test_pairs_that_are_added_take_nobodys_place() -> None:
    before = held(names(range(1000)), 64)
    alone = held(names(range(5000)), 64)
    assert set(before) - set(alone)  # by their hash alone some would have been trained on
    after = held(names(range(5000)), 64, before)
    assert set(before) <= set(after)
    assert len(after) == 64


def test_who_joins_was_never_trained_on() -> None:
    """Of the old pairs none joins, even where room is made: all of them were trained on."""
    before = held(names(range(1000)), 64)
    gone = {int(name.removesuffix(".png")) for name in before[:20]}
    left = Names(tuple(name for name in names(range(1000)).names if int(name.removesuffix(".png")) not in gone))
    assert held(left, 64, before) == before[20:]


def test_other_data_are_split_by_their_own_names() -> None:
    before = held(names(range(1000)), 64)
    other = names(range(5000, 5400))
    after = held(other, 64, before)
    assert 0 < len(after) <= 20
    assert not set(after) & set(before)


def test_data_of_nothing_but_held_out_pairs_are_refused() -> None:
    before = held(names(range(1000)), 64)
    with pytest.raises(UserError, match="All 50 pairs were held out by this run before"):
        split(Names(before), 64, before)


@given(st.sets(st.integers(0, 400), min_size=2), st.sets(st.integers(0, 400), min_size=2), st.integers(1, 64))
def test_no_pair_goes_from_held_out_to_trained_on_or_back(first: set[int], second: set[int], count: int) -> None:
    one, two = (Names(tuple(f"{number}.png" for number in sorted(numbers))) for numbers in (first, second))
    before = split(one, count)
    trained = {one.name(pair) for pair in before.training}
    kept_apart = tuple(one.name(pair) for pair in before.held_out)
    try:
        after = split(two, count, kept_apart)
    except UserError:
        return
    assert not set(kept_apart) & {two.name(pair) for pair in after.training}
    held_now = {two.name(pair) for pair in after.held_out}
    is_fresh = held_now and not any(name in kept_apart for name in held_now)
    assert is_fresh or not held_now & trained
    assert sorted((*after.training, *after.held_out)) == list(range(len(two)))
