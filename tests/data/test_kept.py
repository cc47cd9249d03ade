"""A list that was read before is not read again, and is the same; what it lists is still looked for on the disk."""

import json
import os
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from everstep.data import check
from everstep.data.checking import contents_of, looks_of
from everstep.data.layouts import detection, folder
from everstep.data.layouts.files import FolderFiles
from everstep.data.layouts.kept import packed, unpacked
from everstep.data.layouts.listing import Finding, Listed, Listing
from remembered_pairs import PAIRS, grow_old, picture, write_pairs

TEXT = st.text(st.characters(exclude_categories=()), max_size=8)  # halves of letters too
PAIR = st.builds(
    Listed,
    st.integers(1, 1 << 40),
    TEXT,
    TEXT,
    TEXT,
    st.lists(TEXT, max_size=2).map(tuple),
    st.lists(TEXT, max_size=2).map(tuple),
)
FINDINGS = st.lists(st.builds(Finding, st.integers(1, 9), TEXT, TEXT, st.sampled_from(["error", "warning"]), TEXT)).map(
    tuple
)


@given(st.lists(PAIR).map(tuple), FINDINGS, FINDINGS, st.booleans())
def test_a_listing_comes_back_as_it_was(
    pairs: tuple[Listed, ...], findings: tuple[Finding, ...], without: tuple[Finding, ...], is_captioned: bool
) -> None:
    files = FolderFiles(Path("/pairs"))
    listing = Listing("/pairs", "/pairs/list", "a list", pairs, findings, files, is_captioned, without, b"identity")
    again = unpacked(packed(listing), "/pairs", "/pairs/list", files, b"identity")
    assert again.is_recalled
    assert replace(again, is_recalled=False, is_distinct=False) == listing
    assert {type(pair) for pair in again.pairs} <= {Listed}
    names = [name for pair in pairs for name in (pair.target, *pair.conditions) if name]
    assert not again.is_distinct or len(set(names)) == len(names)


@pytest.fixture
def unread(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The lists whose text is read."""
    seen: list[Path] = []
    read = folder.read_entries

    def read_entries(path: Path, content: bytes) -> object:
        seen.append(path)
        return read(path, content)

    monkeypatch.setattr(folder, "read_entries", read_entries)
    return seen


def test_a_list_that_is_as_it_was_is_not_read_again(tmp_path: Path, cache: Path, unread: list[Path]) -> None:
    where = write_pairs(tmp_path / "pairs", PAIRS)
    grow_old()
    first = check(where)
    again = check(where, resolution=32)  # another resolution: other findings, the same list
    assert len(unread) == 1
    assert (again.usable, again.fingerprint, again.sizes) == (first.usable, first.fingerprint, first.sizes)
    assert len(again.findings) == PAIRS
    once_more = check(where, resolution=32)
    assert (once_more.usable, once_more.findings) == (again.usable, again.findings)
    assert once_more.looks is None
    assert looks_of(once_more) == first.looks
    assert contents_of(once_more) == contents_of(replace(once_more, identity=b""))
    assert len(unread) == 1


def test_another_list_or_another_wish_is_read(tmp_path: Path, cache: Path, unread: list[Path]) -> None:
    where = write_pairs(tmp_path / "pairs", PAIRS)
    grow_old()
    check(where)
    lines = (where / "metadata.jsonl").read_text().splitlines()
    turned = [json.loads(line) for line in lines]
    for line in turned:
        line["file_name"], line["conditioning_image"] = line["conditioning_image"], line["file_name"]
    (where / "metadata.jsonl").write_text("\n".join(map(json.dumps, turned)))
    assert check(where).usable[0].target == "0_lines.png"
    (where / "metadata.jsonl").write_text("\n".join(lines))
    columns = detection.Columns(target="conditioning_image", condition="file_name")
    assert check(where, columns=columns).usable[0].target == "0_lines.png"
    assert check(where).usable[0].target == "0.png"
    assert len(unread) == 4


def test_with_and_without_conditions_are_remembered_apart(tmp_path: Path, cache: Path) -> None:
    where = write_pairs(tmp_path / "pairs", PAIRS)
    grow_old()
    for _ in range(2):
        with_them, alone = check(where), check(where, needs_conditions=False)
        zeros = bytes(16 * PAIRS)
        assert contents_of(with_them)[0] == contents_of(alone)[0]
        assert contents_of(with_them)[1] != zeros == contents_of(alone)[1]
        assert with_them.fingerprint != alone.fingerprint
        assert looks_of(with_them) == looks_of(alone)


def test_a_file_that_has_another_name_now_is_found_by_it(tmp_path: Path, cache: Path, unread: list[Path]) -> None:
    where = write_pairs(tmp_path / "pairs", PAIRS)
    grow_old()
    assert check(where).usable[3].target == "3.png"
    os.rename(where / "3.png", where / "3.PNG")
    assert check(where).usable[3].target == "3.PNG"
    assert check(where).usable[3].target == "3.PNG"  # a name that was looked for is looked for at each start
    picture(3).save(where / "3.png")
    assert check(where).usable[3].target == "3.png"


def test_a_file_that_is_gone_is_named(tmp_path: Path, cache: Path) -> None:
    where = write_pairs(tmp_path / "pairs", PAIRS)
    grow_old()
    check(where)
    (where / "5_lines.png").unlink()
    assert [str(fault) for fault in check(where).errors] == ["line 6: 5_lines.png: is missing"]
