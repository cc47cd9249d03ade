"""Memory on a machine that is not the first: given back once all of it is a version, else kept, and rescued from."""

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from memory_of import copy, large_arena, large_draft
from writing_together import Machine, Together, is_as_drafted

from everstep.keeping.deputy import Deputy
from everstep.keeping.memory import release
from everstep.keeping.sealed import slot_notes
from everstep.versions import Run


def test_memory_is_given_back_once_all_of_it_is_a_version(together: Callable[[int], Together]) -> None:
    all_of = together(1)
    all_of.start()
    all_of.commit(large_draft(71))
    machine = all_of.machines[0]
    machine.end()
    path = machine.arena.path
    assert path is not None
    assert path.exists()
    machine.deputy.let_go()
    assert not path.exists()


@pytest.mark.fault("the first machine, with all that it held")
def test_what_only_another_machine_holds_is_kept_and_rescued_from_there(together: Callable[[int], Together]) -> None:
    all_of = together(1)
    all_of.start()
    all_of.commit(large_draft(71))
    machine, made = all_of.machines[0], large_draft(75)
    held = machine.arena.slots[2]
    held.begin(2)
    held.seal(slot_notes(made, copy(held, made)), claimed=False)
    machine.end()
    machine.deputy.let_go()
    assert "step 75" in machine.said[-1].lower()
    again = Deputy(all_of.run_, 1, None, machine.said.append)
    assert again.left() == 75
    number = again.rescue()
    assert isinstance(number, int)
    version = all_of.run_.version(number)
    assert version.reason == "rescue"
    is_as_drafted(version, made)
    assert again.left() is None
    assert machine.arena.path is not None
    assert not machine.arena.path.exists()


@pytest.mark.fault("the first machine, whose run went on elsewhere")
def test_memory_that_the_run_has_overtaken_is_not_offered(together: Callable[[int], Together]) -> None:
    all_of = together(1)
    machine, made = all_of.machines[0], large_draft(75)
    held = machine.arena.slots[2]
    held.begin(2)
    held.seal(slot_notes(made, copy(held, made)), claimed=False)
    machine.deputy.let_go()
    all_of.run_.commit(replace(large_draft(80)))
    again = Deputy(all_of.run_, 1, None, machine.said.append)
    assert again.left() is None
    assert machine.arena.path is not None
    assert machine.arena.path.exists()
    release(machine.arena)


@pytest.mark.fault("a machine that shares no folder, killed with its memory left")
def test_copies_that_a_kill_left_go_once_the_run_has_come_further(tmp_path: Path) -> None:
    hidden = [Run.create(tmp_path / f".r.0000000{number}.plan/r", "a: 1\n") for number in range(3)]
    first = large_arena(hidden[0])
    machine, made = Machine(hidden[1], None, first), large_draft(75)
    held = machine.arena.slots[0]
    held.begin(2)
    held.seal(slot_notes(made, copy(held, made)), claimed=False)
    machine.arena.close()
    assert machine.deputy._arena is not None
    path = machine.deputy._arena.path
    machine.deputy._arena.close()
    for channel in (machine.ranks, machine.deputys):
        channel.close()
    shutil.rmtree(hidden[1].path.parent)
    again = Deputy(hidden[2], None, None, machine.said.append)
    identity = first.plan.identity
    assert path is not None
    for other, step, is_there in (("another's", 99, True), (identity, 74, True), (identity, 75, False)):
        again.drop_copies(other, step)
        assert path.exists() == is_there
    first.close()
