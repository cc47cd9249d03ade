"""From a slot to a version: what is committed is what was sealed, whenever its bytes arrive, or it is refused."""

import os
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from drafts import OPTIMIZER, WEIGHTS, arrays, draft
from memory_of import arena, content, copy, fill, large_arena, large_draft

from everstep.contracts import Draft, Reason
from everstep.errors import DamageFound, NotCommitted
from everstep.keeping.arena import Arena, PlannedFile
from everstep.keeping.sealed import WRITE_BYTES, Filling, commit_slot, piece_digests, slot_notes
from everstep.versions import Run, fsops, verify
from everstep.versions.tensorfile import TensorImage


def test_a_sealed_slot_becomes_the_same_version_as_a_direct_commit(run: Run) -> None:
    held = arena(run.path)
    fill(held.slots[1], draft(30), 1)
    version = commit_slot(run, held, Filling.of_sealed(held.slots[1]))
    direct = run.commit(draft(30))
    assert verify(version) == []
    assert (version.step, version.images_seen, version.reason) == (30, 120, "interval")
    for path in (WEIGHTS, OPTIMIZER, "digests.json", "hparams.yaml", "training/state.json"):
        assert (version.path / path).read_bytes() == (direct.path / path).read_bytes()


@pytest.mark.fault("bit flipped in memory: {named}")
@pytest.mark.parametrize(
    ("path", "offset", "named"),
    [(WEIGHTS, -3, "is torn: a.weight of"), (OPTIMIZER, -3, "is torn"), (WEIGHTS, 30, "header")],
)
def test_rotten_memory_is_refused_and_names_what_lies_there(run: Run, path: str, offset: int, named: str) -> None:
    held = arena(run.path)
    fill(held.slots[0], draft(60), 1)
    held.slots[0].image(path)[offset] ^= 1
    with pytest.raises(DamageFound, match=named):
        commit_slot(run, held, Filling.of_sealed(held.slots[0]))
    assert len(run.versions()) == 3
    assert not list(run.path.glob(".version*"))


def test_a_version_that_ends_a_training_keeps_its_reason_when_it_is_rescued(run: Run) -> None:
    held = arena(run.path)
    fill(held.slots[0], draft(30), 1)
    fill(held.slots[1], draft(40, "final"), 2)
    reasons = [commit_slot(run, held, Filling.of_sealed(slot), None, Reason.RESCUE).reason for slot in held.slots[:2]]
    assert reasons == ["rescue", "final"]


# --- written behind the copy -------------------------------------------------------------------------------


class Copying(threading.Thread):
    """A trainer that copies slowly, and says how far it has come."""

    def __init__(self, held: Arena, made: Draft, filling: Filling, end: Callable[[], None]) -> None:
        super().__init__()
        self.held, self.made, self.filling, self.end = held, made, filling, end

    def run(self) -> None:
        slot, done = self.filling.slot, 0
        for path, bytes_of in content(self.made).items():
            image = slot.image(path)
            for begin in range(0, len(bytes_of), 3 << 20):
                piece = bytes_of[begin : begin + (3 << 20)]
                image[begin : begin + len(piece)] = piece
                slot.tell_copied(done + begin + len(piece))
                time.sleep(0.002)
            done += len(bytes_of)
        self.end()


def begun(held: Arena, made: Draft, end: str) -> tuple[Filling, Copying]:
    slot = held.slots[0]
    slot.begin(1)
    filling = Filling(slot, 1, made.step)

    def finish() -> None:
        if end == "seal":
            slot.seal(slot_notes(made, {path: piece_digests(slot.image(path)) for path in content(made)}), claimed=True)
            filling.sealed()
        elif end == "void":
            filling.void("came to nothing")
        elif end == "reuse":
            slot.begin(2)

    return filling, Copying(held, made, filling, finish)


def test_a_version_is_written_while_its_copy_is_made_and_appears_after_its_seal_only(run: Run) -> None:
    held, made = large_arena(run), large_draft(70)
    filling, copying = begun(held, made, "seal")
    seen: list[int] = []
    real_end = copying.end

    def end() -> None:
        seen.append(len(run.versions()))
        staged = [path.stat().st_size for path in run.path.glob(".version*.part/**/*") if path.is_file()]
        seen.append(sum(staged))
        real_end()

    copying.end = end
    copying.start()
    version = commit_slot(run, held, filling)
    copying.join()
    assert seen[0] == 3  # not one more, though most of it was written already
    assert seen[1] >= WRITE_BYTES
    assert verify(version) == []
    assert {path: (version.path / path).read_bytes() for path in content(made)} == content(made)


@pytest.mark.fault("claimed copy that comes to nothing: {end}")
@pytest.mark.parametrize(("end", "said"), [("void", "came to nothing"), ("reuse", "was overwritten")])
def test_a_copy_that_comes_to_nothing_leaves_nothing(run: Run, end: str, said: str) -> None:
    held, made = large_arena(run), large_draft(70)
    filling, copying = begun(held, made, end)
    copying.start()
    with pytest.raises(DamageFound, match=said):
        commit_slot(run, held, filling)
    copying.join()
    assert len(run.versions()) == 3
    assert not list(run.path.glob(".version*"))


@pytest.mark.fault("slot used anew while it is written")
def test_a_slot_that_is_used_anew_while_it_is_written_is_refused_at_every_moment(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As after a hang: the trainer comes to life and copies its next state over the one that is being committed."""
    real, held = fsops.write_pages, arena(run.path)
    for nth in range(1, 3):
        fill(held.slots[0], draft(50), 2 * nth - 1)
        filling, count = Filling.of_sealed(held.slots[0]), 0

        def overtaken(*arguments: object, nth: int = nth) -> None:
            nonlocal count
            count += 1
            real(*arguments)
            if count == nth:
                fill(held.slots[0], draft(51), 2 * nth)

        with monkeypatch.context() as patched:
            patched.setattr("everstep.keeping.sealed.write_pages", overtaken)
            with pytest.raises(DamageFound, match="was overwritten"):
                commit_slot(run, held, filling)
        assert count >= nth
    assert len(run.versions()) == 3


@pytest.mark.fault("state in memory that is not of one step")
def test_a_step_taken_during_the_copy_is_refused(run: Run) -> None:
    """The digests are of the state before, the bytes partly of the state after."""
    held = arena(run.path)
    held.slots[0].begin(1)
    digests = copy(held.slots[0], draft(50))
    copy(held.slots[1], draft(51))
    held.slots[0].image(OPTIMIZER)[:] = held.slots[1].image(OPTIMIZER)
    held.slots[0].seal(slot_notes(draft(50), digests), claimed=True)
    with pytest.raises(DamageFound, match=r"is torn: .* of training"):
        commit_slot(run, held, Filling.of_sealed(held.slots[0]))
    assert len(run.versions()) == 3


# --- disks that answer badly -------------------------------------------------------------------------------


@pytest.mark.fault("O_DIRECT taken at the open, refused at the write")
def test_a_disk_that_takes_o_direct_at_the_open_and_refuses_it_at_the_write_gets_the_version(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    import fcntl

    real, refused = os.pwrite, 0

    def pwrite(descriptor: int, piece: memoryview, offset: int) -> int:
        nonlocal refused
        if fcntl.fcntl(descriptor, fcntl.F_GETFL) & os.O_DIRECT:
            refused += 1
            raise OSError(22, "Invalid argument")
        return real(descriptor, piece, offset)

    monkeypatch.setattr(fsops.os, "pwrite", pwrite)
    held = arena(run.path)
    fill(held.slots[0], draft(50), 1)
    version = commit_slot(run, held, Filling.of_sealed(held.slots[0]))
    assert refused > 0
    assert verify(version) == []
    assert arrays(50).keys() <= version.files.keys()


@pytest.mark.fault("commit from memory that the disk refuses")
def test_a_commit_that_the_disk_refuses_leaves_the_slot_as_it_was(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    held = arena(run.path)
    fill(held.slots[0], draft(50), 1)
    with monkeypatch.context() as patched:
        patched.setattr(fsops, "free_bytes", lambda path: 100)
        with pytest.raises(NotCommitted):
            commit_slot(run, held, Filling.of_sealed(held.slots[0]))
    assert commit_slot(run, held, Filling.of_sealed(held.slots[0])).step == 50


@pytest.mark.fault("memory that an older keeper left")
def test_what_a_keeper_of_the_first_layout_left_is_still_rescued(run: Run, tmp_path: Path) -> None:
    """Bytes as they were laid out at first: another head, digests by tensor, no plan digest."""
    import json

    from everstep.keeping.arena import HEAD_1, MAGIC_1, ArenaPlan

    files = tuple(PlannedFile(file.path, TensorImage(file).size_bytes) for file in draft(0).tensor_files)
    plan = ArenaPlan(str(run.path), files, 1 << 14, 2, "0123456789abcdef", "id", is_first=True)
    path = tmp_path / "arena"
    path.write_bytes(bytes(plan.size_bytes))
    descriptor = os.open(path, os.O_RDWR)
    os.pwrite(descriptor, HEAD_1.pack(MAGIC_1, 1, 50, len(plan.encoded())) + plan.encoded(), 0)
    held = Arena.attach(descriptor)
    assert "is_first" not in json.loads(plan.encoded())
    made, slot = draft(50), held.slots[1]
    slot.begin(7)
    copy(slot, made)
    images = {file.path: TensorImage(file) for file in made.tensor_files}
    for image in images.values():
        assert b"".join(bytes(piece) for piece in image.pieces())
    notes = slot_notes(made, {})
    notes.pop("pieces")
    slot.seal({**notes, "digests": {path: image.digests for path, image in images.items()}}, claimed=False)
    slot.tell_copied(0)  # it was not counted then
    version = commit_slot(run, held, Filling.of_sealed(slot))
    assert verify(version) == []
    slot.image(WEIGHTS)[-3] ^= 1
    with pytest.raises(DamageFound, match="is torn"):
        commit_slot(run, held, Filling.of_sealed(slot))
