"""What was held out before is never trained on, whatever becomes of the data."""

from dataclasses import dataclass, replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from everstep.contracts import Pair
from everstep.data import Split, split, split_as
from everstep.data.looks import LENGTH, Looks
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


# --- near duplicates ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Alike(Names):
    """Pairs of which names and looks matter: those of one family look the same."""

    families: tuple[int, ...] = ()
    state: str = ""

    def looks(self) -> Looks | None:
        rows = [np.random.default_rng(family).integers(0, 256, LENGTH, dtype=np.uint8) for family in self.families]
        return Looks(np.array(rows))

    def fingerprint(self) -> str:
        return f"{self.names} {self.state}"


def alike(families: list[int], prefix: str = "") -> Alike:
    return Alike(tuple(f"{prefix}{number}.png" for number in range(len(families))), tuple(families))


def chosen(source: Alike, count: int) -> Split:
    return split(source, count, looks=source.looks())


def recorded(source: Alike, split: Split) -> dict[str, object]:
    """What a manifest says of it."""
    return {
        "held_out": [source.name(pair) for pair in split.held_out],
        "fingerprint": source.fingerprint(),
        **({} if split.by is None else {"held_out_by": split.by}),
    }


def most(pairs: int) -> int:
    return max(pairs // 20, min(16, pairs // 10))


@given(st.lists(st.integers(0, 60), min_size=2, max_size=200), st.integers(1, 64))
def test_near_duplicates_are_on_one_side_and_stay_there(families: list[int], count: int) -> None:
    source = alike(families)
    found = chosen(source, count)
    assert len(found.held_out) <= max(1, min(count, most(len(families))))
    assert found.held_out
    sides = [{families[pair] for pair in side} for side in (found.training, found.held_out)]
    assert bool(sides[0] & sides[1]) == found.is_torn
    if found.is_torn:  # only where no family is small enough
        assert min(map(families.count, set(families))) > max(1, min(count, most(len(families))))
    again = split_as(source, count, recorded(source, found))
    assert (again.training, again.held_out) == (found.training, found.held_out)


def test_where_nothing_is_alike_names_decide_as_before_looks_counted() -> None:
    source = alike(list(range(1000)))
    found = chosen(source, 64)
    assert found.held_out == split(source, 64).held_out
    assert (found.by, found.alike, found.sentence()) == ("name", 0, None)


def test_how_many_came_along_is_said() -> None:
    found = chosen(alike([number // 3 for number in range(1200)]), 60)
    assert (len(found.held_out), found.alike) == (60, 40)
    assert found.sentence() == (
        "40 near duplicates are held out together with the pictures they are like, so that none is trained on."
    )


def test_a_family_that_is_too_large_is_passed_over_at_once() -> None:
    found = chosen(alike([0] * 4000 + list(range(1, 1001))), 64)
    assert len(found.held_out) == 64
    assert min(found.held_out) >= 4000
    assert found.by == "look"


def test_where_all_are_alike_it_is_said() -> None:
    found = chosen(alike([0] * 1000), 64)
    assert len(found.held_out) == 50
    assert found.is_torn
    assert "have near duplicates that are trained on" in str(found.sentence())


def test_a_run_of_before_looks_counted_goes_on_with_its_split() -> None:
    source = alike([number // 3 for number in range(1200)])
    by_names = split(source, 64)
    manifest = {"held_out": [source.name(pair) for pair in by_names.held_out], "fingerprint": source.fingerprint()}
    again = split_as(source, 64, manifest)
    assert (again.training, again.held_out) == (by_names.training, by_names.held_out)
    changed = split_as(replace(source, state="changed"), 64, manifest)
    assert changed.held_out == by_names.held_out  # their like were trained on, and are not taken from the training


def test_one_that_came_along_says_nothing_of_who_was_trained_on() -> None:
    """Its hash may be large: pairs below it were trained on, and do not join when there is room for more."""
    source = alike([number // 2 for number in range(400)] + list(range(1000, 1600)))
    before = chosen(source, 40)
    assert (len(before.held_out), before.by) == (40, "look")
    after = split_as(replace(source, state="later"), 64, recorded(source, before))
    assert (after.held_out, after.by) == (before.held_out, "look")


@given(
    st.lists(st.integers(0, 80), min_size=40, max_size=200),
    st.lists(st.integers(0, 120), max_size=100),
    st.integers(1, 64),
)
def test_pairs_that_are_added_are_apart_too_and_none_that_was_trained_on_is_held_out(
    families: list[int], more: list[int], count: int
) -> None:
    first = alike(families)
    before = chosen(first, count)
    added = alike(more, "new")
    later = Alike(first.names + added.names, first.families + added.families, "later")
    after = split_as(later, count, recorded(first, before))
    trained = set(before.training)
    assert not trained & set(after.held_out)
    assert set(before.held_out) <= set(after.held_out)
    if not before.is_torn:
        kept = {later.families[pair] for pair in after.held_out}
        assert not kept & {later.families[pair] for pair in after.training}


def test_a_large_collection_is_split_in_time_that_grows_with_it() -> None:
    """Each picture twice, and one that half of all look like: neither is compared with all others of its kind."""
    glances = np.random.default_rng(0).integers(0, 256, (25_000, LENGTH), dtype=np.uint8)
    everything = np.concatenate([glances, glances, np.repeat(glances[:1], 50_000, axis=0)])
    looks, asked = Looks(everything), []
    like = looks.like
    looks.like = lambda picture: asked.append(picture) or like(picture)  # type: ignore[method-assign, func-returns-value]
    found = split(names(range(100_000)), 64, looks=looks)
    assert (len(found.held_out), found.alike) == (64, 32)
    assert len(asked) < 80
