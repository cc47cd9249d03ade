"""Where memory comes from, and what lies there: taken where there is room, never removed while it holds something."""

import fcntl
import os
import subprocess
import threading
from pathlib import Path

import pytest
from drafts import draft
from memory_of import fill, named_arena, plan_for

from everstep.keeping import memory, room
from everstep.keeping.memory import leftovers, lying_about, release, shelter, take_memory
from everstep.versions import Run
from everstep.versions.layout import identity_of


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


@pytest.mark.fault("shared memory without room")
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


def test_memory_that_the_first_step_will_take_is_left_to_it(
    run: Run, shared: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory, "available_bytes", lambda: 1 << 20)
    taken = take_memory(lambda count: plan_for(run.path, count), None, coming_bytes=(1 << 20) - 90_000)
    assert taken.arena is not None
    assert len(taken.arena.slots) == 2
    assert "memory has 90.0 kB to spare" in taken.where


@pytest.mark.fault("memory of a run whose folder cannot be seen")
def test_memory_of_other_runs_is_left_alone_even_where_their_folder_cannot_be_seen(
    run: Run, shared: Path, tmp_path: Path
) -> None:
    other = Run.create(tmp_path / "runs" / "other", "a: 1\n")
    held = named_arena(other)
    fill(held.slots[0], draft(50), 1)
    held.close()
    other.path.rename(tmp_path / "unmounted")
    assert list(leftovers(run.path, identity_of(run.path), None)) == []
    assert held.path is not None
    assert held.path.exists()
    found = [one for one in lying_about(None) if one.path == held.path.parent]
    assert [(one.run, one.step, one.is_used) for one in found] == [(str(other.path), 50, False)]


def test_memory_in_which_nothing_was_ever_sealed_is_given_back(run: Run, shared: Path, tmp_path: Path) -> None:
    other = Run.create(tmp_path / "runs" / "other", "a: 1\n")
    held = named_arena(other)
    held.close()
    assert list(leftovers(run.path, identity_of(run.path), None)) == []
    assert list(shared.iterdir()) == []


@pytest.mark.fault("memory that a trainer without a keeper still uses")
def test_memory_that_a_process_still_uses_is_nobody_elses(run: Run, shared: Path) -> None:
    held = named_arena(run)
    fill(held.slots[0], draft(50), 1)
    # A trainer that outlived its keeper has the open file, and with it the lock.
    trainer = subprocess.Popen(["sleep", "100"], pass_fds=[held.descriptor])
    held.close()
    try:
        assert list(leftovers(run.path, identity_of(run.path), None)) == []
        assert [one.is_used for one in lying_about(None) if one.run == str(run.path)] == [True]
    finally:
        trainer.kill()
        trainer.wait()
    found = list(leftovers(run.path, identity_of(run.path), None))
    assert len(found) == 1
    release(found[0])


def test_memory_of_a_run_that_was_moved_is_found_under_its_new_place(run: Run, shared: Path, tmp_path: Path) -> None:
    held = named_arena(run)
    fill(held.slots[0], draft(50), 1)
    held.close()
    moved = run.path.rename(tmp_path / "elsewhere")
    found = list(leftovers(moved, identity_of(moved), None))
    assert len(found) == 1
    release(found[0])


@pytest.mark.fault("copy of a run beside the memory of the run")
def test_a_copy_of_a_run_does_not_get_the_memory_of_the_run_it_was_copied_from(
    run: Run, shared: Path, tmp_path: Path
) -> None:
    held = named_arena(run)
    fill(held.slots[0], draft(50), 1)
    held.close()
    subprocess.run(["cp", "-r", run.path, tmp_path / "copy"], check=True)
    assert list(leftovers(tmp_path / "copy", identity_of(run.path), None)) == []
    assert held.path is not None
    assert held.path.exists()


@pytest.mark.fault("bit flipped in what memory says of itself")
@pytest.mark.parametrize("offset", [*range(0, 32, 3), 130, 200, 260])
@pytest.mark.parametrize("bit", [0, 7])
def test_a_bit_that_flipped_in_what_memory_says_of_itself_ends_no_start_and_deletes_nothing(
    run: Run, shared: Path, offset: int, bit: int
) -> None:
    held = named_arena(run)
    fill(held.slots[0], draft(50), 1)
    os.pwrite(held.descriptor, bytes([os.pread(held.descriptor, 1, offset)[0] ^ (1 << bit)]), offset)
    held.close()
    assert all(arena.newest() is not None for arena in leftovers(run.path, identity_of(run.path), None))
    assert len(list(shared.iterdir())) == 1
    assert held.path is not None
    taken = shared / held.path.parent.name.replace("everstep-", "everstep-damaged-")
    assert taken.exists()  # magic, length, digest and the plan itself: none of it is believed
    assert next(one.why for one in lying_about(None) if one.path == taken)


@pytest.mark.fault("file of somebody else's in shared memory")
def test_a_file_that_is_none_of_ours_is_set_aside_and_another_users_is_not_touched(run: Run, shared: Path) -> None:
    (shared / "everstep-odd").mkdir()
    (shared / "everstep-odd" / "arena").write_bytes(b"something else" * 100)
    assert list(leftovers(run.path, identity_of(run.path), None)) == []
    assert (shared / "everstep-damaged-odd" / "arena").read_bytes() == b"something else" * 100


@pytest.mark.fault("memory without a name when its keeper must go")
def test_memory_without_a_name_is_sheltered_on_a_disk_and_found_there(
    run: Run, shared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "var").mkdir()
    monkeypatch.setattr(memory, "shelters", lambda: (tmp_path / "missing" / "no", tmp_path / "var"))
    shared.rename(tmp_path / "away")
    taken = take_memory(lambda slots: plan_for(run.path, slots), None)
    assert taken.arena is not None
    assert taken.arena.path is None
    fill(taken.arena.slots[0], draft(50), 1)
    (tmp_path / "missing").write_text("in the way of a folder")
    path = shelter(taken.arena)
    release(taken.arena)
    assert path is not None
    assert path.is_relative_to(tmp_path / "var")
    found = list(leftovers(run.path, identity_of(run.path), None))
    assert [arena.newest().notes()["step"] for arena in found] == [50]
    release(found[0])


@pytest.mark.fault("everstep status looks at memory while a start takes it")
def test_whoever_only_looks_keeps_no_start_from_its_memory(run: Run, shared: Path) -> None:
    held = named_arena(run)
    fill(held.slots[0], draft(50), 1)
    held.close()
    assert held.path is not None
    with held.path.open("r+b") as looking:
        fcntl.flock(looking, fcntl.LOCK_SH)
        threading.Timer(0.02, fcntl.flock, (looking, fcntl.LOCK_UN)).start()
        found = list(leftovers(run.path, identity_of(run.path), None))
    assert [arena.path for arena in found] == [held.path]
    release(found[0])


# --- limits ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "files"),
    [
        ("0::/a/b", {"a/memory.max": "1000000000", "a/memory.current": "1", "a/b/memory.max": "max"}),
        ("4:memory:/a/b", {"memory/a/memory.limit_in_bytes": "1000000000", "memory/a/memory.usage_in_bytes": "1"}),
        ("4:cpu,memory:/gone", {"memory/memory.limit_in_bytes": "1000000000", "memory/memory.usage_in_bytes": "1"}),
    ],
)
def test_the_limit_of_any_control_group_that_we_are_in_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, line: str, files: dict[str, str]
) -> None:
    for name, content in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(content)
        if name.endswith("memory.max") and content == "max":
            (tmp_path / name).with_name("memory.current").write_text("1")
    groups = tmp_path / "groups"
    groups.write_text(line + "\n")
    monkeypatch.setattr(room, "GROUPS", tmp_path)
    monkeypatch.setattr(room, "OWN_GROUPS", groups)
    available = room.available_bytes()
    assert available is not None
    assert 0 < available < 1_000_000_000
