"""What whoever keeps a loop may say of how often versions are made, and what becomes of it."""

import pytest

from everstep.errors import UserError
from everstep.keeping.intervals import DAY_S, Economy
from everstep.keeping.settings import Settings
from everstep.keeping.terms import Terms
from everstep.versions import Run


def terms(every: object, every_s: float | None = None) -> Terms:
    return Terms.of("r", "", (every, every_s), Settings(overhead=0.02), None)  # type: ignore[arg-type]


def test_an_interval_may_be_left_to_be_found(run: Run) -> None:
    found, lent = terms("auto"), terms(Economy(mtbf_s=3600))
    assert found.economy == Economy()
    assert lent.making(run).economy == Economy(mtbf_s=3600)
    assert (found.every_steps, found.every_s) == (None, None)
    assert (found.settings.overhead, found.settings.deaths_s) == (0.02, 10 * DAY_S)
    assert lent.hello()["settings"]["deaths_s"] == 1200  # the keeper reads them, too
    said = terms(300, 60.0)
    assert (said.every_steps, said.every_s, said.economy, said.settings.deaths_s) == (300, 60.0, None, None)


@pytest.mark.parametrize(("every", "every_s"), [("often", None), ("auto", 60.0), (Economy(), 60.0)])
def test_what_is_no_interval_is_refused(every: object, every_s: float | None) -> None:
    with pytest.raises(UserError, match="is no interval: a number of steps, or 'auto' without every_s"):
        terms(every, every_s)
