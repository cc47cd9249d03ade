"""What every place for copies has to do, each of them real: a disk, SeaweedFS, OpenSSH."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import obstore
import pytest
from drafts import draft
from kinds import Kind, rot
from sending import WEIGHTS, assert_offered_is_whole, bytes_of, large, quiet
from servers import SECRET
from serving import wait_for

from everstep.errors import DamageFound, UnreachableDisk, UserError
from everstep.mirror import lease, sftp
from everstep.mirror.addresses import place_of
from everstep.mirror.copies import Terms, send
from everstep.mirror.fetching import fetch, find
from everstep.mirror.offered import faults_in, offer, versions_in
from everstep.versions import Run, fsops, write_annotation
from everstep.versions.layout import identity_of
from everstep.versions.retention import Policy


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
    nothing = everstep("resume", kind.target)
    assert (nothing.code, "copies of a run" in nothing.out or "There is no run" in nothing.out) == (2, True), (
        nothing.out
    )
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


@pytest.mark.slow
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

    for at in (1, 2, 5):  # before the manifest, after it, and in the middle of the rest

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
