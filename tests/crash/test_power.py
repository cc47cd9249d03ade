"""Real power cuts: a file system on a loop device is shut down in the middle of commits, mounted again and looked at.

Half of the cuts meet a writer that froze right after it acknowledged a version, so that nothing later flushes for it.
Needs root and the tools of the file system; skipped, with the reason, where they are not there.
"""

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from chance import draws, rounds
from faults import Seen
from invariants import opens_with

from everstep.versions import Run

TESTS = Path(__file__).parents[1]
TOOLS = {"ext4": "mkfs.ext4", "xfs": "mkfs.xfs"}
SIZE_BYTES = 400 << 20  # xfs makes none under 300 MB
MAKERS = ("from the process", "from the arena")
COMMITS = f"""
import os, signal, sys
sys.path[:0] = {[str(TESTS / "versions"), str(TESTS / "keeping")]!r}
from pathlib import Path
from drafts import draft
from memory_of import commit_from_memory
from everstep.versions import Run
run, made = Run.open(Path(sys.argv[1])), 0
make = Run.commit if sys.argv[2] == {MAKERS[0]!r} else commit_from_memory
while True:
    print(make(run, draft(10)).number, flush=True)
    made += 1
    if made == int(sys.argv[3]):
        os.kill(os.getpid(), signal.SIGSTOP)
"""


class Disk:
    """A file system in a file, whose power can be cut."""

    def __init__(self, kind: str, folder: Path) -> None:
        self.image, self.mount_point = folder / "disk", folder / "mounted"
        self.mount_point.mkdir()
        with self.image.open("wb") as file:
            file.truncate(SIZE_BYTES)
        or_skip([TOOLS[kind], "-q", *(["-F"] if kind == "ext4" else ["-f"]), str(self.image)])
        or_skip(["mount", "-o", "loop", str(self.image), str(self.mount_point)])

    def cut(self) -> None:
        """Everything that was not flushed, the journal's tail included, is gone."""
        subprocess.run(["xfs_io", "-x", "-c", "shutdown", str(self.mount_point)], check=True)

    def come_back(self) -> None:
        """What is on the disk is read again."""
        subprocess.run(["umount", str(self.mount_point)], check=True)
        subprocess.run(["mount", "-o", "loop", str(self.image), str(self.mount_point)], check=True)


def or_skip(words: list[str]) -> None:
    """Until the disk is there, whatever is refused says that it cannot be had here."""
    ended = subprocess.run(words, capture_output=True, text=True)
    if ended.returncode != 0:
        pytest.skip(f"{words[0]}: {ended.stderr.strip()}")


@pytest.fixture(params=TOOLS)
def disk(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Disk]:
    for tool in (TOOLS[request.param], "xfs_io", "mount"):
        if shutil.which(tool) is None:
            pytest.skip(f"{tool} is not installed")
    made = Disk(request.param, tmp_path)
    yield made
    subprocess.run(["umount", "-l", made.mount_point], capture_output=True)


def cut_within(disk: Disk, root: Path, maker: str, freezes_after: int, chance: random.Random) -> set[int]:
    """Commit until the power is cut: at a random moment, or once so many versions were made and the writer is frozen.

    Returns the numbers of the versions that were acknowledged.
    """
    words = [sys.executable, "-c", COMMITS, str(root), maker, str(freezes_after)]
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as program:
        assert program.stdout is not None
        first = program.stdout.readline()
        if freezes_after:
            found = os.waitid(os.P_PID, program.pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)
            assert found is not None
            assert found.si_status == signal.SIGSTOP
        else:
            time.sleep(chance.uniform(0.0, 0.3))
        disk.cut()
        if freezes_after:
            program.kill()
        rest, said = program.communicate(timeout=60)  # the others end at the first error
    assert first, said
    return {int(line) for line in (first + rest).split()}


@pytest.mark.fault("real power cut of {disk}")
def test_after_a_power_cut_every_acknowledged_version_is_whole(disk: Disk, seen: Seen) -> None:
    root, chance = disk.mount_point / "r", draws("power")
    Run.create(root, "a: 1\n")
    acknowledged: set[int] = set()
    for number in range(rounds(4, most=40)):
        is_frozen, maker = number % 2 == 0, MAKERS[number // 2 % 2]
        acknowledged |= cut_within(disk, root, maker, chance.randint(1, 3) if is_frozen else 0, chance)
        seen.injected()
        disk.come_back()
        opens_with(root, acknowledged)
        seen.hit()
