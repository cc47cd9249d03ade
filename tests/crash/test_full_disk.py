"""A disk under a training that has no room for a version, or none at all: older versions stay, training goes on."""

import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from everstep.versions import Run, verify
from law import SETTINGS, STEPS, UNSEEN
from program import Program

Start = Callable[..., Program]
Words = tuple[object, ...]


@pytest.fixture
def words(tiny_base: Path, pairs_folder: Path, memory: Path) -> Words:
    kept = ("--keeper.snapshots", 1, "--keeper.ram-dir", memory)
    return ("train", "--run", "a", "--base", tiny_base, "--data", pairs_folder, *SETTINGS, *kept)


@pytest.fixture
def endless(tiny_base: Path, pairs_folder: Path, memory: Path) -> Words:
    many = ("--optim.max-steps", 10**6, "--versions.every", 10, "--keeper.ram-dir", memory, *UNSEEN)
    return ("train", "--run", "a", "--base", tiny_base, "--data", pairs_folder, *many)


@pytest.fixture
def full_disk(workplace: Path) -> Iterator[Path]:
    """runs/ is a disk that is large enough until FillTheDisk takes the room."""
    folder = workplace / "runs"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=20m", "none", folder], capture_output=True)
    if mounted.returncode != 0:
        pytest.skip(f"mounting is refused: {mounted.stderr.decode().strip()}")
    yield folder
    subprocess.run(["umount", "-l", folder], check=True)


def make_room(disk: Path) -> None:
    subprocess.run(["mount", "-o", "remount,size=100m", disk], check=True)


class FillTheDisk:
    """Something else takes the room as soon as version_0 is there: all but a share of what a version needs.

    Half of it is far too little for a version and far more than all records of the training, so that no luck decides.
    The test does not wait as long as people do.
    """

    def __init__(self, disk: Path, share_left: float = 0.5) -> None:
        self.disk, self.share_left = disk, share_left

    def __call__(self) -> None:
        from everstep.keeping import committer

        committer.RETRY_S = 0.3
        original, first, ballast = os.fsync, self.disk / "a/version_0", self.disk / "ballast"

        def fsync(descriptor: int) -> None:
            original(descriptor)
            if first.is_dir() and not ballast.exists():
                needed_bytes = sum(path.stat().st_size for path in first.rglob("*") if path.is_file())
                status = os.statvfs(self.disk)
                with ballast.open("wb") as file:
                    free_bytes = status.f_bavail * status.f_frsize
                    os.posix_fallocate(file.fileno(), 0, free_bytes - int(self.share_left * needed_bytes))

        os.fsync = fsync


@pytest.mark.fault("disk without room for a version under a training, to its end")
def test_a_full_disk_does_not_stop_training_and_ends_with_4_when_nobody_is_there(
    start: Start, words: Words, full_disk: Path, memory: Path
) -> None:
    program = start(*words, prepare=FillTheDisk(full_disk))
    assert program.wait() == 4, program.output
    assert "step 10) is not committed: it needs " in program.output
    assert "training goes on" in program.output
    run = Run.open(full_disk / "a")
    assert [version.step for version in run.versions()] == [0]
    assert verify(run.find("0")) == []
    if f"in {memory}" not in program.output:
        return  # memory without a name goes with the program
    assert "the next start of a goes on from it" in program.output
    make_room(full_disk)
    again = start(*words)
    assert again.wait() == 0, again.output
    assert "Rescued version_1 (step 40)" in again.output


@pytest.mark.fault("disk without one free byte under a training")
def test_a_disk_without_one_free_byte_ends_nothing_that_is_trained(start: Start, words: Words, full_disk: Path) -> None:
    program = start(*words, "--unattended", 5, prepare=FillTheDisk(full_disk, share_left=0.0))
    program.wait_for(lambda: "is not committed" in program.output)
    make_room(full_disk)
    assert program.wait() == 0, program.output
    assert Run.open(full_disk / "a").find("latest").step == STEPS


@pytest.mark.fault("disk without room for a version for a while")
def test_a_commit_is_tried_again_and_succeeds_once_there_is_room(start: Start, words: Words, full_disk: Path) -> None:
    program = start(*words, "--unattended", 5, prepare=FillTheDisk(full_disk))
    program.wait_for(lambda: "is not committed" in program.output)
    make_room(full_disk)
    assert program.wait() == 0, program.output
    run = Run.open(full_disk / "a")
    assert run.find("latest").step == STEPS
    assert run.find("latest").reason == "final"


@pytest.mark.fault("disk without room for longer than allowed")
def test_unattended_gives_up_after_the_stated_time(start: Start, endless: Words, full_disk: Path) -> None:
    program = start(*endless, "--unattended", 0.02, prepare=FillTheDisk(full_disk))
    assert program.wait() == 4, program.output
    assert "has refused every version for" in program.output
