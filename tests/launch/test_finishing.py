"""How long a training takes, and what its cache would: arithmetic on made-up measurements."""

import math
from dataclasses import replace
from typing import Any

import pytest

from everstep.config.load import resolve
from everstep.config.schema import Config
from everstep.evaluation.allowance import START_S
from everstep.keeping.intervals import daly
from everstep.launch.finishing import cache_cost, feeding, finish
from everstep.launch.plan import Plan
from everstep.train.measured import Built, Committed, Encoded, Evaluated, Fed, Measured, Steps

PLAN = Plan(
    run="runs/a", base="b", data="d", resolution=64, shapes=None, goes_on_from=None, refused=None, steps=1000,
    steps_left=1000, images_per_step=8, images_seen=8000, epochs=1.0, training_pairs=90, held_out_pairs=10,
    versions=11, interval=None, space=None, slots=3, arena_bytes=1, available_bytes=1, memory=None,
)  # fmt: skip


def config(**settings: Any) -> Config:
    given = {"optim.max_steps": 1000, "optim.batch_size": 8, "versions.every": 100, **settings}
    return resolve(None, {}, tuple(f"{name}={value}" for name, value in given.items()))


def measured(**parts: Any) -> Measured:
    given = {
        "built": Built("cpu", "fp32", 5.0, 1, None),
        "steps": Steps(9.0, 2.0, 3, 1),
        "evaluated": Evaluated(1.0, 3.0, True, 1),
        "committed": Committed(10, 7.0, 0.5, 1),
        "fed": [Fed(2, 16.0)],
    }
    return Measured(**{**given, **parts})


def test_all_that_it_takes_is_added_up() -> None:
    found = finish(config(), PLAN, measured())
    assert found is not None
    assert (found.step_s, found.steps_s, found.versions) == (2.0, 2000.0, 11)
    assert found.evaluations_s == 11 * 4.0
    assert found.writing_s == 2 * 7.0 + 9 * 0.5  # the first and the last are waited for
    assert found.snapshots_s == 0.01 * 2000
    assert found.seconds == 5.0 + 2000 + 44 + 18.5 + 20
    assert not found.is_behind


def test_control_gain_takes_no_more_than_its_share_unless_patience_rests_on_it() -> None:
    slow = measured(evaluated=Evaluated(100.0, None, True, 1))
    for settings, seconds in (({}, START_S + 0.02 * 2000), ({"scoring.patience": 3}, 1100)):
        found = finish(config(**settings), PLAN, slow)
        assert found is not None
        assert found.evaluations_s == seconds


def test_without_snapshots_every_version_is_waited_for() -> None:
    for settings, plan in (({}, replace(PLAN, slots=None)), ({"keeper.snapshots": "off"}, PLAN)):
        found = finish(config(**settings), plan, measured())
        assert found is not None
        assert (found.writing_s, found.snapshots_s, found.is_waiting) == (77.0, 0.0, True)


def test_a_disk_that_is_behind_is_told() -> None:
    found = finish(config(), PLAN, measured(committed=Committed(10, 250.0, 0.5, 1)))
    assert found is not None
    assert found.is_behind


@pytest.mark.parametrize(
    ("workers", "rate", "step_s"), [(2, 4.0, 2.0), (2, 2.0, 4.0), (0, 8.0, 3.0)], ids=["even", "slow", "in turn"]
)
def test_steps_wait_for_pictures(workers: int, rate: float, step_s: float) -> None:
    settings = config(**{"data.workers": workers})
    found = finish(settings, PLAN, measured(fed=[Fed(workers, rate), Fed(9, 100.0)]))
    fed = feeding(settings, measured(fed=[Fed(workers, rate)]))
    assert found is not None
    assert fed is not None
    assert found.step_s == step_s
    assert (fed.wanted, fed.given, fed.is_slow) == (4.0, rate, rate < 4.0)


def test_the_fewest_workers_that_are_enough_are_named() -> None:
    fed = feeding(config(), measured(fed=[Fed(2, 3.0), Fed(4, 5.0), Fed(8, 9.0)]))
    assert fed is not None
    assert (fed.enough, fed.best) == (Fed(4, 5.0), Fed(8, 9.0))


def test_versions_by_the_clock_are_counted_once_a_step_is_known() -> None:
    by_clock = replace(PLAN, versions=None)
    found = finish(config(**{"versions.every": "10min"}), by_clock, measured())
    assert found is not None
    assert found.versions == 1 + 4  # the first, and one in each ten minutes of 2,000 s


def test_an_interval_that_is_found_is_told_from_what_was_measured() -> None:
    auto = config(**{"versions.every": "auto", "keeper.mtbf": "1h"})
    found = finish(auto, replace(PLAN, versions=None), measured())
    assert found is not None
    assert found.interval is not None
    assert found.interval.seconds == pytest.approx(daly(0.5 + 3.0, 3600))  # its copy, and what is drawn at it
    assert found.versions == 1 + math.ceil(2000 / found.interval.seconds)
    assumed = finish(auto, replace(PLAN, versions=None), measured(committed=None))
    assert assumed is not None
    assert assumed.interval is not None
    assert finish(config(), PLAN, measured()).interval is None  # type: ignore[union-attr]


def test_where_only_the_first_step_was_timed_it_is_all_that_is_known() -> None:
    found = finish(config(), PLAN, measured(steps=Steps(130.0, 0.0, 0, 1), fed=[]))
    assert found is not None
    assert found.step_s == 130.0
    assert finish(config(), PLAN, measured(steps=None)) is None


def test_what_a_cache_takes() -> None:
    encoded, steps = Encoded(0.05, 1000, 0.01, 100), Steps(9.0, 2.0, 3, 1)
    plain = cache_cost(config(), PLAN, 21, encoded, steps)
    mirrored = cache_cost(config(**{"data.flip_probability": 0.5}), PLAN, 21, encoded, steps)
    assert (plain.pictures, plain.size_bytes) == (100, 100 * 1000 + 21 * 100)
    assert plain.seconds == pytest.approx(100 * 0.05 + 21 * 0.01)
    assert plain.share_of_step == pytest.approx(8 * 0.06 / 2.0)
    assert (mirrored.pictures, mirrored.size_bytes) == (200, 200 * 1000 + 21 * 100)
