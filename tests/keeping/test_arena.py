"""Memory that outlives the trainer: whatever happened to it, its newest whole state is known, and nothing else is."""

from pathlib import Path

import pytest
from drafts import draft
from hypothesis import given
from hypothesis import strategies as st
from memory_of import arena, fill

from everstep.errors import DamageFound
from everstep.keeping.arena import SlotState
from everstep.versions import Run


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


@pytest.mark.fault("bit flipped in a slot's head")
@pytest.mark.parametrize("offset", range(40))
def test_a_bit_that_flipped_in_a_slots_head_is_noticed_or_changes_nothing(run: Run, offset: int) -> None:
    held = arena(run.path)
    fill(held.slots[0], draft(50), 1)
    held.slots[0]._view[offset] ^= 1
    newest = held.newest()
    if newest is None:
        return
    try:
        assert newest.notes()["step"] == 50
        assert (newest.generation, newest.state.value in (2, 3)) == (1, True)
    except DamageFound as damage:
        assert "notes that fail" in str(damage) or "generation" in str(damage)
    held.close()


@pytest.mark.fault("bit flipped in a slot's notes")
def test_notes_that_rotted_are_refused(run: Run) -> None:
    held = arena(run.path)
    fill(held.slots[0], draft(50), 1)
    held.slots[0]._view[4096 + 5] ^= 1
    with pytest.raises(DamageFound, match="notes that fail their digest"):
        held.slots[0].notes()


def test_notes_that_do_not_fit_are_a_bug_that_leaves_the_slot_unsealed(run: Run) -> None:
    held = arena(run.path)
    held.slots[0].begin(1)
    with pytest.raises(ValueError, match="there is room for"):
        held.slots[0].seal({"too": "much" * 10_000}, claimed=False)
    assert held.slots[0].state is SlotState.WRITING
