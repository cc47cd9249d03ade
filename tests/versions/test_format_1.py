"""Format 1 stays readable: the stored samples in tests/golden/format-1, made once by make_format_1.py beside them."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from drafts import draft

from everstep.errors import UserError
from everstep.versions import Run, describe_damage, read_small, read_tensors, rows, verify
from everstep.versions.manifest import FORMAT
from everstep.versions.pruning import decide, prune
from everstep.versions.retention import Policy
from golden.make_format_1 import AVERAGED, CRITICAL, GOOD, HPARAMS, STATE, arrays, averaged
from program import Ended

STORED = Path(__file__).parents[1] / "golden" / "format-1"
Everstep = Callable[..., Ended]
Open = Callable[[str], Run]


@pytest.fixture
def stored(workplace: Path) -> Open:
    """Open a copy of a sample, as runs/NAME."""

    def open_copy(name: str) -> Run:
        shutil.copytree(STORED / name, workplace / "runs" / name)
        return Run.open(workplace / "runs" / name)

    return open_copy


def content(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def holds_what_was_stored(run: Run, number: int, step: int) -> None:
    """Verified, and every tensor and small file is what its step says."""
    version = run.version(number)
    assert verify(version) == []
    expected = arrays(step) | ({AVERAGED: averaged(step)} if AVERAGED in version.files else {})
    for path, named in expected.items():
        if not version.resumable and path.startswith("training/"):
            continue
        loaded = read_tensors(version, path)
        assert loaded.keys() == named.keys()
        for name, array in named.items():
            assert loaded[name].shape == array.shape
            assert bytes(loaded[name].buffer) == array.tobytes()
    assert read_small(version, "hparams.yaml").decode() == HPARAMS
    if version.resumable:
        assert json.loads(read_small(version, STATE)) == {"step": step, "images_seen": 4 * step}


def test_a_complete_a_slim_and_a_rich_version_are_listed_and_read(stored: Open) -> None:
    run = stored("line")
    assert run.damaged() == []
    assert [(row["version"], row["step"], row["resumable"], row["reason"]) for row in rows(run)] == [
        (0, 0, True, "interval"),
        (1, 300, False, "interval"),
        (2, 600, True, "rescue"),
    ]
    assert (run.version(1).path / "training").exists() is False
    for number, step in ((0, 0), (1, 300), (2, 600)):
        holds_what_was_stored(run, number, step)


def test_every_optional_part_of_a_version_is_read(stored: Open) -> None:
    run = stored("line")
    rich, note = run.version(2), run.annotation(2)
    assert rich.parent is not None
    assert (rich.parent.run, rich.parent.version) == ("line", 1)
    assert rich.parent.manifest_digest == run.version(1).manifest_digest
    assert list(rich.parent.changes["optim.learning_rate"]) == [1e-5, 5e-6]
    assert rich.manifest["snapshot"] == {"arena": "00f1a2b3c4d5e6f7", "generation": 7}
    assert rich.manifest["health"] == {"loss": 0.25, "gradient_norm": 1.5}
    assert rich.manifest["data"]["held_out"] == ["a.png", "ü.png"]
    assert (note.labels, note.pinned, note.note) == (("good hands", "für Ann"), True, "five fingers")
    assert note.scores == {"control_gain": 0.5, "loss": 0.25}
    assert [run.find(spec).number for spec in ("best", "für Ann", "-1", "latest", "version_1")] == [2, 2, 2, 2, 1]


def test_training_goes_on_from_a_stored_run(stored: Open) -> None:
    run = stored("line")
    with run.lock("test"):
        assert run.recover() == []
        newest = run.newest_whole(print)
        assert newest is not None
        assert newest.number == 2
        assert verify(run.commit(draft(900))) == []
    assert [decision.held.number for decision in prune(run, Policy(last=1, best=2, score=run.best_score()), 2e9)] == [0]
    assert [version.number for version in run.versions()] == [0, 1, 2, 3]


@pytest.mark.fault("stored samples of damage that matters")
def test_critical_damage_is_refused_by_name_and_set_aside_whole(stored: Open) -> None:
    run = stored("damaged")
    before = content(run.path)
    said: list[str] = []
    unreadable = {path.name: why for path, why in run.damaged()}
    for number, words in enumerate(CRITICAL, start=GOOD):
        name = f"version_{number}"
        why = unreadable.get(name) or describe_damage(run.version(number), verify(run.version(number)))
        assert words in why
    newest = run.newest_whole(said.append)
    assert newest is not None
    assert newest.number == GOOD - 1
    holds_what_was_stored(run, GOOD - 1, 100 * (GOOD - 1))
    for number, words in enumerate(CRITICAL, start=GOOD):
        assert [f"version_{number} is damaged" in line and words in line for line in said].count(True) == 1
    kept = content(run.layout.quarantine)
    for path, bytes_ in before.items():
        folder, _, inside = path.partition("/")
        if folder.startswith("version_") and int(folder.removeprefix("version_")) >= GOOD:
            assert [
                found for name, found in kept.items() if name.startswith(f"{folder}-") and name.endswith(inside)
            ] == [bytes_]


@pytest.mark.fault("prune of a line with stored damage")
def test_a_prune_relies_on_a_whole_one_of_a_damaged_line_and_removes_no_evidence(stored: Open) -> None:
    run = stored("damaged")
    damaged = {path.name for path in run.path.glob("version_*")} - {"version_0", "version_1"}
    prune(run, Policy(last=1, best=0, every_versions=None), 2e9)
    left = {path.name for path in run.path.glob("version_*")}
    assert "version_1" in left
    assert verify(run.version(1)) == []
    assert {f"version_{number}" for number in (4, 7, 8, 9)} <= damaged & left


def test_the_verb_verify_names_all_damage(stored: Open, everstep: Everstep) -> None:
    stored("damaged")
    ended = everstep("verify", "damaged")
    assert ended.code == 1
    for words in ("conv_in.bias: fails its digest", "is missing", "does not match its own digest", "version_0: whole"):
        assert words in ended.out


@pytest.mark.fault("stored samples of damage beside the versions")
def test_damage_beside_the_versions_costs_none(stored: Open, everstep: Everstep) -> None:
    run = stored("harmless")
    with run.lock("test"):
        run.recover()
        newest = run.newest_whole(print)
    assert newest is not None
    assert newest.number == 1
    for number in (0, 1):
        holds_what_was_stored(run, number, 100 * number)
    assert everstep("list", "harmless").code == 0
    assert everstep("verify", "harmless").code == 0
    assert everstep("status", "harmless").code == 0
    assert run.next_number() == 2
    assert (run.version(0).path / "my notes.txt").read_text() == "mine"


@pytest.mark.fault("version of a newer format")
def test_a_newer_format_is_refused_by_name_and_left_alone_by_everything(stored: Open, everstep: Everstep) -> None:
    run = stored("newer")
    later = content(run.path / "version_1")
    assert json.loads(later["manifest.json"])["format"] == FORMAT + 1
    refusal = f"was written by a newer Everstep: format {FORMAT + 1}, this one reads {FORMAT}"
    with run.lock("test"):
        run.recover()
        with pytest.raises(UserError, match=refusal):
            run.newest_whole(print)
    assert refusal in everstep("list", "newer").out
    assert refusal in everstep("verify", "newer").out
    assert everstep("train", "--run", "newer").code != 0
    assert [decision.held.number for decision in decide(run, Policy(), 2e9)] == [0]
    for policy in (Policy(last=0, best=0, every_versions=None), Policy(budget_bytes=0)):
        prune(run, policy, 2e9)
    everstep("prune", "newer")
    assert content(run.path / "version_1") == later
    assert not run.layout.quarantine.exists()
    assert run.next_number() == 2


def test_the_stored_samples_are_not_hidden_from_the_repository() -> None:
    """A pattern meant for runs or builds must not leave them out of a commit."""
    ignored = (STORED.parents[2] / ".gitignore").read_text().split()
    folders = {part for path in STORED.rglob("*") for part in path.relative_to(STORED.parents[1]).parts}
    assert not folders & {pattern.strip("/") for pattern in ignored}
    assert len(list(STORED.rglob("manifest.json"))) == 3 + GOOD + len(CRITICAL) + 2 + 2
