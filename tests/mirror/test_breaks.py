"""Places whose server dies, freezes, refuses, is full or slow, mirrors that are killed: nothing half is offered."""

import contextlib
import itertools
import os
import random
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from counting import Counting
from kinds import Kind, fill, folder_kind, s3_kind, sftp_kind
from sending import assert_offered_is_whole, large, quiet, sender
from servers import Sshd, Weed, start_weed
from slow_line import slow_line

from disks import small_disk
from everstep.errors import DiskFull, EverstepError, UnreachableDisk, UserError
from everstep.mirror import lease, s3, sftp
from everstep.mirror.addresses import place_of
from everstep.mirror.copies import Terms, send
from everstep.mirror.offered import versions_in
from everstep.mirror.rate import Rate
from everstep.versions import Run


@contextlib.contextmanager
def impatient() -> Iterator[None]:
    """Inside, a server that does not answer is given up within a second."""
    with pytest.MonkeyPatch.context() as patch:
        for module in (s3, sftp):
            patch.setattr(module, "TIMEOUT_S", 1.0)
        patch.setattr(s3, "GIVEN_UP_S", 1.0)
        patch.setattr(s3, "RETRIES", 0)
        yield


# --- servers that die, freeze, refuse, are full ------------------------------------------------------------

CALLS = 60  # of a send of three versions; every kind has more


def interrupted(run: Run, kind: Kind, at: int, happens: Callable[[], None]) -> bool:
    """Send, and let something happen to the server at a call. Returns whether that many were made."""
    with impatient():
        place = Counting(kind.place, lambda seen: happens() if seen == at else None)
    try:
        with impatient():
            send(run, place, Terms(), quiet)
    except EverstepError as error:
        assert isinstance(error, UnreachableDisk), error
        assert "Versions that are there are whole" in str(error)
    kind.come_back()
    assert_offered_is_whole(kind.place)
    return place.seen >= at


def forget(kind: Kind) -> None:
    place = kind.place
    for name in place.files(""):
        place.delete(name)


def calls(at_all: bool) -> Iterator[int]:
    """One of them, and in the slow suite one after the other, until there are no more."""
    yield from itertools.count(1) if at_all else [random.Random(1).randrange(1, CALLS)]


@pytest.mark.fault("a mirror's server that is killed or freezes, or its disk's power that is cut, at a call")
@pytest.mark.parametrize("happens", ["kill", "freeze"])
@pytest.mark.parametrize("at_all", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_a_server_that_dies_or_freezes_offers_nothing_half_and_the_next_send_goes_on(
    run: Run, kind: Kind, monkeypatch: pytest.MonkeyPatch, happens: str, at_all: bool
) -> None:
    if kind.name == "folder" and happens == "freeze":
        pytest.skip("a disk that hangs hangs whoever uses it; a training's mirrors are processes of their own")
    monkeypatch.setattr(lease, "LASTS_S", -1.0)  # what the one who was cut off has left
    for at in calls(at_all):
        if not interrupted(run, kind, at, getattr(kind.server, happens)):
            assert at > CALLS
            break
        outcome = send(run, kind.place, Terms(), quiet)
        assert {*outcome.sent, *outcome.there} == {0, 1, 2}
        assert assert_offered_is_whole(kind.place) == [0, 1, 2]
        forget(kind)
        next(run.layout.records.glob("mirror-*.json")).unlink(missing_ok=True)


@pytest.mark.fault("credentials that a mirror refuses")
def test_credentials_that_are_wrong_are_said_and_nothing_of_them_is_told(
    run: Run, kind: Kind, monkeypatch: pytest.MonkeyPatch
) -> None:
    if kind.name == "folder":
        pytest.skip("root may write into every folder")
    with monkeypatch.context() as patch:
        kind.refused(patch)
        with pytest.raises(UserError, match=r"refused|no key is taken") as said:
            send(run, kind.place, Terms(), quiet)
        assert "a-wrong-secret" not in str(said.value)
        with pytest.raises(UserError):
            versions_in(kind.place)
    assert versions_in(kind.place) == {}


def test_a_machine_whose_key_is_not_known_is_not_trusted(
    run: Run, sshd: Sshd, tmp_path: Path, credentials: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    kind = sftp_kind(sshd, tmp_path / "elsewhere")
    kind.refused(monkeypatch)
    (Path(os.environ["HOME"]) / ".ssh/known_hosts").write_text("")
    with pytest.raises(UserError, match="its key is not known yet; ssh to it once"):
        send(run, kind.place, Terms(), quiet)


@pytest.mark.fault("a mirror that is full")
@pytest.mark.parametrize("name", ["folder", "s3", "sftp"])
def test_a_place_that_is_full_offers_nothing_half_and_goes_on_when_there_is_room(
    run: Run,
    tmp_path: Path,
    request: pytest.FixtureRequest,
    credentials: None,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
) -> None:
    run.commit(large(30))
    with small_disk(tmp_path / "disk", "size=64m") as disk:
        weeds = start_weed(tmp_path / "weed", disk / "stored") if name == "s3" else iter(())
        if name == "s3":
            kind = s3_kind(next(weeds), "full")
        elif name == "sftp":
            sshd = request.getfixturevalue("sshd")
            monkeypatch.setenv("HOME", str(sshd.home))
            kind = sftp_kind(sshd, disk / "there")
        else:
            kind = folder_kind(disk)
        monkeypatch.setattr(s3, "RETRIES", 1)  # a server that is full says so each time
        ballast = fill(disk, 8 << 20)
        with pytest.raises((DiskFull, UnreachableDisk), match="the same line goes on"):
            send(run, kind.place, Terms(), quiet)
        assert 3 not in assert_offered_is_whole(kind.place)
        ballast.unlink()
        if name == "s3":
            kind.server.kill()  # a volume that met a full disk stays closed to writing until it is opened again
            kind.come_back()
        monkeypatch.setattr(lease, "LASTS_S", 0.0)
        send(run, kind.place, Terms(), quiet)
        assert assert_offered_is_whole(kind.place) == [0, 1, 2, 3]
        weeds.close() if name == "s3" else None


def test_no_more_is_sent_in_a_second_than_is_allowed(run: Run, kind: Kind) -> None:
    """9 MB at 9 MB/s: a second on the way there; what does not vouch for itself is read back, at the same rate."""
    send(run, kind.place, Terms(), quiet)
    run.commit(large(30))
    began = time.monotonic()
    send(run, kind.place, Terms(rate=Rate(9 << 20)), quiet)
    lasted = time.monotonic() - began
    assert lasted > (1 if kind.name == "s3" else 2) - 0.3
    assert assert_offered_is_whole(kind.place) == [0, 1, 2, 3]


@pytest.mark.fault("a line to a mirror that is slow")
@pytest.mark.slow
@pytest.mark.parametrize("kind", ["s3", "sftp"], indirect=True)
def test_a_slow_line_is_waited_for(run: Run, kind: Kind, monkeypatch: pytest.MonkeyPatch) -> None:
    """A request may take longer than one that gets no answer: 8 MB at once, of 4 MB/s."""
    run.commit(large(30))
    server = kind.server
    assert isinstance(server, Weed | Sshd)
    with slow_line(server.port, 6 << 20) as near, monkeypatch.context() as patch:
        patch.setattr(s3, "TIMEOUT_S", 10.0)
        if isinstance(server, Sshd):
            patch.setattr(sftp, "TIMEOUT_S", 1.0)
            server.know(near)
        place = place_of(kind.target.replace(str(server.port), str(near)), "r")
        began = time.monotonic()
        send(run, place, Terms(), quiet)
        assert time.monotonic() - began > 1.2
        assert assert_offered_is_whole(place) == [0, 1, 2, 3]


def test_names_of_any_kind_lead_to_what_was_put_under_them(kind: Kind) -> None:
    place = place_of(kind.target, "r ü?#%41")
    with place.alone(False):
        for name in ("a b.json", "ü.json", "x#y%25z?.json", "a+b~c", "v[1]{2}*.json", ".hidden", "e&f=g;h,i'j\"k<l>"):
            content = name.encode()
            place.put(f"deep/{name}", [content], len(content))
            assert place.read(f"deep/{name}") == b"".join(place.stream(f"deep/{name}", len(content))) == content
            assert (place.size(f"deep/{name}"), place.names("deep")) == (len(content), [name])
            assert place.files("deep") == {name: len(content)}
            place.delete(f"deep/{name}")
            assert (place.size(f"deep/{name}"), place.files("deep")) == (None, {})


# --- kill -9 of the mirror ---------------------------------------------------------------------------------


@pytest.mark.fault("kill -9 of a mirror at every call of its place")
@pytest.mark.parametrize("at_all", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_a_kill_at_a_call_offers_nothing_half_and_the_next_goes_on(run: Run, kind: Kind, at_all: bool) -> None:
    for at in calls(at_all):
        killed = sender(run, kind, at, 60.0)
        said = killed.communicate(timeout=60)[0]
        if at > CALLS and killed.returncode == 0:
            break
        assert killed.returncode == -signal.SIGKILL, said
        assert_offered_is_whole(kind.place)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(lease, "LASTS_S", -1.0)
            send(run, kind.place, Terms(), quiet)
        assert assert_offered_is_whole(kind.place) == [0, 1, 2]
        assert not [name for name in kind.place.files("") if name.endswith(".part") and "lease" not in name]
        forget(kind)
        next(run.layout.records.glob("mirror-*.json")).unlink()
