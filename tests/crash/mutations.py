"""The guards that keep a step from being lost, each with the tests that have to fail once it is taken out.

Where a guard has moved, only its text has to be changed here: `guard` stands exactly once in its file.
"""

from dataclasses import dataclass

COMMIT, PRUNE = "tests/crash/test_commit.py::", "tests/crash/test_prune.py::"
ARENA, SNAPSHOTS = "tests/keeping/test_arena.py::", "tests/keeping/test_snapshots.py::"
SEALED, MEMORY, ENDING = (f"tests/keeping/test_{room}.py::" for room in ("sealed", "memory", "ending"))
EXTENTS, SAVER = "tests/keeping/test_extents.py::", "tests/keeping/test_saver.py::"
NEWEST = "test_whatever_happened_to_slots_the_newest_whole_one_is_the_newest_that_was_sealed"
WRITTEN = "test_a_version_is_written_while_its_copy_is_made_and_appears_after_its_seal_only"
RUN, PRUNING = "tests/versions/test_run.py::", "tests/versions/test_pruning.py::"
KEEPER, FULL = "tests/crash/test_keeper.py::", "tests/crash/test_full_disk.py::"
POWER = "tests/crash/test_power.py::test_after_a_power_cut_every_acknowledged_version_is_whole"
CUT = COMMIT + "test_a_power_cut_at_any_moment_of_a_commit_loses_at_most_that_version"
RETURNED = COMMIT + "test_a_returned_commit_is_durable_whatever_was_not_flushed"


@dataclass(frozen=True)
class Mutation:
    """One guard taken out, and who has to notice."""

    name: str
    file: str  # below src/everstep
    guard: str
    without: str
    tests: tuple[str, ...]  # at least one of them has to fail


MUTATIONS = (
    # --- the store -----------------------------------------------------------------------------------------
    Mutation(
        "flush of files, all writes before",
        "versions/commit.py",
        "            for flush in flushes:\n                flush()\n",
        "",
        (CUT + "[from the process]", CUT + "[from the arena]", RETURNED + "[from the process]"),
    ),
    Mutation(
        "flush of files, on a real disk",
        "versions/commit.py",
        "            for flush in flushes:\n                flush()\n",
        "",
        (POWER + "[ext4]", POWER + "[xfs]"),
    ),
    Mutation(
        "flush of the manifest",
        "versions/fsops.py",
        "        write_all(descriptor, pieces)\n        os.fsync(descriptor)\n",
        "        write_all(descriptor, pieces)\n",
        (CUT + "[from the process]", RETURNED + "[from the process]"),
    ),
    Mutation(
        "flush of a folder",
        "versions/fsops.py",
        "os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)\n    try:\n        os.fsync(descriptor)\n",
        "os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)\n    try:\n        pass\n",
        (CUT + "[from the process]", CUT + "[from the arena]"),
    ),
    Mutation(
        "flush of the run's folder after the rename",
        "versions/commit.py",
        "        fsops.rename(staging, final)\n        fsops.flush_folder(layout.root)\n",
        "        fsops.rename(staging, final)\n",
        (RETURNED + "[from the process]",),
    ),
    Mutation(
        "manifest before the version appears",
        "versions/commit.py",
        "        fsops.write_file(staging / MANIFEST, [sealed], len(sealed))\n"
        "        fsops.flush_folder(staging)\n        fsops.rename(staging, final)\n",
        "        fsops.rename(staging, final)\n"
        "        fsops.write_file(final / MANIFEST, [sealed], len(sealed))\n        fsops.flush_folder(final)\n",
        (CUT + "[from the process]", COMMIT + "test_a_kill_at_every_change_of_a_commit_leaves_the_version_before"),
    ),
    Mutation(
        "look at the room before anything is written",
        "versions/commit.py",
        "        _refuse_if_full(layout, number, coming)\n",
        "",
        (COMMIT + "test_a_full_disk_shows_before_anything_is_written",),
    ),
    Mutation(
        "whole writes",
        "versions/fsops.py",
        "        piece = piece[written:]\n",
        "        piece = piece[CHUNK_BYTES:]\n",
        (COMMIT + "test_short_writes_are_continued",),
    ),
    Mutation(
        "digest of the manifest",
        "versions/manifest.py",
        '    if manifest.get("digest") != digest(canonical(facts)):\n',
        "    if False:\n",
        (RUN + "test_damage_is_named_set_aside_and_the_version_before_is_used",),
    ),
    Mutation(
        "digest of a tensor on disk",
        "versions/verify.py",
        "            if digests and digests.get(name) != taken:\n",
        "            if False:\n",
        (RUN + "test_damage_is_named_set_aside_and_the_version_before_is_used",),
    ),
    Mutation(
        "lock of a run",
        "versions/lock.py",
        "        is_held = ofd.take(descriptor)\n",
        "        is_held = True\n",
        (RUN + "test_a_second_writer_is_refused_and_told_who_the_first_is",),
    ),
    Mutation(
        "nothing goes before what stays was read whole",
        "versions/pruning.py",
        "        elif _is_whole(run, rest.number):\n",
        "        elif True:\n",
        (PRUNING + "test_a_damaged_newest_version_is_kept_and_another_is_relied_on",),
    ),
    Mutation(
        "out of the run before it is taken apart",
        "versions/trash.py",
        "    fsops.rename(path, aside)\n    fsops.flush_folder(path.parent)\n    return aside\n",
        "    fsops.rename(path, aside)\n    return aside\n",
        (PRUNE + "test_a_power_cut_at_any_moment_of_a_prune_leaves_whole_versions",),
    ),
    # --- memory --------------------------------------------------------------------------------------------
    Mutation(
        "digest of a piece in memory",
        "keeping/sealed.py",
        "            if torn or len(noted) != len(self._pieces):\n",
        "            if False:\n",
        (SEALED + "test_rotten_memory_is_refused_and_names_what_lies_there",),
    ),
    Mutation(
        "a version whose copy was spoilt is made at the next step",
        "keeping/due.py",
        "        if self._is_owed:\n",
        "        if False:\n",
        (SAVER + "test_a_version_whose_copy_was_spoilt_is_made_at_the_next_step",),
    ),
    Mutation(
        "a slot that is used anew while it is written",
        "keeping/sealed.py",
        "        if self.slot.generation != self.generation:\n",
        "        if False:\n",
        (SEALED + "test_a_copy_that_comes_to_nothing_leaves_nothing",),
    ),
    Mutation(
        "the manifest waits for the seal",
        "keeping/sealed.py",
        "        while not self._is_over.wait(LOOK_S):\n            self.check()\n",
        "",
        (SEALED + "test_a_copy_that_comes_to_nothing_leaves_nothing", SEALED + WRITTEN),
    ),
    Mutation(
        "digest of the notes",
        "keeping/arena.py",
        '        if xxhash.xxh3_128_digest(text) != digest:\n            raise DamageFound(f"slot',
        '        if False:\n            raise DamageFound(f"slot',
        (ARENA + "test_notes_that_rotted_are_refused",),
    ),
    Mutation(
        "digest of the plan",
        "keeping/arena.py",
        '        if xxhash.xxh3_128_digest(text) != digest:\n            raise DamageFound("has a plan',
        '        if False:\n            raise DamageFound("has a plan',
        (MEMORY + "test_a_bit_that_flipped_in_what_memory_says_of_itself_ends_no_start_and_deletes_nothing",),
    ),
    Mutation(
        "a slot that is written to holds nothing",
        "keeping/arena.py",
        "        self.set_state(SlotState.WRITING)\n        COPIED.pack_into(self._view, COPIED_AT, 0)\n"
        "        SLOT.pack_into(self._view, 0, SlotState.WRITING, generation, 0, bytes(16))\n",
        "        COPIED.pack_into(self._view, COPIED_AT, 0)\n",
        (ENDING + "test_the_newest_whole_state_is_rescued_and_only_once", ARENA + NEWEST),
    ),
    Mutation(
        "a state is rescued once",
        "keeping/sealed.py",
        "slot.is_whole and slot.generation > done]",
        "slot.is_whole]",
        (ENDING + "test_the_newest_whole_state_is_rescued_and_only_once",),
    ),
    Mutation(
        "memory that another host has overtaken",
        "keeping/ending.py",
        "        if overtaken is not None:\n            return",
        "        if False:\n            return",
        (ENDING + "test_a_state_that_another_host_has_overtaken_is_not_gone_on_from_and_not_deleted",),
    ),
    Mutation(
        "memory in use is nobody else's",
        "keeping/memory.py",
        "            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)\n            return True\n",
        "            return True\n",
        (MEMORY + "test_memory_that_a_process_still_uses_is_nobody_elses",),
    ),
    Mutation(
        "no change before the copy is made",
        "keeping/copying.py",
        "            copying.wait()\n",
        "            pass\n",
        (SNAPSHOTS + "test_the_optimizers_step_waits_for_the_copy_beside_it",),
    ),
    Mutation(
        "the state's number, looked at after a copy",
        "keeping/copier.py",
        "self._state.revision.seen() != copy.revision or ",
        "",
        (SNAPSHOTS + "test_a_change_during_the_copy_is_noticed_whoever_makes_it[average]",),
    ),
    Mutation(
        "counters of changes, looked at after a copy",
        "keeping/copier.py",
        "self._state.revision.seen() != copy.revision or self._sources.counters() != copy.counters:",
        "self._state.revision.seen() != copy.revision:",
        (SNAPSHOTS + "test_a_change_during_the_copy_is_noticed_whoever_makes_it[in place]",),
    ),
    Mutation(
        "values that are not finite",
        "keeping/sealing.py",
        "    if made.sick is not None:\n",
        "    if False:\n",
        (SNAPSHOTS + "test_a_state_that_is_no_numbers_is_never_sealed",),
    ),
    Mutation(
        "a claimed slot is the keeper's",
        "keeping/sealing.py",
        "[slot for slot in self.arena.slots if slot.state is not SlotState.CLAIMED]",
        "list(self.arena.slots)",
        (SNAPSHOTS + "test_a_claimed_slot_is_never_taken",),
    ),
    # --- several machines ----------------------------------------------------------------------------------
    Mutation(
        "what another machine wrote is what the first one holds",
        "keeping/extents.py",
        "                if answer.get",
        "                if False and answer.get",
        (EXTENTS + "test_a_machine_that_holds_other_bits_is_found_out",),
    ),
    Mutation(
        "what another machine wrote is what was sealed there",
        "keeping/extents.py",
        "            if any(noted[path][number] != digest for number, digest in pieces.items()):\n",
        "            if False:\n",
        (EXTENTS + "test_memory_that_rots_on_another_machine_is_refused",),
    ),
    Mutation(
        "a machine that failed is not asked again",
        "keeping/extents.py",
        "        self._nodes = []\n        self._report(f",
        "        self._report(f",
        (EXTENTS + "test_a_machine_that_is_lost_costs_its_patience_and_no_version",),
    ),
    Mutation(
        "memory that the run has overtaken is offered to nobody",
        "keeping/deputy.py",
        "                if lineage.overtaken_by() is None:\n",
        "                if True:\n",
        ("tests/keeping/test_deputy.py::test_memory_that_the_run_has_overtaken_is_not_offered",),
    ),
    # --- the keeper ----------------------------------------------------------------------------------------
    Mutation(
        "memory is settled after every end",
        "keeping/keeper.py",
        "                settled = settle(self._run, self._arena, self._report)\n        except",
        "                pass\n        except",
        (KEEPER + "test_kills_of_the_trainer_at_random_moments_change_nothing",),
    ),
    Mutation(
        "memory is settled at the next start",
        "keeping/ending.py",
        "        settled = settle(run, arena, report)\n        if settled.version",
        "        settled = Settled()\n        if settled.version",
        (KEEPER + "test_kills_of_keeper_and_trainer_together_lose_nothing_that_was_in_shared_memory",),
    ),
    Mutation(
        "memory that the disk refused is kept",
        "keeping/ending.py",
        "    if settled.is_safe:\n        release(arena)\n",
        "    if True:\n        release(arena)\n",
        (FULL + "test_a_full_disk_does_not_stop_training_and_ends_with_4_when_nobody_is_there",),
    ),
)
