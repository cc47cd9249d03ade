"""Copies in a folder: whole or not offered, whatever happens on the way; and a run that comes back from them."""

import contextlib
import errno
import json
import multiprocessing
import os
import shutil
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from drafts import draft

from disks import fill, small_disk
from everstep.errors import DamageFound, DiskFull, UserError
from everstep.mirror import copies
from everstep.mirror.copies import Terms, send
from everstep.mirror.fetching import fetch
from everstep.mirror.folder import Folder
from everstep.mirror.offered import versions_in
from everstep.versions import Run, fsops, verify, write_annotation
from everstep.versions.layout import identity_of


@pytest.fixture
def place(tmp_path: Path) -> Folder:
    (tmp_path / "elsewhere").mkdir()
    return Folder(tmp_path / "elsewhere/a")


def quiet(text: str) -> None:
    """Hears, and says nothing."""


def bytes_of(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def assert_offered_is_whole(place: Folder) -> list[int]:
    """What is offered there verifies. Returns its numbers."""
    found = Run(place.root).versions()
    assert [version.number for version in found] == sorted(versions_in(place))
    assert all(verify(version) == [] for version in found)
    return [version.number for version in found]


def test_what_is_there_is_what_was_committed_and_comes_back(run: Run, place: Folder, tmp_path: Path) -> None:
    write_annotation(run.layout, 1, labels=("good",), pinned=True)
    outcome = send(run, place, Terms(), quiet)
    assert (outcome.sent, outcome.there, outcome.up_to) == ((0, 1, 2), (), 2)
    for number in (0, 1, 2):
        assert bytes_of(place.root / f"version_{number}") == bytes_of(run.path / f"version_{number}")
    assert send(run, place, Terms(), quiet).there == (0, 1, 2)
    assert fetch(place, tmp_path / "back", None) == [0, 1, 2]
    back = Run.open(tmp_path / "back")
    assert bytes_of(back.path / "version_2") == bytes_of(run.path / "version_2")
    assert identity_of(back.path) == identity_of(run.path)
    assert back.annotation(1).labels == ("good",)
    with back.lock("test"):
        assert back.commit(draft(30)).number == 3
    assert fetch(place, back.path, None) == []


def test_only_what_is_new_is_written(run: Run, place: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    send(run, place, Terms(), quiet)
    written: list[str] = []
    put = Folder.put
    monkeypatch.setattr(Folder, "put", lambda self, name, *more: (written.append(name), put(self, name, *more))[1])
    run.commit(draft(30))
    send(run, place, Terms(), quiet)
    assert {name.split("/")[0] for name in written} == {"version_3", "log.jsonl"}


def test_a_slim_mirror_has_the_weights_alone(run: Run, place: Folder, tmp_path: Path) -> None:
    send(run, place, Terms(is_slim=True), quiet)
    copy = Run(place.root).version(2)
    assert (verify(copy), copy.resumable) == ([], False)
    assert not (place.root / "version_2/training").exists()
    assert fetch(place, tmp_path / "back", [2]) == [2]
    assert not Run.open(tmp_path / "back").version(2).resumable


def test_slim_and_whole_copies_do_not_mix(run: Run, place: Folder) -> None:
    send(run, place, Terms(is_slim=True), quiet)
    before = bytes_of(place.root)
    with pytest.raises(UserError, match="holds slim copies, and whole copies were asked for"):
        send(run, place, Terms(), quiet)
    assert bytes_of(place.root) == before


@pytest.mark.parametrize("code", [errno.EPERM, errno.ENOTSUP])
def test_a_disk_without_hard_links_is_a_mirror_too(
    run: Run, place: Folder, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    def refuse(*paths: object) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "link", refuse)
    assert send(run, place, Terms(), quiet).sent == (0, 1, 2)
    assert send(run, place, Terms(), quiet).there == (0, 1, 2)
    assert not place.create("mirror.json", b"{}")
    assert assert_offered_is_whole(place) == [0, 1, 2]


@pytest.mark.fault("full disk while a run is fetched from its mirror")
def test_a_full_disk_here_leaves_nothing_half(run: Run, place: Folder, tmp_path: Path) -> None:
    send(run, place, Terms(), quiet)
    with small_disk(tmp_path / "disk", "size=1m") as disk:
        ballast = fill(disk, 20_000)
        with pytest.raises(DiskFull, match="the same command goes on"):
            fetch(place, disk / "back", None)
        ballast.unlink()
        fetch(place, disk / "back", None)
        back = Run.open(disk / "back").versions()
        assert [version.number for version in back] == [0, 1, 2]
        assert all(verify(version) == [] for version in back)


def test_copies_are_not_written_to_as_a_run(run: Run, place: Folder) -> None:
    send(run, place, Terms(), quiet)
    before = bytes_of(place.root)
    with pytest.raises(UserError, match="everstep mirror pull"), Run.open(place.root).lock("test"):
        pass
    assert bytes_of(place.root) == before


def test_a_disk_that_is_not_mounted_is_not_taken_for_an_empty_one(run: Run, place: Folder) -> None:
    send(run, place, Terms(), quiet)
    place.root.rename(place.root.with_name("aside"))
    with pytest.raises(UserError, match="Is its disk mounted"):
        send(run, place, Terms(), quiet)
    assert not place.root.exists()
    assert send(run, place, Terms(is_anew=True), quiet).sent == (0, 1, 2)


def test_another_runs_place_and_a_run_itself_are_refused(run: Run, place: Folder, tmp_path: Path) -> None:
    send(run, place, Terms(), quiet)
    other = Run.create(tmp_path / "other", "lr: 1\n")
    with pytest.raises(UserError, match="holds copies of another run, called"):
        send(other, place, Terms(), quiet)
    with pytest.raises(UserError, match="is a run itself"):
        send(run, Folder(other.path), Terms(), quiet)
    assert not (other.path / "mirror.json").exists()
    with pytest.raises(UserError, match="is not this run"):
        fetch(place, other.path, None)
    assert assert_offered_is_whole(place) == [0, 1, 2]


def test_two_who_went_on_from_one_run_do_not_overwrite_each_other(run: Run, place: Folder, tmp_path: Path) -> None:
    send(run, place, Terms(), quiet)
    fetch(place, tmp_path / "second", None)
    second = Run.open(tmp_path / "second")
    with second.lock("test"):
        second.commit(draft(31))
    run.commit(draft(30))
    send(run, place, Terms(), quiet)
    before = bytes_of(place.root)
    with pytest.raises(UserError, match="has another version_3"):
        send(second, place, Terms(), quiet)
    assert bytes_of(place.root) == before


def test_a_damaged_version_is_not_sent_and_the_others_are(run: Run, place: Folder) -> None:
    path = next((run.path / "version_1").rglob("*.safetensors"))
    path.chmod(0o644)
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    outcome = send(run, place, Terms(), quiet)
    assert (outcome.sent, [number for number, _ in outcome.damaged]) == ((0, 2), [1])
    assert assert_offered_is_whole(place) == [0, 2]


@pytest.mark.fault("a bit that turns in a mirror")
def test_a_rotten_copy_is_not_fetched(run: Run, place: Folder, tmp_path: Path) -> None:
    send(run, place, Terms(), quiet)
    path = next((place.root / "version_2").rglob("*.safetensors"))
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(DamageFound, match="copy of version_2"):
        fetch(place, tmp_path / "back", None)
    assert [version.number for version in Run.open(tmp_path / "back").versions()] == [0, 1]
    assert not list((tmp_path / "back").glob(".version_*"))


@pytest.mark.fault("a mirror's disk that is full")
def test_a_full_disk_there_offers_nothing_half_and_goes_on_when_there_is_room(run: Run, tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", "size=2m") as disk:
        place = Folder(disk / "a")
        ballast = fill(disk, 60_000)

        def send_many() -> None:
            for _ in range(100):
                run.commit(draft(100))
                send(run, place, Terms(), quiet)

        with pytest.raises(DiskFull, match="the same line goes on"):
            send_many()
        there = assert_offered_is_whole(place)
        ballast.unlink()
        send(run, place, Terms(), quiet)
        assert assert_offered_is_whole(place) == [version.number for version in run.versions()]
        assert len(there) < len(run.versions())


def _send_slowly(run: Path, root: Path, at: int) -> None:
    """Dies in the middle of its effect number `at`."""
    seen = 0
    for name in ("rename", "write_file", "flush_folder"):
        real = getattr(fsops, name)

        def die(*arguments: Any, real: Callable[..., Any] = real, **more: Any) -> Any:
            nonlocal seen
            seen += 1
            if seen == at:
                os.kill(os.getpid(), signal.SIGKILL)
            return real(*arguments, **more)

        setattr(fsops, name, die)
    send(Run(run), Folder(root), Terms(), quiet)


@pytest.mark.fault("kill -9 of a mirror at every effect it has")
@pytest.mark.parametrize("apart", [7, pytest.param(1, marks=pytest.mark.slow)])
def test_a_kill_at_every_step_offers_nothing_half_and_the_next_goes_on(run: Run, tmp_path: Path, apart: int) -> None:
    ended, at = -signal.SIGKILL, 0
    (tmp_path / "there").mkdir()
    place = Folder(tmp_path / "there/a")
    while ended == -signal.SIGKILL:
        at += apart
        process = multiprocessing.get_context("fork").Process(target=_send_slowly, args=(run.path, place.root, at))
        process.start()
        process.join(60)
        ended = int(process.exitcode or 0)
        assert_offered_is_whole(place)
        send(run, place, Terms(), quiet)
        assert assert_offered_is_whole(place) == [0, 1, 2]
        assert not list(place.root.rglob("*.part"))
        shutil.rmtree(place.root)
        next(run.layout.records.glob("mirror-*.json")).unlink()
    assert at > 50


def test_several_who_mirror_at_once_lose_nothing(run: Run, place: Folder) -> None:
    errors: list[BaseException] = []

    def one() -> None:
        try:
            send(run, place, Terms(), quiet)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=one) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all("Another process sends to" in str(error) for error in errors)
    assert len(errors) < 4
    assert assert_offered_is_whole(place) == [0, 1, 2]


def test_a_version_that_is_pruned_meanwhile_is_told_and_the_rest_is_sent(
    run: Run, place: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, said = copies.reading, list[str]()

    @contextlib.contextmanager
    def pruned(folder: Path) -> Iterator[None]:
        if folder.name == "version_1":
            shutil.rmtree(folder)
        with real(folder):
            yield

    monkeypatch.setattr(copies, "reading", pruned)
    outcome = send(run, place, Terms(), said.append)
    assert (outcome.sent, outcome.gone) == ((0, 2), (1,))
    assert "version_1 was removed meanwhile" in said[0]


@pytest.mark.slow  # of a place in S3 it is tried each time
def test_the_verbs_mirror_a_run_and_a_bare_machine_goes_on(
    everstep: Callable[..., Any], tiny_base: Path, pairs_folder: Path, workplace: Path
) -> None:
    words = ("--base", tiny_base, "--data", pairs_folder, "--optim.batch-size", 2, "--versions.every", 2)
    more = ("--sampling.pairs", 0, "--scoring.overhead", 0, "--optim.max-steps", 4, "--keep.everything")
    assert everstep("train", "--run", "a", *words, *more).code == 0
    (workplace / "disk").mkdir()
    sent = everstep("mirror", "a", workplace / "disk")
    assert (sent.code, "3 sent, 0 there before; mirrored up to version_2" in sent.out) == (0, True)
    assert "version_1  yes   yes" in everstep("mirror", "status", "a", workplace / "disk").out
    assert everstep("mirror", "verify", workplace / "disk/a").out.count("whole") == 3
    straight = json.loads((workplace / "runs/a/version_2/digests.json").read_text())
    shutil.rmtree(workplace / "runs")
    gone_on = everstep("resume", workplace / "disk/a", "--set", "optim.max_steps=6")
    assert gone_on.code == 0, gone_on.out
    assert "version_2 fetched to runs/a" in gone_on.out
    back = Run.open(workplace / "runs/a")
    assert back.find("latest").step == 6
    assert json.loads((back.path / "version_2/digests.json").read_text()) == straight
    assert everstep("mirror", "a", workplace / "disk").code == 0
    assert sorted(versions_in(Folder(workplace / "disk/a"))) == [0, 1, 2, 3]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("mirror", "a", "ftp://host/there"), "is no place for copies"),
        (("mirror", "a", "s3://key:secret@bucket/there"), "must hold nothing secret"),
        (("mirror", "a", "s3://bucket/there?aws_secret_access_key=x"), "must hold nothing secret"),
        (("mirror", "a", "s3://bucket/there?endpiont=x"), "may have endpoint and region"),
        (("mirror", "a", ".", "--rate", "fast"), "--rate: 'fast' is not understood"),
        (("mirror", "a", ".", "--keep", "some"), "--keep: 'some' is not understood"),
        (("mirror", "a", "nowhere"), "There is no folder"),
        (("mirror", "pull", "nowhere/a"), "holds no copies of a run"),
        (("mirror", "pull", "runs/a"), "holds no copies of a run"),
        (("mirror", "verify", "runs/a"), "holds no copies of a run"),
        (("mirror", "b", "."), "There is no run"),
    ],
)
def test_what_cannot_be_mirrored_is_said(
    everstep: Callable[..., Any], workplace: Path, words: tuple[str, ...], said: str
) -> None:
    Run.create(workplace / "runs/a", "lr: 1\n")
    ended = everstep(*words)
    assert (ended.code, said in ended.out) == (2, True), ended.out
