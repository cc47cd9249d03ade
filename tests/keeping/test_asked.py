"""What is asked of a training, and how often it is done."""

import pytest

from everstep.keeping import asked
from everstep.keeping.asked import Asked
from everstep.keeping.interrupts import Interrupts
from everstep.versions import Run

SAVE = {"kind": "save"}


class Training:
    """Counts versions that were asked for, of steps."""

    def __init__(self, run: Run) -> None:
        self.step, self.saved = 0, list[int]()
        self.asked = Asked(run.layout, self._save, lambda: self.step in self.saved)

    def _save(self, label: str | None) -> None:
        self.saved.append(self.step)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [100.0]
    monkeypatch.setattr(asked.time, "monotonic", lambda: now[0])
    return now


def test_warnings_of_one_step_are_one_however_long_an_evaluation_takes(run: Run, clock: list[float]) -> None:
    training = Training(run)
    training.asked.by_keeper([SAVE])
    clock[0] += 10
    training.asked.by_keeper([SAVE, SAVE])
    assert training.saved == [0]
    training.step = 1
    training.asked.by_keeper([SAVE])
    assert training.saved == [0, 1]


def test_a_warning_that_keeper_and_program_hear_is_one(run: Run, clock: list[float]) -> None:
    training, interrupts = Training(run), Interrupts(print)
    training.asked.by_keeper([SAVE])
    training.step += 1
    interrupts.is_warned = True
    training.asked.by_signals(interrupts)
    assert training.saved == [0]
    assert not interrupts.is_warned
    clock[0] += 10
    interrupts.is_warned = True
    training.asked.by_signals(interrupts)
    assert training.saved == [0, 1]
