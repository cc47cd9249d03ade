"""What every place for copies has to do, each of them real: a disk, SeaweedFS, OpenSSH."""

import contextlib
import itertools
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import obstore
import pytest
from counting import Counting
from drafts import ArrayTensor, draft
from kinds import Kind, fill, folder_kind, rot, s3_kind, sftp_kind
from servers import SECRET, Sshd, Weed, start_weed
from serving import wait_for
from slow_line import slow_line

from disks import small_disk
from everstep.contracts import TensorFile
from everstep.errors import DamageFound, DiskFull, EverstepError, UnreachableDisk, UserError
from everstep.mirror import claims, copies, lease, s3, sftp
from everstep.mirror.addresses import place_of
from everstep.mirror.backend import Place
from everstep.mirror.copies import Terms, send
from everstep.mirror.fetching import fetch, find
from everstep.mirror.offered import faults_in, offer, versions_in
from everstep.mirror.rate import Rate
from everstep.versions import Run, fsops, write_annotation
from everstep.versions.layout import identity_of
from everstep.versions.retention import Policy

WEIGHTS = "controlnet/weights.safetensors"
LARGE_BYTES = 9 << 20  # two parts


def quiet(text: str) -> None:
    """Hears, and says nothing."""


def large(step: int) -> Any:
    """A version with a file of several parts."""
    whole = draft(step)
    array = np.random.default_rng(step).integers(0, 256, LARGE_BYTES, np.uint8)
    whole.tensor_files.append(TensorFile("training/large.safetensors", {"large": ArrayTensor(array)}))
    return whole


def bytes_of(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def assert_offered_is_whole(place: Place) -> list[int]:
    """What is offered there verifies. Returns its numbers."""
    there = offer(place)
    assert there.damaged == {}
    assert [fault for offered in there.whole.values() for fault in faults_in(place, offered)] == []
    return sorted(there.whole)


@contextlib.contextmanager
def impatient() -> Iterator[None]:
    """Inside, a server that does not answer is given up within a second."""
    with pytest.MonkeyPatch.context() as patch:
        for module in (s3, sftp):
            patch.setattr(module, "TIMEOUT_S", 1.0)
        patch.setattr(s3, "GIVEN_UP_S", 1.0)
        patch.setattr(s3, "RETRIES", 0)
        yield


# --- sent, and back ----------------------------------------------------------------------------------------


def test_what_is_there_is_what_was_committed_and_comes_back(run: Run, kind: Kind, tmp_path: Path) -> None:
    run.commit(large(30))
    write_annotation(run.layout, 1, labels=("good",), pinned=True)
    outcome = send(run, kind.place, Terms(), quiet)
    assert (outcome.sent, outcome.there, outcome.up_to) == ((0, 1, 2, 3), (), 3)
    for name, content in bytes_of(run.path / "version_1").items():
        assert kind.place.read(f"version_1/{name}") == content
    assert send(run, kind.place, Terms(), quiet).there == (0, 1, 2, 3)
    assert assert_offered_is_whole(kind.place) == [0, 1, 2, 3]
    assert fetch(kind.place, tmp_path / "back", None) == [0, 1, 2, 3]
    back = Run.open(tmp_path / "back")
    assert bytes_of(back.path / "version_3") == bytes_of(run.path / "version_3")
    assert identity_of(back.path) == identity_of(run.path)
    assert back.annotation(1).labels == ("good",)
    assert fetch(kind.place, back.path, None) == []


def test_a_copy_is_found_by_what_it_would_be_called_in_its_run(run: Run, kind: Kind) -> None:
    write_annotation(run.layout, 1, labels=("good",))
    send(run, kind.place, Terms(), quiet)
    named = {None: 2, "latest": 2, "-2": 1, "0": 0, "version_0": 0, "good": 1}
    assert {spec: find(kind.place, spec) for spec in named} == named
    for spec in ("9", "-4", "version_9", "bad", "best"):
        with pytest.raises(UserError, match=f"has no version {spec}. It has 0, 1, 2"):
            find(kind.place, spec)
    for path in kind.place.files("version_2/training"):
        kind.place.delete(f"version_2/training/{path}")
    assert find(kind.place, None) == 1


def test_a_folder_that_is_not_there_is_not_made(run: Run, kind: Kind) -> None:
    if kind.name == "s3":
        pytest.skip("a bucket has no folders")
    with pytest.raises(UnreachableDisk, match=r"No such file|there is no folder .*/nowhere there"):
        send(run, place_of(f"{kind.target}/nowhere", "r"), Terms(), quiet)
    assert kind.place.names() == []


def test_only_what_is_new_is_written(run: Run, kind: Kind) -> None:
    send(run, kind.place, Terms(), quiet)
    run.commit(draft(30))
    write_annotation(run.layout, 0, labels=("first",))
    written: list[str] = []
    place = kind.place
    put = place.put
    place.put = lambda name, *more: (written.append(name), put(name, *more))[1]  # type: ignore[method-assign]
    send(run, place, Terms(), quiet)
    ours = {name.split("/")[0] for name in written} - {lease.LEASE}
    assert ours == {"version_3", "log.jsonl", "records"}
    assert kind.place.read("records/version_0.json") == run.layout.annotation(0).read_bytes()


def test_s3_vouches_for_what_it_stores_so_that_nothing_is_read_back(
    run: Run, kind: Kind, monkeypatch: pytest.MonkeyPatch
) -> None:
    run.commit(large(30))
    place = kind.place
    read: list[str] = []
    stream = place.stream
    place.stream = lambda name, *more: (read.append(name), stream(name, *more))[1]  # type: ignore[method-assign]
    send(run, place, Terms(), quiet)
    assert ("version_3/training/large.safetensors" in read) == (kind.name != "s3")
    assert len(read) == (0 if kind.name == "s3" else 4 * 5 + 1)


def test_a_slim_mirror_has_the_weights_alone_and_whole_ones_are_refused_there(
    run: Run, kind: Kind, tmp_path: Path
) -> None:
    send(run, kind.place, Terms(is_slim=True), quiet)
    assert assert_offered_is_whole(kind.place) == [0, 1, 2]
    assert not [name for name in kind.place.files("version_2") if name.startswith("training/")]
    assert fetch(kind.place, tmp_path / "back", [2]) == [2]
    assert not Run.open(tmp_path / "back").version(2).resumable
    with pytest.raises(UserError, match="holds slim copies, and whole copies were asked for"):
        send(run, kind.place, Terms(), quiet)


def test_the_verbs_send_look_read_and_fetch(
    everstep: Callable[..., Any], run: Run, kind: Kind, workplace: Path
) -> None:
    sent = everstep("mirror", "r", kind.target, "--rate", "50MB", "--keep", "last 2")
    assert (sent.code, f"mirrored up to version_2 in {kind.mirror}" in sent.out) == (0, True), sent.out
    assert "version_1  yes   yes" in everstep("mirror", "status", "r", kind.target).out
    assert everstep("mirror", "verify", kind.mirror).out.count("whole") == 2
    pulled = everstep("mirror", "pull", kind.mirror, "--to", "back", "--version", "2")
    assert (pulled.code, "version_2 fetched to back" in pulled.out) == (0, True), pulled.out
    assert bytes_of(workplace / "back/version_2") == bytes_of(run.path / "version_2")
    rot(kind.place, f"version_1/{WEIGHTS}")
    checked = everstep("mirror", "verify", kind.mirror)
    assert (checked.code, "c.half" in checked.out) == (1, True), checked.out


@pytest.mark.parametrize("kind", ["s3"], indirect=True)
def test_a_training_keeps_an_address_up_and_a_bare_machine_goes_on_from_it(
    everstep: Callable[..., Any], kind: Kind, tiny_base: Path, pairs_folder: Path, workplace: Path
) -> None:
    words = ("--base", tiny_base, "--data", pairs_folder, "--optim.batch-size", 2, "--versions.every", 2)
    more = ("--sampling.pairs", 0, "--scoring.overhead", 0, "--optim.max-steps", 4, "--keep.everything")
    assert everstep("train", "--run", "r", *words, *more, "--mirror.targets", kind.target).code == 0
    wait_for(lambda: sorted(versions_in(kind.place)) == [0, 1, 2] and kind.place.read(lease.LEASE) is None)
    straight = bytes_of(workplace / "runs/r/version_2")
    (workplace / "runs").rename(workplace / "lost")
    gone_on = everstep("resume", kind.mirror, "--set", "optim.max_steps=6")
    assert gone_on.code == 0, gone_on.out
    assert "version_2 fetched to runs/r" in gone_on.out
    back = Run.open(workplace / "runs/r")
    assert (back.find("latest").step, bytes_of(back.path / "version_2")) == (6, straight)
    wait_for(lambda: sorted(versions_in(kind.place)) == [0, 1, 2, 3])
    assert SECRET not in back.layout.hparams.read_text() + gone_on.out


@pytest.mark.fault("a mirror that is away")
@pytest.mark.parametrize("kind", ["sftp"], indirect=True)
def test_an_address_that_is_away_costs_a_training_nothing_and_is_caught_up_with(
    everstep: Callable[..., Any], kind: Kind, tiny_base: Path, pairs_folder: Path, workplace: Path
) -> None:
    words = ("--base", tiny_base, "--data", pairs_folder, "--optim.batch-size", 2, "--versions.every", 1)
    more = ("--sampling.pairs", 0, "--scoring.overhead", 0, "--optim.max-steps", 6, "--keep.last", 1)
    kind.server.kill()
    ended = everstep("train", "--run", "r", *words, *more, "--mirror.targets", kind.target)
    assert (ended.code, ended.out.count(f"The mirror in {kind.target} failed") <= 1) == (0, True), ended.out
    made = [version.number for version in Run.open(workplace / "runs/r").versions()]
    assert (made[:4], len(made) > 4) == ([0, 1, 2, 3], True)
    kind.come_back()
    assert everstep("mirror", "r", kind.target, "--wait").code == 0
    assert assert_offered_is_whole(kind.place) == made
    assert "Dropped" in everstep("prune", "r").out


# --- what rots, and what is left of a break ----------------------------------------------------------------


@pytest.mark.fault("a bit that turns in a mirror")
def test_a_rotten_object_is_found_and_not_fetched(run: Run, kind: Kind, tmp_path: Path) -> None:
    send(run, kind.place, Terms(), quiet)
    rot(kind.place, f"version_2/{WEIGHTS}")
    found = [str(fault) for fault in faults_in(kind.place, offer(kind.place).whole[2])]
    assert found == [f"{WEIGHTS}: c.half fails its digest"]
    with pytest.raises(DamageFound, match="copy of version_2"):
        fetch(kind.place, tmp_path / "back", None)
    assert [version.number for version in Run.open(tmp_path / "back").versions()] == [0, 1]


@pytest.mark.fault("a mirror's manifest that rots")
def test_a_rotten_manifest_is_said_and_the_others_are_sent(run: Run, kind: Kind) -> None:
    send(run, kind.place, Terms(), quiet)
    rot(kind.place, "version_1/manifest.json")
    run.commit(draft(30))
    outcome = send(run, kind.place, Terms(), quiet)
    assert (outcome.sent, outcome.there, [number for number, _ in outcome.damaged]) == ((3,), (0, 2), [1])


def test_what_an_earlier_send_has_left_is_read_and_not_believed(run: Run, kind: Kind) -> None:
    size = (run.path / "version_0" / WEIGHTS).stat().st_size
    kind.place.put(f"version_0/{WEIGHTS}", [bytes(size)], size)
    assert send(run, kind.place, Terms(), quiet).sent == (0, 1, 2)
    assert assert_offered_is_whole(kind.place) == [0, 1, 2]


@pytest.mark.fault("a mirror that stores something else than it was sent")
@pytest.mark.parametrize(("longer_than", "whole"), [(4000, []), (100_000, [0, 1, 2])], ids=["one part", "several"])
def test_what_a_place_stores_wrongly_is_not_offered(
    run: Run, kind: Kind, monkeypatch: pytest.MonkeyPatch, longer_than: int, whole: list[int]
) -> None:
    """Whatever stands between us and what is stored: a proxy, a cable, a disk."""
    run.commit(large(30))

    def turned(piece: Any) -> bytes:
        content = bytearray(piece)
        if len(content) > longer_than:
            content[-1] ^= 1
        return bytes(content)

    put, write_all, write = obstore.put, fsops.write_all, sftp.SFTP._write

    def put_wrongly(store: Any, name: str, content: Any, **more: Any) -> Any:
        pieces = turned(content) if isinstance(content, bytes) else map(turned, content)
        return put(store, name, pieces, **more)

    with monkeypatch.context() as patch:
        patch.setattr(obstore, "put", put_wrongly)
        patch.setattr(fsops, "write_all", lambda descriptor, pieces: write_all(descriptor, map(turned, pieces)))
        patch.setattr(sftp.SFTP, "_write", lambda self, file, piece: write(self, file, memoryview(turned(piece))))
        with pytest.raises(UnreachableDisk, match="does not give back what was sent"):
            send(run, kind.place, Terms(), quiet)
    assert assert_offered_is_whole(kind.place) == whole
    send(run, kind.place, Terms(), quiet)
    assert assert_offered_is_whole(kind.place) == [0, 1, 2, 3]


def test_a_version_that_is_damaged_here_is_not_offered_there(run: Run, kind: Kind) -> None:
    path = run.path / "version_1" / WEIGHTS
    path.chmod(0o644)
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    outcome = send(run, kind.place, Terms(), quiet)
    assert (outcome.sent, [number for number, _ in outcome.damaged]) == ((0, 2), [1])
    assert kind.place.size(f"version_1/{WEIGHTS}") is None
    assert assert_offered_is_whole(kind.place) == [0, 2]


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
    """Some of them, and in the slow suite one after the other, until there are no more."""
    yield from itertools.count(1) if at_all else sorted(random.Random(1).sample(range(1, CALLS), 3))


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


# --- two who write -----------------------------------------------------------------------------------------


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


SENDER = """
import os, signal, sys
sys.path[:0] = {paths!r}
from pathlib import Path
from counting import Counting
from everstep.mirror import lease
from everstep.mirror.addresses import place_of
from everstep.mirror.copies import Terms, send
from everstep.versions import Run
at, lease.LASTS_S = int(sys.argv[3]), float(sys.argv[4])
place = Counting(place_of(sys.argv[2], "r"), lambda seen: os.kill(os.getpid(), signal.SIGKILL) if seen == at else None)
send(Run.open(Path(sys.argv[1])), place, Terms(may_wait=sys.argv[5:] == ["wait"]), print)
"""


def sender(run: Run, kind: Kind, at: int, lasts_s: float, *more: str) -> "subprocess.Popen[str]":
    """In a process of its own, killed at a call; 0 for none."""
    paths = [str(Path(__file__).parent), str(Path(__file__).parents[1] / "versions")]
    words = [sys.executable, "-c", SENDER.format(paths=paths), str(run.path), kind.target, str(at), str(lasts_s), *more]
    return subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


@pytest.mark.parametrize("lasts_s", [60.0, -1.0], ids=["taking turns", "with a lease that fails"])
def test_several_who_send_at_once_harm_nothing(run: Run, kind: Kind, lasts_s: float) -> None:
    run.commit(large(30))
    senders = [sender(run, kind, 0, lasts_s, "wait") for _ in range(3)]
    said = [process.communicate(timeout=60)[0] for process in senders]
    assert assert_offered_is_whole(kind.place) == [0, 1, 2, 3], said
    if lasts_s > 0:
        assert [process.returncode for process in senders] == [0, 0, 0], said


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


# --- a mirror's own policy ---------------------------------------------------------------------------------


def test_a_mirror_is_thinned_by_its_own_policy_and_keeps_what_is_pinned_or_labelled(run: Run, kind: Kind) -> None:
    for step in (30, 40, 50):
        run.commit(draft(step))
    last = Policy(last=2, best=0, every_versions=None)
    write_annotation(run.layout, 1, pinned=True)
    first = send(run, kind.place, Terms(policy=last), quiet)
    assert (first.sent, first.passed, first.dropped) == ((1, 4, 5), (0, 2, 3), ())
    run.commit(draft(60))
    write_annotation(run.layout, 4, labels=("good",))
    run.commit(draft(70))
    outcome = send(run, kind.place, Terms(policy=last), quiet)
    assert (outcome.sent, outcome.passed, outcome.dropped) == ((6, 7), (0, 2, 3), (5,))
    assert assert_offered_is_whole(kind.place) == [1, 4, 6, 7]
    assert kind.place.files("version_5") == {}
    assert [version.number for version in run.versions()] == list(range(8))


def test_what_is_damaged_here_takes_no_others_place_in_a_mirror(run: Run, kind: Kind) -> None:
    path = run.path / "version_2" / WEIGHTS
    path.chmod(0o644)
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    outcome = send(run, kind.place, Terms(policy=Policy(last=1, best=0, every_versions=None)), quiet)
    assert (outcome.sent, outcome.passed) == ((1,), (0,))


@pytest.mark.fault("kill -9 of a mirror while a copy goes from it")
def test_a_copy_that_goes_is_never_offered_by_half(run: Run, kind: Kind) -> None:
    send(run, kind.place, Terms(), quiet)
    policy = Policy(last=1, best=0, every_versions=None)

    class Cut(Exception):
        pass

    for at in range(1, 9):

        def cut(name: str, real: Callable[[str], None], left: list[int]) -> None:
            left[0] -= 1
            if left[0] == 0:
                raise Cut
            real(name)

        place, left = kind.place, [at]
        real = place.delete
        place.delete = lambda name, real=real, left=left: cut(name, real, left)  # type: ignore[method-assign]
        with pytest.raises(Cut):
            send(run, place, Terms(policy=policy), quiet)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(lease, "LASTS_S", -1.0)
            assert 2 in assert_offered_is_whole(kind.place)
            send(run, kind.place, Terms(), quiet)
        assert assert_offered_is_whole(kind.place) == [0, 1, 2]
