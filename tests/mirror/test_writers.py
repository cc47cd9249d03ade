"""Two who send to one place at once: they take turns, and where they do not, nothing is harmed."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from drafts import draft
from kinds import Kind
from sending import assert_offered_is_whole, bytes_of, large, quiet, sender

from everstep.errors import UserError
from everstep.mirror import claims, copies, lease
from everstep.mirror.backend import Place
from everstep.mirror.copies import Terms, send
from everstep.mirror.fetching import fetch
from everstep.versions import Run


def test_one_who_sends_keeps_the_others_out_whatever_the_clock_here_says(
    run: Run, kind: Kind, monkeypatch: pytest.MonkeyPatch
) -> None:
    with kind.place.alone(False):
        for off_s in (0.0, 10**7, -(10**7)):
            monkeypatch.setattr(time, "time", lambda off_s=off_s: 1.8e9 + off_s)
            with pytest.raises(UserError, match="Another process sends to"):
                send(run, kind.place, Terms(), quiet)
    assert send(run, kind.place, Terms(), quiet).sent == (0, 1, 2)


def test_a_lease_that_nobody_renews_is_taken_over_and_who_had_it_stops(
    run: Run, kind: Kind, monkeypatch: pytest.MonkeyPatch
) -> None:
    if kind.name == "folder":
        pytest.skip("a folder has locks, which die with their holder")
    monkeypatch.setattr(lease, "RENEWED_S", 0.1)
    with kind.place.alone(False) as still:
        still()
        kind.place.delete(lease.LEASE)
        kind.place.create(lease.LEASE, b"somebody else")
        for _ in range(50):
            time.sleep(0.1)
            try:
                still()
            except UserError as error:
                assert "taken over sending" in str(error)
                break
        else:
            pytest.fail("it went on")
    assert kind.place.read(lease.LEASE) == b"somebody else"
    monkeypatch.setattr(lease, "LASTS_S", 0.5)
    time.sleep(1.1)
    assert send(run, kind.place, Terms(), quiet).sent == (0, 1, 2)
    assert kind.place.read(lease.LEASE) is None


@pytest.mark.parametrize(
    "lasts_s",
    [pytest.param(60.0, id="taking turns", marks=pytest.mark.slow), pytest.param(-1.0, id="with a lease that fails")],
)
def test_several_who_send_at_once_harm_nothing(run: Run, kind: Kind, lasts_s: float) -> None:
    run.commit(large(30))
    senders = [sender(run, kind, 0, lasts_s, "wait") for _ in range(2)]
    said = [process.communicate(timeout=60)[0] for process in senders]
    assert assert_offered_is_whole(kind.place) == [0, 1, 2, 3], said
    if lasts_s > 0:
        assert [process.returncode for process in senders] == [0, 0], said


def test_two_who_went_on_from_one_run_never_write_into_each_others_version(
    run: Run, kind: Kind, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Even where the second begins before the first has its manifest there, and no lease keeps it out."""
    send(run, kind.place, Terms(), quiet)
    fetch(kind.place, tmp_path / "second", None)
    second = Run.open(tmp_path / "second")
    with second.lock("test"):
        second.commit(draft(31))
    run.commit(draft(30))
    tried: list[str] = []

    def begin_too(still: Callable[[], None]) -> None:
        if not tried:
            tried.append("now")
            with pytest.raises(UserError, match="has another version_3"):
                copies._Sending(second.version(3), kind.place, Terms(), lambda done, total: None).send(still)

    real = claims.claim_number

    def claim(place: Place, version: Any) -> None:
        real(place, version)
        if version.path.parent == run.path:
            begin_too(lambda: None)

    monkeypatch.setattr(copies, "claim_number", claim)
    assert send(run, kind.place, Terms(), quiet).sent == (3,)
    assert tried
    assert fetch(kind.place, tmp_path / "third", [3]) == [3]
    assert bytes_of(tmp_path / "third/version_3") == bytes_of(run.path / "version_3")
    with pytest.raises(UserError, match="has another version_3"):
        send(second, kind.place, Terms(), quiet)
