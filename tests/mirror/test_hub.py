"""Copies on a hub: each version comes in one commit, on the branch as it was seen."""

from collections.abc import Iterator
from pathlib import Path

import huggingface_hub.constants
import pytest
from drafts import draft
from small_hub import TOKEN, SmallHub, serving

from everstep.errors import DamageFound, UserError
from everstep.mirror.addresses import place_of
from everstep.mirror.backend import Place
from everstep.mirror.copies import Terms, send
from everstep.mirror.fetching import fetch
from everstep.mirror.hub import Hub
from everstep.mirror.offered import faults_in, offer, versions_in
from everstep.versions import Run
from everstep.versions.retention import Policy

WEIGHTS = "controlnet/weights.safetensors"
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # how the hub's client hands files to its carrier


def quiet(text: str) -> None:
    """Hears, and says nothing."""


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[SmallHub]:
    made = SmallHub()
    with serving(made) as address:
        monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", address)
        template = address + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(huggingface_hub.constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_DISABLE_XET", True)
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        yield made


def place() -> Place:
    return place_of("hf://o/name/deep", "r")


def assert_offered_is_whole() -> list[int]:
    there = offer(place())
    assert there.damaged == {}
    assert [fault for offered in there.whole.values() for fault in faults_in(place(), offered)] == []
    return sorted(there.whole)


def test_what_is_there_is_what_was_committed_and_comes_back(run: Run, hub: SmallHub, tmp_path: Path) -> None:
    assert send(run, place(), Terms(), quiet).sent == (0, 1, 2)
    for path in (run.path / "version_2").rglob("*.*"):
        assert hub.files[f"deep/r/version_2/{path.relative_to(run.path / 'version_2')}"] == path.read_bytes()
    assert assert_offered_is_whole() == [0, 1, 2]
    before = len(hub.commits)
    assert send(run, place(), Terms(), quiet).there == (0, 1, 2)
    assert len(hub.commits) == before
    assert fetch(place(), tmp_path / "back", None) == [0, 1, 2]


def test_a_version_comes_in_one_commit_after_its_claim(run: Run, hub: SmallHub) -> None:
    send(run, place(), Terms(), quiet)
    run.commit(draft(30))
    before = len(hub.commits)
    send(run, place(), Terms(), quiet)
    assert hub.commits[before:] == [".claims/version_3", "version_3/manifest.json", "what is said of versions"]


def test_who_is_not_known_is_refused_and_the_token_is_not_told(
    run: Run, hub: SmallHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_wrongtoken")
    with pytest.raises(UserError, match="the hub refuses this user") as said:
        send(run, place(), Terms(), quiet)
    assert "hf_wrongtoken" not in str(said.value)
    assert hub.commits == []


def test_what_others_commit_meanwhile_is_seen(run: Run, hub: SmallHub, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between a look at the branch and the commit on it."""
    seen, left = Hub._seen, [1, 1, 1]

    def look(self: Hub) -> str | None:
        found = seen(self)
        if left:
            left.pop()
            hub.commits.append("somebody else's")
        return found

    monkeypatch.setattr(Hub, "_seen", look)
    assert send(run, place(), Terms(), quiet).sent == (0, 1, 2)
    assert (left, assert_offered_is_whole()) == ([], [0, 1, 2])


def test_two_who_went_on_from_one_run_never_write_into_each_others_version(
    run: Run, hub: SmallHub, tmp_path: Path
) -> None:
    send(run, place(), Terms(), quiet)
    fetch(place(), tmp_path / "second", None)
    second = Run.open(tmp_path / "second")
    with second.lock("test"):
        second.commit(draft(31))
    run.commit(draft(30))
    send(run, place(), Terms(), quiet)
    before = dict(hub.files)
    with pytest.raises(UserError, match="has another version_3"):
        send(second, place(), Terms(), quiet)
    assert hub.files == before


@pytest.mark.fault("a bit that turns in a mirror")
def test_a_rotten_file_is_found_and_not_fetched(run: Run, hub: SmallHub, tmp_path: Path) -> None:
    send(run, place(), Terms(), quiet)
    content = hub.files[f"deep/r/version_2/{WEIGHTS}"]
    hub.files[f"deep/r/version_2/{WEIGHTS}"] = content[:-1] + bytes([content[-1] ^ 1])
    assert [str(fault) for fault in faults_in(place(), offer(place()).whole[2])] == [
        f"{WEIGHTS}: c.half fails its digest"
    ]
    with pytest.raises(DamageFound, match="copy of version_2"):
        fetch(place(), tmp_path / "back", [2])


def test_a_mirror_is_thinned_by_its_own_policy(run: Run, hub: SmallHub) -> None:
    send(run, place(), Terms(), quiet)
    outcome = send(run, place(), Terms(policy=Policy(last=1, best=0, every_versions=None)), quiet)
    assert outcome.dropped == (0, 1)
    assert not [name for name in hub.files if "version_0" in name or "version_1/" in name]
    assert versions_in(place()).keys() == {2}


def test_a_hub_that_is_away_is_said(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    from everstep.errors import UnreachableDisk

    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    with pytest.raises(UnreachableDisk, match="the hub cannot be reached"):
        send(run, place(), Terms(), quiet)
