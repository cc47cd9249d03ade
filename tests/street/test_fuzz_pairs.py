"""Whatever a list of pairs holds: it is understood, or refused in words. Never a trace, never a hang."""

import json
import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from everstep.data import check
from everstep.data.counts import counted
from everstep.data.layouts.folder import LAYOUTS
from everstep.errors import UserError

KEYS = st.sampled_from([name for keys in LAYOUTS.values() for names in keys for name in names])
TEXTS = st.text(st.characters(codec=None), max_size=20)
VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | TEXTS
    | st.sampled_from(["a.png", "..", "/", "C:\\a.png"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS | TEXTS, inner, max_size=4),
    max_leaves=12,
)
OBJECTS = st.dictionaries(KEYS, VALUES, max_size=6)
LISTS = st.one_of(
    st.binary(max_size=300),
    st.binary(max_size=60).map(lambda some: b'{"file_name": "a.png", "text": "' + some + b'"}\n' * 3),
    st.lists(VALUES | OBJECTS, max_size=5).map(lambda some: "\n".join(map(json.dumps, some)).encode()),
    st.lists(OBJECTS, max_size=5).map(lambda some: json.dumps(some, indent=1).encode()),
    st.tuples(st.lists(OBJECTS, max_size=4), st.integers(0, 400), st.sampled_from(["utf-8", "utf-16", "utf-32"])).map(
        lambda some: json.dumps(some[0], indent=1).encode(some[2])[: some[1]]
    ),
    st.sampled_from(
        [
            b"[" * 200_000,
            b'{"a":' * 100_000,
            b'"' * 1_000_000,
            b"{\n" * 100_000,
            b"[{" + b",\n{" * 100_000,
            b"\x00{" * 9,
        ]
    ),
)


@pytest.mark.parametrize("layout", LAYOUTS)
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(content=LISTS)
def test_any_list_is_understood_or_refused_in_words(layout: str, content: bytes) -> None:
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        (folder / layout).write_bytes(content)
        try:
            report = check(folder)
        except UserError as refused:
            assert str(refused)
            return
    assert not report.usable  # there is no picture
    assert report.errors
    for finding in report.findings:
        assert str(finding).encode().decode().isprintable(), finding
    counted(report.findings)
