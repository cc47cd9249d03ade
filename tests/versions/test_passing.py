"""What passes by is found to be what was committed, or not, however it is cut into pieces."""

import itertools

import pytest
from drafts import OPTIMIZER, WEIGHTS
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from everstep.errors import DamageFound
from everstep.versions import Run, Version, verify
from everstep.versions.passing import Passing, passing
from everstep.versions.verify import load_digests

FILES = (WEIGHTS, OPTIMIZER, "training/state.json")
CUTS = st.lists(st.integers(0, 20_000), max_size=12)
LAWS = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def passed(version: Version, path: str, content: bytes, cuts: list[int]) -> list[str]:
    digests = load_digests(version.path, version.files)
    check = Passing(path, version.files[path], digests.get(path, {}))
    places = sorted({0, len(content), *(cut % (len(content) + 1) for cut in cuts)})
    for begin, end in itertools.pairwise(places):
        check.feed(content[begin:end])
    return [str(fault) for fault in check.end()]


@LAWS
@given(st.sampled_from(FILES), CUTS)
def test_what_was_committed_passes_whole(run: Run, path: str, cuts: list[int]) -> None:
    version = run.version(2)
    assert passed(version, path, (version.path / path).read_bytes(), cuts) == []


@LAWS
@given(st.sampled_from(FILES), CUTS, st.integers(0, 20_000), st.integers(1, 255))
def test_one_byte_that_is_another_is_found_as_verify_finds_it(
    run: Run, path: str, cuts: list[int], place: int, turned: int
) -> None:
    version = run.version(1)
    file = version.path / path
    before = file.read_bytes()
    content = bytearray(before)
    content[place % len(content)] ^= turned
    file.chmod(0o644)
    file.write_bytes(content)
    try:
        expected = [str(fault) for fault in verify(version)]
    finally:
        file.write_bytes(before)
    found = passed(version, path, bytes(content), cuts)
    assert found
    assert found == expected[: len(found)]


@pytest.mark.parametrize("path", FILES)
@pytest.mark.parametrize(("most", "more"), [(0, b""), (5, b""), (-1, b""), (None, b"\0"), (None, bytes(9000))])
def test_what_is_longer_or_shorter_is_found(run: Run, path: str, most: int | None, more: bytes) -> None:
    version = run.version(0)
    assert passed(version, path, (version.path / path).read_bytes()[:most] + more, [7, 100])


def test_what_is_wrong_is_raised_before_the_end(run: Run) -> None:
    version = run.version(0)
    content = bytearray((version.path / WEIGHTS).read_bytes())
    content[-1] ^= 1
    check = Passing(WEIGHTS, version.files[WEIGHTS], load_digests(version.path, version.files)[WEIGHTS])
    with pytest.raises(DamageFound, match=r"c\.half fails its digest"):
        list(passing(check, [bytes(content)]))


def test_a_length_that_is_nonsense_takes_no_memory(run: Run) -> None:
    version = run.version(0)
    assert passed(version, WEIGHTS, b"\xff" * 8 + bytes(10), []) != []
