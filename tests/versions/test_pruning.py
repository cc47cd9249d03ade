"""A prune on a real disk does what its dry run says, to the byte, and never takes what anything rests on."""

import json
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from drafts import OPTIMIZER, WEIGHTS, draft
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from everstep.config.load import dump, resolve
from everstep.errors import DamageFound, UserError
from everstep.versions import LiveStatus, Run, read_tensors, verify, write_annotation, write_live
from everstep.versions.lock import Busy
from everstep.versions.pruning import decide, held_versions, prune, slim
from everstep.versions.reading import reading
from everstep.versions.retention import Fate, Policy
from everstep.versions.trash import pruning_alone
from program import Ended

LAST = Policy(last=1, best=0, every_versions=None)
NOW = 2e9


@pytest.fixture
def long_run(tmp_path: Path) -> Run:
    """A run with six versions."""
    made = Run.create(tmp_path / "runs" / "r", dump(resolve(None, {})))
    made.tell_best_score("control_gain")
    for step in range(0, 60, 10):
        made.commit(draft(step))
    return made


def bytes_in(folder: Path) -> int:
    """Of all files."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def version_bytes(run: Run) -> int:
    return sum(bytes_in(version.path) for version in run.versions())


def state(run: Run) -> dict[int, bool]:
    """Number -> resumable."""
    return {version.number: version.resumable for version in run.versions()}


def damage(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-3] ^= 1
    path.write_bytes(content)


histories = st.lists(
    st.fixed_dictionaries(
        {"slim": st.booleans(), "pinned": st.booleans(), "label": st.booleans(), "score": st.none() | st.floats(0, 1)}
    ),
    min_size=1,
    max_size=6,
)
policies = st.builds(
    Policy,
    last=st.integers(0, 3),
    best=st.integers(0, 2),
    every_versions=st.none() | st.integers(1, 4),
    budget_bytes=st.none() | st.integers(0, 80_000),
)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(histories, policies)
def test_what_is_done_is_what_the_dry_run_said_to_the_byte(
    tmp_path_factory: pytest.TempPathFactory, history: list[dict[str, object]], policy: Policy
) -> None:
    run = Run.create(tmp_path_factory.mktemp("runs") / "r", "a: 1\n")
    for number, facts in enumerate(history):
        version = run.commit(draft(10 * number))
        if facts["slim"]:
            shutil.rmtree(version.path / "training")
        labels = (f"l{number}",) if facts["label"] else ()
        scores = {} if facts["score"] is None else {"control_gain": facts["score"]}
        write_annotation(run.layout, number, pinned=facts["pinned"], labels=labels, scores=scores)
    before, said = version_bytes(run), decide(run, policy, NOW)
    assert version_bytes(run) == before
    done = prune(run, policy, NOW)
    assert done == [decision for decision in said if decision.fate is not Fate.KEEP]
    assert before - version_bytes(run) == sum(decision.frees_bytes for decision in said)
    assert version_bytes(run) == sum(decision.left_bytes for decision in said)
    expected = {d.held.number: after.is_resumable for d in said if (after := d.carried_out()) is not None}
    assert state(run) == expected
    assert all(verify(version) == [] for version in run.versions())
    assert prune(run, policy, NOW) == []
    assert not list(run.layout.trash.iterdir()) if run.layout.trash.exists() else True


def test_a_slim_version_is_read_by_its_weights_and_not_resumed_from(long_run: Run) -> None:
    freed = bytes_in(long_run.path / "version_2" / "training")
    assert slim(long_run, long_run.version(2)) == freed
    assert verify(long_run.version(2)) == []
    assert read_tensors(long_run.version(2), WEIGHTS).keys() == {"a.weight", "b.weight", "c.half"}
    assert state(long_run)[2] is False
    with pytest.raises(UserError, match="version_2 is slim already"):
        slim(long_run, long_run.version(2))


def test_the_only_whole_version_is_not_made_slim_even_where_damaged_ones_are_beside(long_run: Run) -> None:
    for number in range(5):
        damage(long_run.version(number).path / OPTIMIZER)
    with pytest.raises(UserError, match="version_5 is the only version that r can be resumed from"):
        slim(long_run, long_run.version(5))
    assert state(long_run)[5] is True


@pytest.mark.fault("prune whose newest version is damaged")
def test_a_damaged_newest_version_is_kept_and_another_is_relied_on(long_run: Run) -> None:
    damage(long_run.version(5).path / OPTIMIZER)
    said = decide(long_run, LAST, NOW)
    assert [decision.reasons for decision in said[4:]] == [
        ("the newest that can be resumed", "one of the last 1", "the newest of all"),
        ("damaged; it is left to be looked at",),
    ]
    prune(long_run, LAST, NOW)
    assert state(long_run) == {4: True, 5: True}
    assert verify(long_run.version(4)) == []


@pytest.mark.fault("prune of versions that are all damaged")
def test_with_no_whole_version_nothing_is_removed(long_run: Run) -> None:
    for number in range(6):
        damage(long_run.version(number).path / WEIGHTS)
    assert prune(long_run, LAST, NOW) == []
    assert len(long_run.versions()) == 6


DAMAGE = {
    "a manifest that is no JSON": lambda v: (v / "manifest.json").write_text("{"),
    "a manifest of another version": lambda v: shutil.copy(v.parent / "version_1/manifest.json", v),
    "no manifest": lambda v: (v / "manifest.json").unlink(),
    "a newer format": lambda v: (v / "manifest.json").write_text(json.dumps({"format": 2})),
    "a lost file": lambda v: (v / OPTIMIZER).unlink(),
    "a file cut short": lambda v: os.truncate(v / WEIGHTS, 100),
    "a foreign folder": lambda v: (shutil.rmtree(v), v.mkdir(), (v / "mine.txt").write_text("mine")),
}


@pytest.mark.fault("prune beside {kind}")
@pytest.mark.parametrize("kind", DAMAGE)
def test_what_is_no_whole_version_is_never_touched(long_run: Run, kind: str) -> None:
    folder = long_run.path / "version_2"
    DAMAGE[kind](folder)
    content = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    assert [d.held.number for d in prune(long_run, LAST, NOW)] == [0, 1, 3, 4]
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == content


@pytest.mark.fault("prune with an annotation that cannot be read")
def test_notes_that_cannot_be_read_keep_their_version(long_run: Run) -> None:
    long_run.layout.annotation(1).write_text("{")
    assert decide(long_run, LAST, NOW)[1].reasons == ("what is said of it cannot be read",)
    prune(long_run, LAST, NOW)
    assert list(state(long_run)) == [1, 5]


def test_what_a_running_training_went_on_from_stays(long_run: Run) -> None:
    facts = {"max_steps": 9, "images_seen": 0, "images_per_second": None, "loss": None}
    live = LiveStatus.now(state="running", step=1, last_version=None, next_version_step=None, resumed_from=2, **facts)
    write_live(long_run.layout, live)
    prune(long_run, LAST, NOW, in_use=[0])
    assert state(long_run) == {0: True, 2: True, 5: True}
    with pytest.raises(UserError, match="version_2 stays whole: a running training went on from it"):
        slim(long_run, long_run.version(2))
    write_live(long_run.layout, replace(live, state="stopped"))
    prune(long_run, LAST, NOW)
    assert state(long_run) == {5: True}


def test_marks_by_number_keep_a_version(long_run: Run) -> None:
    marks = {1: "just before the jump", 2: "just after the jump"}
    assert [d.reasons for d in decide(long_run, LAST, NOW, marks=marks)][1:3] == [(marks[1],), (marks[2],)]
    prune(long_run, LAST, NOW, marks=marks)
    assert list(state(long_run)) == [1, 2, 5]


@pytest.mark.fault("prune of a version that is being read")
def test_a_version_that_is_read_stays_until_the_next_prune(long_run: Run) -> None:
    with reading(long_run.version(1).path), reading(long_run.version(1).path):
        said = decide(long_run, LAST, NOW)
        assert said[1].reasons == ("being read by another process",)
        prune(long_run, LAST, NOW)
        with pytest.raises(UserError, match="version_1 stays whole for now: it is being read"):
            slim(long_run, long_run.version(1))
        assert verify(long_run.version(1)) == []
    assert list(state(long_run)) == [1, 5]
    prune(long_run, LAST, NOW)
    assert list(state(long_run)) == [5]
    with pytest.raises(UserError, match="version_1 was removed meanwhile"), reading(long_run.path / "version_1"):
        pass


@pytest.mark.fault("file system without locks on folders")
def test_without_locks_on_folders_reading_and_pruning_go_on_as_ever(
    long_run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(descriptor: int, operation: int) -> None:
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr("everstep.versions.lock.fcntl.flock", refused)
    with reading(long_run.version(5).path):
        prune(long_run, LAST, NOW)
    assert list(state(long_run)) == [5]
    assert write_annotation(long_run.layout, 5, pinned=True).pinned


@pytest.mark.fault("second prune while a first is held up")
def test_a_second_prune_is_told_who_is_at_work(long_run: Run) -> None:
    child = os.fork()
    if child == 0:
        with pruning_alone(long_run.layout):
            os.kill(os.getpid(), 19)  # stopped, and holding the lock
        os._exit(0)
    os.waitpid(child, os.WUNTRACED)
    try:
        with pytest.raises(Busy, match=f"Versions of r are being removed by process {child} on"):
            prune(long_run, LAST, NOW)
        assert len(long_run.versions()) == 6
        long_run.recover()
    finally:
        os.kill(child, 9)
        os.waitpid(child, 0)
    prune(long_run, LAST, NOW)
    assert list(state(long_run)) == [5]


@pytest.mark.fault("trash left by a killed prune")
def test_what_a_killed_prune_left_in_the_trash_goes_at_the_next_one_and_at_a_start(long_run: Run) -> None:
    for clear in (lambda: prune(long_run, Policy(last=9), NOW), long_run.recover):
        leftover = long_run.layout.trash / "version_9-0a1b2c3d"
        leftover.mkdir(parents=True)
        (leftover / "half").write_text("x")
        clear()
        assert list(long_run.layout.trash.iterdir()) == []


@pytest.mark.fault("pin that comes between a prune's decision and its act")
def test_a_pin_during_a_prune_is_obeyed(long_run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between the decision and the removal."""

    def pinned_meanwhile(run: Run, *arguments: object) -> object:
        decided = decide(run, *arguments)  # type: ignore[arg-type]
        write_annotation(run.layout, 0, pinned=True)
        write_annotation(run.layout, 1, labels=("late",))
        return decided

    monkeypatch.setattr("everstep.versions.pruning.decide", pinned_meanwhile)
    done = prune(long_run, LAST, NOW)
    assert [decision.held.number for decision in done] == [2, 3, 4]
    assert list(state(long_run)) == [0, 1, 5]


@pytest.mark.fault("trash, log and records deleted by hand")
def test_numbers_are_not_used_again_though_trash_log_and_records_are_gone(long_run: Run) -> None:
    slim(long_run, long_run.version(5))
    slim(long_run, long_run.version(4))
    prune(long_run, LAST, NOW)
    assert state(long_run) == {3: True, 5: False}
    shutil.rmtree(long_run.layout.trash)
    long_run.layout.log.unlink()
    assert long_run.commit(draft(90)).number == 6


@pytest.mark.fault("disk that refuses to remove what was pruned")
def test_a_disk_that_refuses_is_an_error_in_words_and_leaves_whole_versions(
    long_run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(path: Path) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    with monkeypatch.context() as patched:
        patched.setattr("everstep.versions.fsops.remove_tree", refused)
        with pytest.raises(UserError, match=r"version_0 cannot be removed: .*Permission denied"):
            prune(long_run, LAST, NOW)
    assert list(state(long_run)) == [1, 2, 3, 4, 5]
    prune(long_run, LAST, NOW)
    assert list(state(long_run)) == [5]
    assert list(long_run.layout.trash.iterdir()) == []


def test_sizes_are_those_of_the_files_that_are_there(long_run: Run) -> None:
    shutil.rmtree(long_run.version(1).path / "training")
    for held in held_versions(long_run, Policy()):
        assert held.size_bytes == bytes_in(long_run.path / f"version_{held.number}")
        training = long_run.path / f"version_{held.number}" / "training"
        assert held.size_bytes - held.slim_bytes == bytes_in(training)
        assert held.is_resumable is training.exists()


# --- as commands -------------------------------------------------------------------------------------------

Everstep = Callable[..., Ended]


def test_the_verb_says_what_would_go_and_why_then_does_it(everstep: Everstep, workplace: Path, long_run: Run) -> None:
    for step in range(60, 120, 10):
        long_run.commit(draft(step))
    assert everstep("pin", "r@2").code == 0
    assert everstep("label", "r@3", "good hands", "--note", "the first with five fingers").code == 0
    said = json.loads(everstep("prune", "r", "--dry-run", "--json").out)
    assert [(row["version"], row["fate"]) for row in said if row["fate"] != "keep"] == [
        (0, "slim"), (1, "drop"), (4, "drop"), (5, "drop"), (6, "drop"), (7, "drop"), (8, "drop")
    ]  # fmt: skip
    printed = everstep("prune", "r", "--dry-run").out
    assert "pinned" in printed
    assert "labelled good hands" in printed
    assert "1 in 10" in printed
    before = version_bytes(long_run)
    done = everstep("prune", "r")
    assert done.out.startswith("Made slim: version_0. Dropped: version_1, version_4")
    assert before - version_bytes(long_run) == sum(row["frees_bytes"] for row in said)
    assert everstep("prune", "r").out == "Nothing to remove.\n"


def test_a_run_that_keeps_everything_is_not_pruned(everstep: Everstep, workplace: Path) -> None:
    run = Run.create(workplace / "runs" / "r", dump(resolve(None, {"keep": {"everything": True}})))
    run.tell_best_score("control_gain")
    for step in range(0, 60, 10):
        run.commit(draft(step))
    assert everstep("prune", "r").out == "Nothing to remove.\n"
    assert "everything is kept" in everstep("prune", "r", "--dry-run").out
    assert len(run.versions()) == 6


def test_slim_of_what_has_lost_files_is_refused(everstep: Everstep, workplace: Path, long_run: Run) -> None:
    (long_run.version(2).path / OPTIMIZER).unlink()
    ended = everstep("slim", "r@2")
    assert ended.code == 1
    assert "version_2 has lost files" in ended.out
    with pytest.raises(DamageFound):
        slim(long_run, long_run.version(2))
    assert "freed. It cannot be resumed any more" in everstep("slim", "r@1").out
