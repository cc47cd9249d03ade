"""What is remembered of a file: its row and its stamp; and the fingerprint that versions hold."""

import json
import os
from pathlib import Path

import pytest
import xxhash
from hypothesis import given
from hypothesis import strategies as st

from everstep.data import remembered
from everstep.data.checking import _fingerprint
from everstep.data.layouts.listing import Listed
from everstep.data.remembered import ImageFacts, Memory, stamp_of


@given(digest=st.binary(min_size=16, max_size=16), size=st.integers(1, 1 << 31), spread=st.floats(0, 255))
def test_facts_come_back_as_they_were(digest: bytes, size: int, spread: float) -> None:
    facts = ImageFacts(digest.hex(), size, 7, spread, "", digest * 6)
    told = remembered._told(b"a.png", bytes(24), facts)
    assert remembered._read(b"a.png", told) == facts
    assert remembered._read(b"b.png", told) is None
    assert remembered._read(b"a.png", told[:-1]) is None


@pytest.mark.parametrize("name", ["a\x00b.png", "\ud800.png", "x" * 5000])
def test_a_name_that_no_disk_takes_has_no_stamp(name: str, cache: Path) -> None:
    assert stamp_of(name) is None
    with Memory() as memory:
        assert memory.recall({name: bytes(24)}) == {}
        memory.remember(name, bytes(24), ImageFacts("0" * 32, 1, 1, 1.0, ""))


def test_a_time_that_does_not_fit_is_no_stamp(tmp_path: Path) -> None:
    (tmp_path / "late").write_text("")
    os.utime(tmp_path / "late", (0, 13_000_000_000))
    stamp = stamp_of(str(tmp_path / "late"))
    assert stamp is None or (tmp_path / "late").stat().st_mtime < 13_000_000_000


@given(st.lists(st.tuples(st.text(), st.text(min_size=1), st.text())))
def test_the_fingerprint_is_that_of_the_first_state(pairs: list[tuple[str, str, str]]) -> None:
    """Versions hold fingerprints; what is hashed may be written faster, but never otherwise."""
    usable = [Listed(1, *names) for names in pairs]
    facts = {
        name: ImageFacts(xxhash.xxh3_128_hexdigest(repr(name).encode()), 1, 1, 1.0, "")
        for pair in usable
        for name in (pair.target, pair.condition)
    }
    total = xxhash.xxh3_128()
    for pair in usable:
        digests = facts[pair.target].digest, facts[pair.condition].digest
        total.update(json.dumps((pair.target, digests[0], pair.condition, digests[1], pair.caption)).encode())
    assert _fingerprint(usable, facts) == f"xxh3-128:{total.hexdigest()}"
