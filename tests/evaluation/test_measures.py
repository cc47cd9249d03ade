"""How sure a mean over pictures is, and what is said where there are too few of them."""

import math
import subprocess
import sys
from statistics import NormalDist

import numpy as np
import pytest

from everstep.errors import UserError
from everstep.evaluation.pictures.measures import Drawn, Measure, Measured, interval_of_mean, mean_of, middle, resamples

ROUNDS = 400
POPULATIONS = {
    "as an IoU, near 1 with a tail": (lambda draws, n: draws.beta(5, 1, n), 5 / 6),
    "some obey, some do not": (
        lambda draws, n: np.where(draws.random(n) < 0.3, draws.beta(2, 8, n), draws.beta(20, 3, n)),
        0.3 * 0.2 + 0.7 * 20 / 23,
    ),
    "normal": (lambda draws, n: draws.normal(size=n), 0.0),
}


@pytest.mark.parametrize("name", POPULATIONS)
@pytest.mark.parametrize(("pictures", "lowest"), [(8, 0.89), (16, 0.925), (64, 0.925)])
def test_the_interval_holds_the_mean_about_as_often_as_it_says(name, pictures, lowest):
    draw, mean = POPULATIONS[name]
    draws, times = np.random.default_rng(5), resamples(pictures)
    found = [middle(times @ draw(draws, pictures) / pictures, pictures) for _ in range(ROUNDS)]
    assert lowest <= sum(low <= mean <= high for low, high in found) / ROUNDS <= 0.985


@pytest.mark.parametrize(
    ("pictures", "student_t", "within"), [(4, 3.1824, 0.15), (8, 2.3646, 0.03), (31, 2.0423, 0.01)]
)
def test_the_percentiles_are_those_of_the_expanded_interval(pictures, student_t, within):
    tail = NormalDist().cdf(-student_t * math.sqrt(pictures / (pictures - 1)))
    assert middle(np.linspace(0, 1, 100_001), pictures) == pytest.approx((tail, 1 - tail), rel=within)


def test_the_interval_of_few_reaches_as_far_as_they_do_and_one_has_none():
    low, high = interval_of_mean([0.2, 0.9, 0.8, 0.7])
    assert (low, high) == pytest.approx((0.2, 0.9), abs=0.02)
    assert interval_of_mean([0.7]) is None
    assert interval_of_mean([0.5] * 9) == pytest.approx((0.5, 0.5))


def test_the_interval_is_the_same_in_another_process():
    values = np.random.default_rng(0).random(12).tolist()
    asked = f"from everstep.evaluation.pictures.measures import *; print(interval_of_mean({values}))"
    told = subprocess.run([sys.executable, "-c", asked], capture_output=True, text=True, check=True).stdout
    assert told.strip() == str(interval_of_mean(values))


def test_a_mean_over_pictures_keeps_each_of_its_values():
    drawn = Drawn([np.zeros((4, 4, 3), np.uint8)] * 3, [], [], range(3), [])
    measured = mean_of(lambda drawn: [0.1, 0.2, 0.6])(drawn)
    assert measured.each == (0.1, 0.2, 0.6)
    assert measured.value == pytest.approx(0.3)
    assert measured.interval[0] < 0.3 < measured.interval[1]


def test_what_fits_the_number_of_pictures_is_measured_or_the_number_that_would_do_is_said():
    kid = Measure("kid", lambda drawn: Measured(0.0), fewest=16)
    fid = Measure("fid", lambda drawn: Measured(1.0), fewest=2049, otherwise=kid)
    assert [fid.fitting(count).name for count in (16, 2048, 2049)] == ["kid", "kid", "fid"]
    assert fid.fewest_of_any == 16
    with pytest.raises(UserError, match=r"kid needs 16 drawn pictures, not 15; everstep score --pairs 16"):
        fid.fitting(15)
