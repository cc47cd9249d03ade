"""The law: whatever the end was, the newest sealed state is committed, or still in memory and named."""

import shutil
from pathlib import Path

import pytest
from drafts import WEIGHTS, draft
from memory_of import arena, fill, named_arena

from everstep.errors import NotCommitted
from everstep.keeping.ending import recover_memory, settle
from everstep.keeping.memory import release
from everstep.versions import Run, fsops, read_tensors, verify


@pytest.fixture
def said() -> list[str]:
    return []


@pytest.mark.fault("death while a copy is made into memory")
def test_the_newest_whole_state_is_rescued_and_only_once(run: Run, said: list[str]) -> None:
    held = arena(run.path)
    for generation, (slot, step) in enumerate(zip(held.slots, (50, 40, 60), strict=True), start=1):
        fill(slot, draft(step), generation)
    held.slots[2].begin(4)  # the trainer died while it copied step 70 over step 60
    version = settle(run, held, said.append).version
    assert version is not None
    assert (version.step, version.reason) == (40, "rescue")
    again = settle(run, held, said.append)
    assert (again.version, again.is_safe) == (None, True)
    fill(held.slots[2], draft(70), 5)
    later = settle(run, held, said.append).version
    assert later is not None
    assert later.parent is not None
    assert later.parent.version == version.number
    assert said == []


@pytest.mark.fault("newest state in memory is rotten")
def test_a_rotten_state_is_named_and_the_one_before_is_taken(run: Run, said: list[str]) -> None:
    held = arena(run.path)
    fill(held.slots[0], draft(50), 1)
    fill(held.slots[1], draft(60), 2)
    held.slots[1].image(WEIGHTS)[-3] ^= 1
    version = settle(run, held, said.append).version
    assert version is not None
    assert version.step == 50
    assert said == ["A state in memory was refused: it is torn: a.weight of controlnet/weights.safetensors."]


@pytest.mark.fault("keeper that died with a state in memory")
def test_what_a_dead_run_left_in_memory_is_committed_at_the_next_start_and_removed(
    run: Run, shared: Path, said: list[str]
) -> None:
    held = named_arena(run)
    fill(held.slots[0], draft(50), 1, claimed=True)
    held.close()  # the process is gone; the file is not
    recover_memory(run, None, said.append)
    assert "Rescued version_3 (step 50) from memory" in said[0]
    assert verify(run.find("latest")) == []
    assert bytes(read_tensors(run.find("latest"), WEIGHTS)["a.weight"].buffer)
    assert list(shared.iterdir()) == []


@pytest.mark.fault("state in memory that the disk refuses at the next start")
def test_memory_that_cannot_be_written_to_disk_yet_stays_and_is_named(
    run: Run, shared: Path, said: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    held = named_arena(run)
    fill(held.slots[0], draft(50), 1)
    held.close()
    assert held.path is not None
    for _ in range(2):
        with monkeypatch.context() as patched:
            patched.setattr(fsops, "free_bytes", lambda path: 100)
            with pytest.raises(NotCommitted, match=f"Step 50 is kept in {held.path.parent}.*\nTo drop it: rm -r"):
                recover_memory(run, None, said.append)
    assert said == []
    recover_memory(run, None, said.append)
    assert "Rescued version_3" in said[0]


@pytest.mark.fault("disk that answers badly at an end: {call}")
@pytest.mark.parametrize("call", ["statvfs", "scandir"])
def test_a_disk_that_answers_badly_is_a_disk_that_refuses(
    run: Run, shared: Path, said: list[str], monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    held = arena(run.path)
    fill(held.slots[0], draft(50), 1)

    def stale(*arguments: object) -> object:
        raise OSError(116, "Stale file handle")

    with monkeypatch.context() as patched:
        patched.setattr(fsops.os, call, stale)
        settled = settle(run, held, said.append)
    assert "Stale file handle" in str(settled.refused)
    assert not settled.is_safe
    assert settle(run, held, said.append).version is not None


@pytest.mark.fault("state in memory that another host has overtaken")
def test_a_state_that_another_host_has_overtaken_is_not_gone_on_from_and_not_deleted(
    run: Run, shared: Path, said: list[str]
) -> None:
    held = named_arena(run)
    fill(held.slots[0], draft(50), 1)
    held.close()
    run.commit(draft(5000))  # on another machine, which sees the disk but not this memory
    recover_memory(run, None, said.append)
    assert run.find("latest").step == 5000
    assert held.path is not None
    assert held.path.exists()
    assert "holds step 50 of this run, which version_3 (step 5,000) has overtaken" in said[0]


def test_a_step_back_by_our_own_hand_is_not_mistaken_for_another_host(run: Run, shared: Path, said: list[str]) -> None:
    """resume RUN@1, then a death: the memory is behind the newest version in steps, but newer all the same."""
    held = named_arena(run)  # the run has step 20 already
    fill(held.slots[0], draft(15), 1)
    held.close()
    recover_memory(run, None, said.append)
    assert run.find("latest").step == 15


@pytest.mark.fault("memory of a run that was deleted")
def test_memory_of_a_run_that_was_deleted_is_not_taken_for_that_of_a_new_one_at_its_place(
    run: Run, shared: Path, said: list[str]
) -> None:
    held = named_arena(run)
    fill(held.slots[0], draft(50), 1)
    held.close()
    shutil.rmtree(run.path)
    new = Run.create(run.path, "a: 2\n")
    recover_memory(new, None, said.append)
    assert new.versions() == []
    assert held.path is not None
    assert held.path.exists()
    shutil.rmtree(held.path.parent)


def test_a_label_that_was_asked_for_is_not_lost_with_its_trainer(run: Run, said: list[str]) -> None:
    from memory_of import copy

    from everstep.keeping.sealed import slot_notes

    held = arena(run.path)
    held.slots[0].begin(1)
    held.slots[0].seal(slot_notes(draft(50), copy(held.slots[0], draft(50)), "before lunch"), claimed=True)
    version = settle(run, held, said.append).version
    assert version is not None
    assert run.annotation(version.number).labels == ("before lunch",)
    release(held)
