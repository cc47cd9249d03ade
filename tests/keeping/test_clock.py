"""The interval that a training finds: what is counted as a version's cost, and what is not."""

import pytest
from test_saver import Keeper, Make, saver_of
from training import Training

from everstep.contracts import Reason
from everstep.keeping import clock as clocks
from everstep.keeping import intervals
from everstep.keeping.clock import Clock
from everstep.keeping.intervals import DAY_S, Economy, daly
from everstep.versions import Run

ECONOMY = Economy()


class Steps:
    """Time passes as the test says."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, size_bytes: int | None = None) -> None:
        self.now, self.said = 0.0, list[str]()
        monkeypatch.setattr(clocks.time, "perf_counter", lambda: self.now)
        self.clock = Clock(ECONOMY, self.said.append, size_bytes)

    def steps(self, count: int, each_s: float, is_busy: bool = False) -> None:
        for _ in range(count):
            self.now += each_s
            self.clock.stepped(is_busy)

    def version(self, waited_s: float, busy_steps: int, each_s: float) -> None:
        with self.clock.waiting(makes=True):
            self.now += waited_s
        self.steps(busy_steps - 1, each_s, is_busy=True)
        self.clock.committed(1000, 0.5)
        self.steps(1, each_s)  # in which the disk had it


@pytest.fixture
def training(monkeypatch: pytest.MonkeyPatch) -> Steps:
    begun = Steps(monkeypatch)
    begun.steps(20, 0.1)
    return begun


def found_s(training: Steps) -> float:
    assert training.clock.interval is not None
    return training.clock.interval.seconds


def test_a_version_costs_what_training_waits_and_what_it_is_slower_by(training: Steps) -> None:
    assert found_s(training) == intervals.SHORTEST_S  # the first is made soon, to know what one costs
    training.version(waited_s=0.4, busy_steps=10, each_s=0.16)
    assert found_s(training) == pytest.approx(daly(0.4 + 10 * 0.06, ECONOMY.failures_s))
    assert training.said == [f"Versions {training.clock.interval.sentence}."]  # type: ignore[union-attr]


def test_what_somebody_asked_for_and_a_machine_that_slept_cost_nothing(training: Steps) -> None:
    with training.clock.waiting(is_cost=False):
        training.now += 50
    training.steps(1, 0.1)
    training.steps(1, 3600)
    training.version(waited_s=1.0, busy_steps=5, each_s=0.1)
    assert found_s(training) == pytest.approx(daly(1.0, ECONOMY.failures_s))


def test_one_version_that_a_busy_machine_made_dear_decides_nothing(training: Steps) -> None:
    for waited_s in (1.0, 1.0, 300.0):
        training.version(waited_s, busy_steps=3, each_s=0.1)
    assert found_s(training) == pytest.approx(daly(1.0, ECONOMY.failures_s))
    assert len(training.said) == 1


def test_it_is_said_again_only_where_it_has_changed_much(training: Steps) -> None:
    for waited_s in (0.1, 0.11, 0.12, 0.12, 0.12):
        training.version(waited_s, busy_steps=3, each_s=0.1)
    assert len(training.said) == 1
    for _ in range(3):
        training.version(0.5, busy_steps=3, each_s=0.1)
    assert len(training.said) == 2
    assert "costs 0.5 s" in training.said[-1]


def test_versions_that_are_too_large_to_be_made_often_wait_from_the_first_on(monkeypatch: pytest.MonkeyPatch) -> None:
    going_on = Steps(monkeypatch, size_bytes=ECONOMY.bytes_a_day // 48)
    assert found_s(going_on) == pytest.approx(DAY_S / 48)


def test_a_real_training_makes_versions_at_the_interval_that_it_finds(
    make: Make, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(intervals, "SHORTEST_S", 0.05)
    training: Training = make(slots=5)  # this keeper gives none back
    saver = saver_of(training, run, economy=Economy(mtbf_s=1e-3))  # so often that only the least interval counts
    keeper = Keeper(training, run, claims=3)
    keeper.start()
    made, has_said = 0, False
    while made < 3 or not has_said:  # on a busy machine what they cost is known after the last one alone
        training.train()
        saver.hear()
        has_said = any(said.startswith("Versions every") for said in training.said)
        if made < 3 and saver.is_due(training.state.step):
            saver.save(Reason.INTERVAL)
            made += 1
    saver.finish()
    keeper.join()
    assert [version.reason for version in run.versions()][-3:] == ["interval"] * 3
    assert saver.clock.interval is not None
    told = saver.clock.told(saver.due.saved_at)
    assert told["versions_every_s"] == saver.clock.interval.seconds
    assert 0 <= told["next_version_in_s"] <= told["versions_every_s"]
