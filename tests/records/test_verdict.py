"""One sentence about a line of versions."""

import pytest

from everstep.records.verdict import Control, Point, is_worn_out, jump, line_of, verdict


def line(*gains, width=0.01, first=0, every=300):
    return [
        Point(first + place, (first + place) * every, gain, gain - width, gain + width)
        for place, gain in enumerate(gains)
    ]


def test_nothing_measured_is_said_to_be_nothing():
    assert verdict([], 4).state is Control.UNKNOWN


def test_before_the_jump_it_says_not_yet_and_until_when_that_is_normal():
    found = verdict(line(0.0, 0.001, 0.012), 4)
    assert found.state is Control.NOT_YET
    assert found.sentence == "not yet obeyed (gain 0.012, normal before about 6,000 steps at batch 4)"
    assert found.after is None
    late = verdict(line(0.0, 0.001, 0.012, every=6_000), 4)
    assert late.sentence == "not yet obeyed (gain 0.012)"


@pytest.mark.parametrize(
    ("gains", "after"),
    [
        ((0.0, 0.0, 0.0, 0.31), 3),  # seen at once
        ((0.0, 0.002, 0.13, 0.30, 0.42, 0.44), 2),
        ((0.0, 0.0, 0.035, 0.13, 0.30, 0.42), 3),  # the last of the flat part is not the jump, though above 0
        ((0.2, 0.22, 0.25), 0),  # started from a ControlNet that obeys
        ((0.0, 0.04, 0.05, 0.05, 0.05, 0.06), 1),  # a weak condition is obeyed too
    ],
)
def test_the_jump_is_where_the_level_changes(gains, after):
    found = verdict(line(*gains), 16)
    assert found.state is Control.OBEYED
    assert found.after == after
    assert found.before == (after - 1 if after else None)
    assert found.since_step == after * 300


def test_the_sentence_names_step_and_version():
    found = verdict(line(0.0, 0.0, 0.3, 0.31), 4)
    assert found.sentence == "obeyed since step 600 (version_2), gain 0.310"
    assert found.best == 3


def test_one_lucky_measurement_whose_interval_reaches_to_nothing_is_no_jump():
    assert jump(line(0.0, 0.0, 0.04, 0.0, width=0.03)) is None


def test_the_jump_stays_where_it_was_while_the_gain_rises_on():
    gains = [0.0, 0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7]
    assert {jump(line(*gains[:count])) for count in range(3, len(gains) + 1)} == {2}


def test_falling_is_said_from_the_first_version_that_is_clearly_below_the_best():
    found = verdict(line(0.0, 0.3, 0.5, 0.5, 0.4, 0.3), 4)
    assert found.state is Control.FALLING
    assert found.sentence.startswith("falling since version_4")
    assert verdict(line(0.0, 0.3, 0.5, 0.4), 4).state is Control.OBEYED  # one version may be chance
    assert verdict(line(0.0, 0.3, 0.5, 0.0, 0.0), 4).state is Control.FALLING


def test_where_a_run_went_back_the_other_branch_counts_no_more():
    abandoned = line(0.0, 0.0, 0.3, 0.4)
    anew = [Point(4, 600, 0.01, 0.0, 0.02), Point(5, 900, 0.01, 0.0, 0.02)]
    assert [point.version for point in line_of([*abandoned, *anew])] == [0, 1, 4, 5]
    assert verdict([*abandoned, *anew], 4).state is Control.NOT_YET


def test_patience_begins_with_the_jump():
    assert not is_worn_out(line(*[0.0] * 20), 3)
    assert not is_worn_out(line(0.0, 0.3, 0.4, 0.39, 0.39), 3)
    assert is_worn_out(line(0.0, 0.3, 0.4, 0.39, 0.39, 0.38), 3)
    assert not is_worn_out(line(0.0, 0.3, 0.4, 0.39, 0.39, 0.41), 3)


def test_where_the_first_versions_were_not_measured_since_when_is_not_known():
    first = [Point(3, 900, 0.3, 0.28, 0.32)]
    assert verdict(first, 4).sentence == "obeyed by step 900 (version_3, the first that was measured), gain 0.300"
    assert verdict(line(0.3, 0.3), 4).sentence.startswith("obeyed from the first version on")
