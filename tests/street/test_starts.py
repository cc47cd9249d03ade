"""Habits and slips of whoever starts a training: each works, or one sentence says why and nothing is left behind."""

import pytest

from street import Everstep, Row, Street, read_golden, walk

ROWS = [
    Row("base_is_not_there", lambda street: street.train(base=street.folder / "bse")),
    Row("data_is_not_there", lambda street: street.train(data=street.folder / "pars")),
]


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_what_is_brought_works_or_one_sentence_says_why(row: Row, street: Street, everstep: Everstep) -> None:
    walk(row, "starts", street, everstep)


def test_every_message_has_its_row() -> None:
    assert set(read_golden("starts")) == {row.name for row in ROWS}
