"""The guards that keep a step from being lost, each with the tests that have to fail once it is taken out.

Where a guard has moved, only its text has to be changed here: `guard` stands exactly once in its file.
"""

from dataclasses import dataclass

COMMIT, PRUNE = "tests/crash/test_commit.py::", "tests/crash/test_prune.py::"
ARENA, SNAPSHOTS = "tests/keeping/test_arena.py::", "tests/keeping/test_snapshots.py::"
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
        "flush of a file",
        "versions/fsops.py",
        "            _write_all(descriptor, memoryview(piece))\n        os.fsync(descriptor)\n",
        "            _write_all(descriptor, memoryview(piece))\n",
        (CUT + "[from the process]", RETURNED + "[from the process]"),
    ),
    Mutation(
        "flush of a file, on a real disk",
        "versions/fsops.py",
        "            _write_all(descriptor, memoryview(piece))\n        os.fsync(descriptor)\n",
        "            _write_all(descriptor, memoryview(piece))\n",
        (POWER + "[ext4]", POWER + "[xfs]"),
    ),
    Mutation(
        "flush of a file from the arena",
        "versions/fsops.py",
        "        os.ftruncate(descriptor, size_bytes)\n        os.fsync(descriptor)\n",
        "        os.ftruncate(descriptor, size_bytes)\n",
        (CUT + "[from the arena]",),
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
        "    _refuse_if_full(layout, number, draft, sum(image.size_bytes for image in images) + small_bytes)\n",
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
        "            fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)\n",
        "            pass\n",
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
        "digest of a tensor in memory",
        "keeping/sealed.py",
        "        if torn or self.digests.keys() != self._noted.keys():\n",
        "        if False:\n",
        (ARENA + "test_rotten_memory_is_refused_and_the_state_before_is_taken",),
    ),
    Mutation(
        "digest of the notes",
        "keeping/arena.py",
        "        if xxhash.xxh3_128_digest(text) != digest:\n",
        "        if False:\n",
        (ARENA + "test_notes_that_rotted_are_refused",),
    ),
    Mutation(
        "a slot that is written to holds nothing",
        "keeping/arena.py",
        "        self.set_state(SlotState.WRITING)\n"
        "        SLOT.pack_into(self._view, 0, SlotState.WRITING, generation, 0, bytes(16))\n",
        "        SLOT.pack_into(self._view, 0, self.state, generation, 0, bytes(16))\n",
        (ARENA + "test_the_newest_whole_state_is_rescued_and_only_once",),
    ),
    Mutation(
        "a state is rescued once",
        "keeping/sealed.py",
        "slot.is_whole and slot.generation > newest_done]",
        "slot.is_whole]",
        (ARENA + "test_the_newest_whole_state_is_rescued_and_only_once",),
    ),
    Mutation(
        "no step before the copy is made",
        "train/snapshots.py",
        "            copying.wait()\n",
        "            pass\n",
        ("tests/crash/test_copies.py::test_a_copy_that_takes_long_is_of_one_step",),
    ),
    Mutation(
        "counters of changes, looked at after a copy",
        "train/snapshots.py",
        "            is_torn = self._counters() != counters\n",
        "            is_torn = False\n",
        (SNAPSHOTS + "test_a_step_during_the_copy_is_noticed_and_the_slot_is_refused",),
    ),
    Mutation(
        "weights that are not finite",
        "train/snapshots.py",
        "        sick = self._not_finite(slot)\n",
        "        sick = None\n",
        (SNAPSHOTS + "test_weights_that_are_no_numbers_are_never_sealed",),
    ),
    Mutation(
        "a claimed slot is the keeper's",
        "train/snapshots.py",
        "[slot for slot in self._arena.slots if slot.state is not SlotState.CLAIMED]",
        "list(self._arena.slots)",
        (SNAPSHOTS + "test_a_claimed_slot_is_never_taken",),
    ),
    # --- the keeper ----------------------------------------------------------------------------------------
    Mutation(
        "rescue after a death",
        "train/keeper.py",
        "        self._deaths.append(end.step)\n        self._rescue(end.step)\n",
        "        self._deaths.append(end.step)\n",
        (KEEPER + "test_kills_of_the_trainer_at_random_moments_change_nothing",),
    ),
    Mutation(
        "rescue of what a dead keeper left in memory",
        "keeping/memory.py",
        "        version, refused = rescue(run, arena)\n",
        "        version, refused = None, []\n",
        (KEEPER + "test_kills_of_keeper_and_trainer_together_lose_nothing_that_was_in_shared_memory",),
    ),
    Mutation(
        "memory that the disk refused is kept",
        "train/keeper.py",
        "            if code == ExitCode.DISK_FULL and self._arena.path is not None:\n",
        "            if False:\n",
        (FULL + "test_a_full_disk_does_not_stop_training_and_ends_with_4_when_nobody_is_there",),
    ),
)
