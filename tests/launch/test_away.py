"""A machine that does not see the run's folder has what it needs of it from a mirror, and no more than that."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from serving import wait_for

from everstep.config.load import dump, resolve
from everstep.errors import UserError
from everstep.launch import answering, away
from everstep.launch.answering import Listener
from everstep.launch.away import Away
from everstep.launch.meeting import Stopped
from everstep.launch.relay import Relay
from everstep.mirror.copies import Terms, send
from everstep.mirror.folder import Folder
from everstep.train.progress import Reporter
from everstep.versions import Run, verify
from everstep.versions.layout import is_planned

WHOLE, HPARAMS = Terms(), dump(resolve(None, {"optim": {"max_steps": 7}}))


@dataclass
class Met:
    """Machine 1 of two, which was called through a mirror that has copies of the run r."""

    run: Run
    away: Away
    relay: Relay  # the first one's
    is_stopped: bool = False

    def call(self, number: int | None, **more: Any) -> dict[str, Any]:
        """As the first one does, and as this machine hears it."""
        version = None if number is None else self.run.version(number)
        digest, size_bytes = (None, 0) if version is None else (version.manifest_digest, version.size_bytes)
        words = {"launch": "7-0-0", "nonce": str(number), "version": number, "digest": digest, "bytes": size_bytes}
        self.relay.write("call.json", {**words, "hparams": HPARAMS, **more})
        heard = self.away.listener.await_call()
        assert isinstance(heard, dict)
        return heard


@pytest.fixture
def met(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Met]:
    monkeypatch.setattr(away, "OFFERED_S", 5.0)
    monkeypatch.setattr(answering, "SURE_S", 0.0)  # nobody shares a folder here
    run.replace_hparams(dump(resolve(None, {})))
    (tmp_path / "mirror").mkdir()
    (tmp_path / "disk").mkdir()
    ours, theirs = (Relay(str(tmp_path / "mirror"), "r", print) for _ in range(2))
    listener = Listener(tmp_path / "disk/runs/r", "7-0-0", 1, lambda: met.is_stopped, ours)
    with away.away(tmp_path / "disk/runs/r", listener, ours, Reporter()) as made:
        met = Met(run, made, theirs)
        yield met
    ours.close()
    theirs.close()


def mirrored(met: Met, terms: Terms = WHOLE) -> None:
    send(met.run, Folder(Path(met.relay.address)), terms, print)


def on_disk(tmp_path: Path) -> list[str]:
    return [path.name for path in (tmp_path / "disk").iterdir()]


def test_what_is_called_is_fetched_and_nothing_else(met: Met, tmp_path: Path) -> None:
    """With the settings of the call, in a hidden folder that goes."""
    mirrored(met)
    for number in (1, 2):
        got = met.away.run_of(met.call(number))
        assert got is not None
        assert [version.number for version in got.versions()] == [number]
        assert verify(got.version(number)) == []
        assert got.layout.hparams.read_text() == HPARAMS
    assert [is_planned(name) for name in on_disk(tmp_path)] == [True]


def test_of_a_new_run_there_are_settings_alone(met: Met) -> None:
    got = met.away.run_of(met.call(None))
    assert got is not None
    assert got.versions() == []
    assert got.layout.hparams.read_text() == HPARAMS


def test_nothing_is_left_when_it_goes(met: Met, tmp_path: Path) -> None:
    mirrored(met)
    with away.away(tmp_path / "disk/runs/r", met.away.listener, met.away.relay, Reporter()) as made:
        made.run_of(met.call(2))
        assert len(on_disk(tmp_path)) == 2
    assert len(on_disk(tmp_path)) == 1


def test_a_version_that_does_not_come_is_told(met: Met, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(away, "OFFERED_S", 1.0)
    with pytest.raises(UserError, match=r"version_2, which is gone on from, does not come from .*not offered there"):
        met.away.run_of(met.call(2))


def test_another_version_of_the_number_is_refused(met: Met) -> None:
    mirrored(met)
    with pytest.raises(UserError, match="has another version_2"):
        met.away.run_of(met.call(2, digest=met.run.version(1).manifest_digest))


def test_a_rotten_copy_is_refused(met: Met) -> None:
    mirrored(met)
    weights = next((Path(met.relay.address) / "version_2").rglob("*.safetensors"))
    weights.chmod(0o644)
    weights.write_bytes(weights.read_bytes()[:-1] + b"?")
    with pytest.raises(UserError, match="is damaged"):
        met.away.run_of(met.call(2))


def test_slim_copies_are_refused(met: Met) -> None:
    mirrored(met, Terms(is_slim=True))
    with pytest.raises(UserError, match="slim copies"):
        met.away.run_of(met.call(2))


def test_settings_that_send_slim_copies_are_refused_before_anything_is_trained(met: Met) -> None:
    slim = dump(resolve(None, {"mirror": {"slim": True}}))
    with pytest.raises(UserError, match="slim copies"):
        met.away.run_of(met.call(None, hparams=slim))


def test_a_call_that_counts_no_more_is_not_waited_for(met: Met) -> None:
    heard = met.call(2)
    met.relay.write("call.json", {"launch": "7-0-0", "nonce": "another"})
    assert met.away.run_of(heard) is None


def test_a_stop_is_heard_while_it_waits(met: Met) -> None:
    heard = met.call(2)
    met.is_stopped = True
    with pytest.raises(Stopped):
        met.away.run_of(heard)


def test_the_first_one_hears_that_it_will_answer(met: Met, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(away, "COMING_S", 0.5)
    heard = met.call(2)
    with pytest.raises(UserError):
        met.away.run_of(heard)
    met.away.relay.settle(20)
    wait_for(lambda: (met.relay.read("1.json") or {}).get("coming", 0) > 1)
