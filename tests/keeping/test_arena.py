"""Memory that outlives the trainer: what is sealed can be committed by anybody, what is torn by nobody."""

import os
import shutil
from pathlib import Path

import pytest
from drafts import OPTIMIZER, WEIGHTS, draft
from hypothesis import given
from hypothesis import strategies as st
from memory_of import arena, copy, fill, plan_for

from everstep.errors import DamageFound, NotCommitted
from everstep.keeping import memory
from everstep.keeping.arena import Arena, SlotState
from everstep.keeping.memory import leftovers, recover_arenas, release, take_memory
from everstep.keeping.sealed import commit_slot, rescue, slot_notes
from everstep.versions import Run, fsops, read_tensors, verify


def test_a_sealed_slot_becomes_the_same_version_as_a_direct_commit(run: Run) -> None:
    held = arena(run.path)
    fill(held.slots[1], draft(30), 1)
    version = commit_slot(run, held, held.slots[1])
    direct = run.commit(draft(30))
    assert verify(version) == []
    assert (version.step, version.images_seen, version.reason) == (30, 120, "interval")
    for path in (WEIGHTS, OPTIMIZER, "digests.json", "hparams.yaml", "training/state.json"):
        assert (version.path / path).read_bytes() == (direct.path / path).read_bytes()


def test_the_newest_whole_state_is_rescued_and_only_once(run: Run) -> None:
    held = arena(run.path)
    for generation, (slot, step) in enumerate(zip(held.slots, (50, 40, 60), strict=True), start=1):
        fill(slot, draft(step), generation)
    held.slots[2].begin(4)  # the trainer died while it copied step 70 over step 60
    version, refused = rescue(run, held)
    assert version is not None
    assert refused == []
    assert (version.step, version.reason) == (40, "rescue")
    assert rescue(run, held) == (None, [])
    fill(held.slots[2], draft(70), 5)
    again, _ = rescue(run, held)
    assert again is not None
    assert again.parent is not None
    assert again.parent.version == version.number


@pytest.mark.parametrize(
    ("path", "offset", "named"),
    [(WEIGHTS, -3, "is torn: 1 tensors of"), (OPTIMIZER, -3, "is torn"), (WEIGHTS, 30, "header")],
)
def test_rotten_memory_is_refused_and_the_state_before_is_taken(run: Run, path: str, offset: int, named: str) -> None:
    held = arena(run.path)
    fill(held.slots[0], draft(50), 1)
    fill(held.slots[1], draft(60), 2)
    held.slots[1].image(path)[offset] ^= 1
    version, refused = rescue(run, held)
    assert version is not None
    assert version.step == 50
    assert named in refused[0]
    assert len(run.versions()) == 4
    assert not list(run.path.glob(".version*"))


def test_a_step_taken_during_the_copy_is_refused(run: Run) -> None:
    """The digests are of the state before, the bytes partly of the state after."""
    held = arena(run.path)
    held.slots[0].begin(1)
    digests = copy(held.slots[0], draft(50))
    after = copy(held.slots[1], draft(51))
    assert after != digests
    held.slots[0].image(OPTIMIZER)[:] = held.slots[1].image(OPTIMIZER)
    held.slots[0].seal(slot_notes(draft(50), digests), claimed=True)
    with pytest.raises(DamageFound, match="is torn: 3 tensors of training"):
        commit_slot(run, held, held.slots[0])
    assert len(run.versions()) == 3


def test_notes_that_rotted_are_refused(run: Run) -> None:
    held = arena(run.path)
    fill(held.slots[0], draft(50), 1)
    held.slots[0]._view[4096 + 5] ^= 1
    version, refused = rescue(run, held)
    assert version is None
    assert "notes that fail their digest" in refused[0]


@given(st.lists(st.sampled_from(["begin", "fill", "claim", "give back"]), max_size=30))
def test_whatever_happened_to_slots_the_newest_whole_one_is_the_newest_that_was_sealed(acts: list[str]) -> None:
    held = arena(Path("/nowhere"))
    content: dict[int, int | None] = {0: None, 1: None, 2: None}
    for generation, act in enumerate(acts, start=1):
        slot = held.slots[generation % 3]
        if act == "begin":
            slot.begin(generation)
            content[slot.number] = None
        elif act in ("fill", "claim"):
            fill(slot, draft(generation), generation, claimed=act == "claim")
            content[slot.number] = generation
        elif slot.state is SlotState.CLAIMED:
            slot.set_state(SlotState.SEALED)
    expected = max((g for g in content.values() if g is not None), default=None)
    newest = held.newest()
    assert (None if newest is None else newest.notes()["step"]) == expected
    held.close()


# --- where the memory comes from ---------------------------------------------------------------------------


@pytest.fixture
def shared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "shm"
    folder.mkdir()
    monkeypatch.setattr(memory, "SHARED_MEMORY", folder)
    return folder


def test_a_named_folder_comes_first_then_shared_memory_then_a_nameless_file(
    run: Run, shared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = tmp_path / "ram"
    asked.mkdir()
    first = take_memory(lambda slots: plan_for(run.path, slots), asked)
    second = take_memory(lambda slots: plan_for(run.path, slots), None)
    shared.rename(tmp_path / "away")
    third = take_memory(lambda slots: plan_for(run.path, slots), None)
    assert first.arena is not None
    assert first.arena.path is not None
    assert first.arena.path.is_relative_to(asked)
    assert first.arena.path.parent.stat().st_mode & 0o777 == 0o700
    assert second.arena is not None
    assert second.arena.path is not None
    assert second.arena.path.is_relative_to(shared)
    assert third.arena is not None
    assert third.arena.path is None
    assert third.where.startswith("3 slots, ")
    assert "nameless" in third.where


def test_a_shared_memory_without_room_leads_to_the_next_place_and_says_so(
    run: Run, shared: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.posix_fallocate

    def full(descriptor: int, offset: int, size: int) -> None:
        if os.readlink(f"/proc/self/fd/{descriptor}").startswith(str(shared)):
            raise OSError(28, "No space left on device")
        real(descriptor, offset, size)

    monkeypatch.setattr(memory.os, "posix_fallocate", full)
    taken = take_memory(lambda slots: plan_for(run.path, slots), None)
    assert taken.arena is not None
    assert taken.arena.path is None
    assert "has no room for 3 slots (No space left on device)" in taken.where
    assert list(shared.iterdir()) == []


@pytest.mark.parametrize(("room", "slots"), [(1 << 30, 3), (90_000, 2), (10_000, None)])
def test_little_memory_makes_fewer_slots_or_none(
    run: Run, shared: Path, monkeypatch: pytest.MonkeyPatch, room: int, slots: int | None
) -> None:
    monkeypatch.setattr(memory, "available_bytes", lambda: room)
    three, two = (plan_for(run.path, count).size_bytes for count in (3, 2))
    assert two < 90_000 < three
    taken = take_memory(lambda count: plan_for(run.path, count), None)
    assert (len(taken.arena.slots) if taken.arena else None) == slots
    if slots is None:
        assert "versions are written while training waits" in taken.where


def named_arena(run: Run) -> Arena:
    taken = take_memory(lambda slots: plan_for(run.path, slots), None)
    assert taken.arena is not None
    return taken.arena


def test_what_a_dead_run_left_in_memory_is_committed_at_the_next_start_and_removed(run: Run, shared: Path) -> None:
    held = named_arena(run)
    fill(held.slots[0], draft(50), 1, claimed=True)
    held.close()  # the process is gone; the file is not
    said = recover_arenas(run, None)
    assert "Rescued version_3 (step 50) from memory" in said[0]
    assert verify(run.find("latest")) == []
    assert bytes(read_tensors(run.find("latest"), WEIGHTS)["a.weight"].buffer)
    assert list(shared.iterdir()) == []


def test_memory_that_cannot_be_written_to_disk_yet_stays(
    run: Run, shared: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    held = named_arena(run)
    fill(held.slots[0], draft(50), 1)
    with monkeypatch.context() as patched:
        patched.setattr(fsops, "free_bytes", lambda path: 100)
        with pytest.raises(NotCommitted):
            recover_arenas(run, None)
    assert "Rescued version_3" in recover_arenas(run, None)[0]


def test_memory_of_other_runs_is_left_alone_unless_the_run_is_gone(run: Run, shared: Path, tmp_path: Path) -> None:
    other = Run.create(tmp_path / "runs" / "other", "a: 1\n")
    held = named_arena(other)
    (shared / "everstep-odd").mkdir()
    (shared / "everstep-odd" / "arena").write_bytes(b"something else")
    assert list(leftovers(run.path, None)) == []
    assert held.path is not None
    assert held.path.exists()
    shutil.rmtree(other.path)
    assert list(leftovers(run.path, None)) == []
    assert not held.path.exists()
    assert (shared / "everstep-odd" / "arena").exists()
    release(held)


def test_memory_of_a_run_that_was_deleted_is_not_taken_for_that_of_a_new_one_at_its_place(
    run: Run, shared: Path
) -> None:
    held = named_arena(run)
    fill(held.slots[0], draft(50), 1)
    shutil.rmtree(run.path)
    new = Run.create(run.path, "a: 2\n")
    assert recover_arenas(new, None) == []
    assert new.versions() == []
    assert held.path is not None
    assert not held.path.exists()
    release(held)
