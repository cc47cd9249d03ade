"""A version that several machines write: whole, or not there; whichever of them is lost, slow, or wrong."""

import json
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest
from memory_of import copy, large_draft
from writing_together import Together, is_as_drafted

from everstep.keeping import extents
from everstep.keeping.arena import PlannedFile, SlotState
from everstep.keeping.extents import ASKED, LEAST_BYTES, Extent, shared_out
from everstep.keeping.sealed import WRITE_BYTES, slot_notes
from everstep.versions import Run, fsops

# --- who writes what -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("machines", [1, 2, 3, 7])
@pytest.mark.parametrize("sizes", [(1 << 30, 5, 0, (1 << 31) + 17), (WRITE_BYTES * 40,), (LEAST_BYTES * 9 + 1, 1)])
def test_every_byte_is_written_by_one_machine(sizes: tuple[int, ...], machines: int) -> None:
    files = [PlannedFile(str(number), size) for number, size in enumerate(sizes)]
    shares = shared_out(files, machines)
    assert len(shares) == machines
    flat = [extent for share in shares for extent in share]
    for file in files:
        mine = [extent for extent in flat if extent.path == file.path]
        ends = [0, *(extent.end for extent in mine)]
        assert [extent.begin for extent in mine] == ends[:-1]
        assert ends[-1] == file.size_bytes
        assert all(extent.begin % WRITE_BYTES == 0 for extent in mine)
    written = [sum(extent.end - extent.begin for extent in share) for share in shares]
    assert max(written) - min(written) <= 2 * WRITE_BYTES


def test_little_is_written_by_fewer_machines() -> None:
    assert shared_out([PlannedFile("a", LEAST_BYTES * 2 + 5)], 8) == [
        [Extent("a", 0, LEAST_BYTES)],
        [Extent("a", LEAST_BYTES, LEAST_BYTES * 2 + 5)],
    ]
    assert len(shared_out([PlannedFile("a", 100)], 8)) == 1
    assert shared_out([], 8) == [[]]


# --- how it is written ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("others", [1, 2])
def test_machines_write_one_version(
    others: int, together: Callable[[int], Together], monkeypatch: pytest.MonkeyPatch
) -> None:
    wrote = dict[str, set[int]]()
    real = fsops.write_pages

    def noted(descriptor: int, pages: memoryview, offset: int) -> None:
        wrote.setdefault(threading.current_thread().name.partition("_")[0], set()).add(pages.nbytes)
        real(descriptor, pages, offset)

    monkeypatch.setattr("everstep.keeping.sealed.write_pages", noted)
    monkeypatch.setattr(fsops, "write_pages", noted)
    all_of = together(others)
    all_of.start()
    for generation in (1, 2, 3, 4):
        made = large_draft(70 + generation)
        is_as_drafted(all_of.commit(made, generation), made)
    # Every file's bytes came from one of them, and from nobody twice.
    assert set(wrote) == {"everstep-commit", "everstep-extents"}
    assert all_of.said == [f"Versions are written by {1 + others} machines, each its part."]
    assert {slot.state for machine in all_of.machines for slot in machine.arena.slots} <= {
        SlotState.SEALED,
        SlotState.FREE,
    }


@pytest.mark.fault("a machine that does not write its part")
def test_a_machine_that_is_lost_costs_its_patience_and_no_version(together: Callable[[int], Together]) -> None:
    all_of = together(1)  # it holds the copy, and is not there any more
    made = large_draft(71)
    is_as_drafted(all_of.commit(made), made)
    assert "Machine 1 has not written its part within 1 s." in all_of.said[-1]
    assert not list(all_of.run_.path.glob(".version*"))
    asked = (all_of.run_.layout.nodes / ASKED).read_bytes()
    made = large_draft(72)
    is_as_drafted(all_of.commit(made, 2), made)
    assert (all_of.run_.layout.nodes / ASKED).read_bytes() == asked  # not again


@pytest.mark.fault("a machine that writes its part when it is too late")
def test_whoever_comes_late_writes_into_nothing(
    together: Callable[[int], Together], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stopped within its write, and continued once the version is there, with other bits in its memory."""
    all_of, real, may_go_on, has_gone_on = together(1), fsops.write_pages, threading.Event(), threading.Event()

    def stopped(descriptor: int, pages: memoryview, offset: int) -> None:
        if threading.current_thread().name.startswith("everstep-extents"):
            may_go_on.wait(30)
            real(descriptor, memoryview(bytes(pages.nbytes)), offset)
            has_gone_on.set()
        else:
            real(descriptor, pages, offset)

    monkeypatch.setattr(fsops, "write_pages", stopped)
    all_of.start()
    made = large_draft(71)
    version = all_of.commit(made)
    may_go_on.set()
    assert has_gone_on.wait(30)
    all_of.machines[0].end()
    is_as_drafted(version, made)


@pytest.mark.fault("a machine whose memory holds other bits")
def test_a_machine_that_holds_other_bits_is_found_out(together: Callable[[int], Together]) -> None:
    all_of = together(1)
    all_of.start()
    made, other = large_draft(71), large_draft(71)
    tensor = other.tensor_files[1].tensors["a"]
    tensor.array[WRITE_BYTES - 5] ^= 1  # type: ignore[attr-defined]
    is_as_drafted(all_of.commit(made, theirs=other), made)
    assert "Machine 1 holds other bits than the first one in a of in/y" in all_of.said[-1]


@pytest.mark.fault("a machine's memory that rots: {when}")
@pytest.mark.parametrize("when", ["before it is written", "while it is written"])
def test_memory_that_rots_on_another_machine_is_refused(
    when: str, together: Callable[[int], Together], monkeypatch: pytest.MonkeyPatch
) -> None:
    all_of, real = together(1), fsops.write_pages
    image = all_of.machines[0].arena.slots[1].image("in/y")

    def rotting(descriptor: int, pages: memoryview, offset: int) -> None:
        is_theirs = threading.current_thread().name.startswith("everstep-extents")
        if is_theirs and when.startswith("before"):
            image[4321] ^= 1
        real(descriptor, pages, offset)
        if is_theirs and when.startswith("while"):
            image[4321] ^= 1

    monkeypatch.setattr(fsops, "write_pages", rotting)
    all_of.start()
    made = large_draft(71)
    is_as_drafted(all_of.commit(made), made)
    assert "in/y is torn in its memory" in all_of.said[-1]


@pytest.mark.fault("a machine whose disk refuses its part")
def test_a_disk_that_refuses_one_machine_costs_no_version(
    together: Callable[[int], Together], monkeypatch: pytest.MonkeyPatch
) -> None:
    all_of, real = together(1), fsops.write_pages

    def refused(descriptor: int, pages: memoryview, offset: int) -> None:
        if threading.current_thread().name.startswith("everstep-extents"):
            raise OSError(5, "Input/output error")
        real(descriptor, pages, offset)

    monkeypatch.setattr(fsops, "write_pages", refused)
    all_of.start()
    made = large_draft(71)
    is_as_drafted(all_of.commit(made), made)
    assert "Input/output error" in all_of.said[-1]


def test_a_machine_that_has_left_a_copy_out_says_so(together: Callable[[int], Together]) -> None:
    all_of = together(1)
    all_of.start()
    all_of.machines[0].claim(5, large_draft(99), 2)  # a later one than is asked for
    slot, made = all_of.arena.slots[0], large_draft(71)
    slot.begin(1)
    all_of.committer.claim(0, 1, made.step)
    slot.seal(slot_notes(made, copy(slot, made)), claimed=True)
    all_of.committer.sealed(1)
    until = time.monotonic() + 30
    while not (ended := list(all_of.committer.outcomes())):
        assert time.monotonic() < until
        time.sleep(0.01)
    assert ended[0].version is not None
    is_as_drafted(ended[0].version, made)
    assert "its copy 1 is not in memory there" in all_of.said[-1]


@pytest.mark.parametrize(
    "staging", ["..", "version_1", "../.version_3.0a0a0a0a.part", ".version_3.0a0a0a0a.part/../version_1", 7, None]
)
def test_what_nobody_asks_for_is_not_written(run: Run, staging: Any) -> None:
    words = {"commit": "a", "generation": 1, "staging": staging, "extents": {"1": [["a", 0, 1]]}}
    run.layout.nodes.mkdir(parents=True)
    (run.layout.nodes / ASKED).write_text(json.dumps(words))
    assert extents.wanted(run.layout, 1) is None
