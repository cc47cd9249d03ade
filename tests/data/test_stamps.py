"""What is remembered of a file: its row and its stamp; and the fingerprint that versions hold."""

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
import xxhash
from hypothesis import given
from hypothesis import strategies as st

from everstep import stamps
from everstep.data import remembered
from everstep.data.checking import _fingerprint
from everstep.data.layouts.listing import Listed
from everstep.data.remembered import ImageFacts, Memory
from everstep.stamps import stamp_of, stamps_of


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


def test_many_files_are_asked_for_by_processes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = [f"{number:03d} \u00e9\udcff.png" for number in range(50)]
    for name in names:
        (tmp_path / name).write_bytes(os.fsencode(name))
    (tmp_path / "elsewhere").write_text("")
    names[7:7] = ["gone.png", str(tmp_path / "elsewhere"), "x" * 5000]
    expected = [stamp_of(name if name.startswith("/") else f"{tmp_path}/{name}") for name in names]
    assert expected.count(None) == 2
    alone = b"".join(stamps_of(str(tmp_path), names))
    begun = started(monkeypatch)
    assert b"".join(stamps_of(str(tmp_path), names)) == alone == b"".join(one or stamps.NO_STAMP for one in expected)
    assert len(begun) == 3
    assert all(child.returncode == 0 for child in begun)


@pytest.mark.parametrize("words", [["false"], ["head", "-c", "30", "/dev/zero"], ["/nowhere"]])
def test_what_processes_do_not_answer_is_asked_for_here(
    words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = [f"{number}.png" for number in range(50)]
    for name in names[:40]:
        (tmp_path / name).write_bytes(os.fsencode(name))
    alone = b"".join(stamps_of(str(tmp_path), names))
    started(monkeypatch, words)
    assert b"".join(stamps_of(str(tmp_path), names)) == alone


@pytest.mark.parametrize("odd", ["a\x00b.png", "\ud800.png"])
def test_a_name_that_no_process_takes_is_asked_for_here(
    odd: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a.png").write_text("")
    started(monkeypatch)
    told = b"".join(stamps_of(str(tmp_path), ["a.png", odd, "a.png"]))
    assert told == (stamp_of(str(tmp_path / "a.png")) or b"") + stamps.NO_STAMP + told[:24]


def test_who_asks_no_further_leaves_no_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    begun = started(monkeypatch)
    asked = stamps_of(str(tmp_path), ["a.png"] * 50)
    next(asked)
    asked.close()
    assert all(child.returncode is not None for child in begun)


def started(monkeypatch: pytest.MonkeyPatch, words: list[str] | None = None) -> "list[subprocess.Popen[bytes]]":
    """The processes that are begun from now on, for however few names; of other words, if they are given."""
    begun: list[subprocess.Popen[bytes]] = []
    popen = subprocess.Popen

    def start(own: list[str], **how: Any) -> "subprocess.Popen[bytes]":
        begun.append(popen(words or own, **how))
        return begun[-1]

    monkeypatch.setattr(stamps, "FEW", 0)
    monkeypatch.setattr(stamps.os, "cpu_count", lambda: 3)
    monkeypatch.setattr(stamps.subprocess, "Popen", start)
    return begun
