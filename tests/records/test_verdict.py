"""One sentence about a line of versions."""

import random

import pytest

from everstep.records.verdict import (
    SEEN,
    TRUE,
    Control,
    Gain,
    Point,
    _two_levels,
    agreed,
    is_worn_out,
    line_of,
    verdict,
)


def gain(value, benefit=None, p=None, pairs=64, width=0.01, **others):
    """Clear where the gain is above 0.02, if nothing else is said."""
    benefit = value / 2 if benefit is None else benefit
    p = (0.0001 if value > 0.02 else 0.5) if p is None else p
    between = {"benefit": benefit, "benefit_low": benefit - width, "benefit_high": benefit + width}
    return Gain(value, value - width, value + width, (value,) * 4, 64, pairs, p, **{**between, **others})


def line(*gains, every=300):
    found = [one if isinstance(one, Gain) else gain(one) for one in gains]
    return [Point(place, place * every, one) for place, one in enumerate(found)]


def by_benefit(points, seen=lambda point: 0.0):
    """A paired test that is sure of every difference of a hundredth."""
    held_out = {point.version: point.gain.benefit for point in points}
    trained = {point.version: seen(point) for point in points}
    return lambda one, other, kind: (
        0.0001 if (known := {TRUE: held_out, SEEN: trained}[kind])[one] < known[other] - 0.01 else 0.5
    )


def test_nothing_measured_is_said_to_be_nothing():
    assert verdict([], 4).state is Control.UNKNOWN


def test_before_the_jump_it_says_not_yet_and_until_when_that_is_normal():
    found = verdict(line(0.0, 0.001, 0.012), 4)
    assert found.state is Control.NOT_YET
    assert found.sentence == "not yet obeyed (gain 0.012, normal before about 6,000 steps at batch 4)"
    assert (found.since_step, found.after) == (None, None)
    late = verdict(line(0.0, 0.001, 0.012, every=6_000), 4)
    assert late.sentence == "not yet obeyed (gain 0.012)"


def test_one_version_alone_is_not_believed():
    found = verdict(line(0.0, 0.0, 0.3), 4)
    assert found.state is Control.NOT_YET
    assert found.sentence == "perhaps obeyed (gain 0.300), if the next version that is measured agrees"
    assert verdict(line(0.0, 0.0, 0.3, 0.3), 4).since_step == 600
    lucky = verdict(line(*[0.0] * 40, 0.3, *[0.0] * 5), 4)
    assert (lucky.state, lucky.since_step) == (Control.NOT_YET, None)


def test_it_is_taken_back_when_the_newest_version_does_not_agree():
    found = verdict(line(0.0, 0.0, 0.3, 0.3, 0.0), 4)
    assert found.state is Control.LOST
    assert found.sentence == "not obeyed any more (gain 0.000), was since step 600 (version_2)"
    assert (found.before, found.after) == (1, 2)  # which are kept all the same
    assert verdict(line(0.0, 0.0, 0.3, 0.3, 0.0, 0.3), 4).state is Control.OBEYED  # one version was the chance
    again = verdict(line(0.0, 0.3, 0.3, 0.0, 0.0, 0.3), 4)  # two were not
    assert again.state is Control.LOST
    assert again.sentence.startswith("perhaps obeyed again (gain 0.300), was")
    assert agreed(line(0.0, 0.3, 0.3, 0.0, 0.0, 0.3, 0.3)) == (5, True)


@pytest.mark.parametrize(
    ("gains", "after"),
    [
        ((0.0, 0.0, 0.0, 0.31, 0.33), 3),  # seen at once
        ((0.0, 0.002, 0.13, 0.30, 0.42, 0.44), 2),
        ((0.0, 0.0, 0.035, 0.13, 0.30, 0.42), 3),  # heard before it jumps
        ((0.0, 0.0, 0.04, 0.05, 0.05, 0.05, 0.06), 2),  # a weak condition is obeyed too
    ],
)
def test_the_jump_is_where_the_level_changes(gains, after):
    found = verdict(line(*gains), 16)
    assert found.state is Control.OBEYED
    assert (found.before, found.after) == (after - 1, after)


def test_where_there_is_nothing_before_no_jump_is_claimed():
    """A condition like the target itself: from the first step that is trained."""
    found = verdict(line(0.0, 0.6, 0.62, 0.61), 4)
    assert (found.state, found.before, found.after) == (Control.OBEYED, None, 1)
    assert found.sentence.startswith("obeyed by step 300 (version_1, the first measured after step 0), gain 0.610")
    assert verdict(line(0.3, 0.3), 4).sentence.startswith("obeyed from the first version on")


def test_the_jump_stays_where_it_was_while_the_gain_rises_on():
    gains = [0.0, 0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7]
    assert {verdict(line(*gains[:count]), 4).after for count in range(4, len(gains) + 1)} == {2}


def test_to_hear_is_one_thing_and_to_help_another():
    assert verdict(line(0.0, 0.0, gain(0.6), gain(0.6, 0.2)), 4).sentence == (
        "obeyed since step 600 (version_2), gain 0.600, and draws better than the base (benefit 0.200)"
    )
    worse = verdict(line(0.0, 0.0, gain(0.6, -0.9), gain(0.6, -0.4)), 4)
    assert worse.state is Control.HEARS
    assert worse.sentence == (
        "hears the condition since step 600 (version_2), gain 0.600, but draws worse than the base yet (benefit -0.400)"
    )
    assert (worse.best, worse.benefit) == (0, -0.4)
    alike = verdict(line(0.0, 0.0, gain(0.6), gain(0.6, 0.005)), 4)
    assert alike.sentence.endswith("gain 0.600, but draws no better than the base yet (benefit 0.005)")
    parts = gain(0.6, -0.4, benefit_by_band=(-2.5, -0.4, 0.5, 0.6))
    assert verdict(line(0.0, 0.0, parts, parts), 4).sentence.endswith(
        "(benefit -0.400: better in layout, worse in detail)"
    )
    assert verdict(line(0.0, gain(0.0, -3)), 4).sentence.endswith("; draws worse than the base (benefit -3.000)")


def test_a_base_that_is_destroyed_is_never_the_best():
    points = line(0.0, *[gain(0.7, -benefit) for benefit in (0.5, 2, 20, 20)])
    assert verdict(points, 4, by_benefit(points)).best == 0
    assert is_worn_out(points, 3)
    assert not is_worn_out(points, 4)


def test_what_rises_from_below_the_base_is_not_falling():
    """Quickstart, early: heard at once, worse than the base in detail, and better with each version."""
    points = line(0.0, *[gain(0.2 + place / 10, place / 5 - 1) for place in range(5)])
    assert verdict(points, 4, by_benefit(points)).state is Control.HEARS
    assert not is_worn_out(points, 2)
    assert verdict(points, 4).best == 0  # the base itself, for now


def test_falling_is_said_from_the_first_version_that_is_surely_worse_than_the_best():
    def judged(*gains, seen=lambda point: 0.0):
        points = line(*gains)
        return verdict(points, 4, by_benefit(points, seen))

    found = judged(0.0, 0.3, 0.5, 0.5, 0.4, 0.3)
    assert found.state is Control.FALLING
    assert found.sentence == "falling since version_4 (benefit 0.150, version_2 had 0.250)"
    assert judged(0.0, 0.3, 0.5, 0.4).state is Control.OBEYED  # one version may be chance
    assert judged(0.0, 0.3, 0.5, 0.49, 0.49).state is Control.OBEYED  # not surely worse
    rising = [gain(value, seen_benefit=value) for value in (0.3, 0.5, 0.4, 0.3)]
    over_fitted = judged(0.0, *rising, seen=lambda point: point.step)
    assert over_fitted.state is Control.FALLING
    assert over_fitted.sentence.startswith(
        "over-fitting since version_3: draws the pairs it is trained on better (benefit 0.300), others worse"
    )
    points = line(0.0, 0.3, 0.5, 0.4, 0.3)
    assert verdict(points, 4).state is Control.OBEYED  # no errors on record to compare


def test_versions_that_were_measured_on_other_examples_are_not_the_best_of_these():
    points = line(0.0, gain(0.9, 0.9, design="old"), gain(0.5, 0.3, design="new"), gain(0.5, 0.2, design="new"))
    assert verdict(points, 4).best == 2


def test_from_too_few_pairs_nothing_is_told_but_the_number():
    found = verdict(line(gain(0.0, pairs=3, p=1.0), gain(0.4, pairs=3, p=0.125), gain(0.4, pairs=3, p=0.125)), 4)
    assert found.state is Control.UNKNOWN
    assert found.sentence == "gain 0.400 on 3 held-out pairs, too few to tell whether it is obeyed: 10 can"
    assert found.gain == 0.4


def test_what_earlier_programs_measured_is_still_judged_as_they_did():
    old = [Gain(value, value - 0.01, value + 0.01, (value,) * 4, 80, 64) for value in (0.0, 0.0, 0.3, 0.31)]
    found = verdict([Point(place, place * 300, one) for place, one in enumerate(old)], 4)
    assert (found.state, found.sentence, found.best) == (
        Control.OBEYED,
        "obeyed since step 600 (version_2), gain 0.310",
        3,
    )


def test_where_a_run_went_back_the_other_branch_counts_no_more():
    abandoned = line(0.0, 0.0, 0.3, 0.4)
    anew = [Point(4, 600, gain(0.01)), Point(5, 900, gain(0.01))]
    assert [point.version for point in line_of([*abandoned, *anew])] == [0, 1, 4, 5]
    assert verdict([*abandoned, *anew], 4).state is Control.NOT_YET


def test_patience_begins_once_it_is_obeyed():
    assert not is_worn_out(line(*[0.0] * 20), 3)
    assert not is_worn_out(line(0.0, 0.3, 0.4, 0.39, 0.39), 3)
    assert is_worn_out(line(0.0, 0.3, 0.4, 0.39, 0.39, 0.38), 3)
    assert not is_worn_out(line(0.0, 0.3, 0.4, 0.39, 0.39, 0.41), 3)
    assert is_worn_out(line(0.0, 0.3, 0.4, 0.0, 0.0, 0.0), 3)  # and does not end with what is lost
    hears_more_and_draws_worse = [gain(0.4 + place / 10, 0.2 - place / 10) for place in range(4)]
    assert is_worn_out(line(0.0, *hears_more_and_draws_worse), 3)


def test_two_levels_in_one_pass_are_those_of_the_definition():
    chance = random.Random(0)
    for length in (1, 2, 7, 40):
        values = [chance.random() / 10 for _ in range(length)]
        for place, error in enumerate(_two_levels(values)):
            parts = [part for part in (values[:place], values[place:]) if part]
            expected = sum(sum((value - sum(part) / len(part)) ** 2 for value in part) for part in parts)
            assert error == pytest.approx(expected, abs=1e-12)


@pytest.mark.timeout(60)
def test_a_verdict_on_many_versions_does_not_take_their_square():
    """It is given after every version, while the training waits; once it looked at all of them for each of them."""
    found = verdict(line(*[0.0] * 20_000, *[0.3] * 20_000), 4)
    assert found.after == 20_000
