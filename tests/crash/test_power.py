"""Real power cuts: a file system on a loop device is shut down in the middle of commits, mounted again and looked at.

Needs root and the tools of the file system; skipped, with the reason, where they are not there.
"""

import os
import random
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from invariants import opens_with

from everstep.versions import Run

HERE = Path(__file__).parent
CUTS = int(os.environ.get("EVERSTEP_CRASH_ROUNDS", "4"))
TOOLS = {"ext4": "mkfs.ext4", "xfs": "mkfs.xfs"}
SIZE_BYTES = 400 << 20  # xfs makes none under 300 MB
COMMITS = f"""
import sys
sys.path[:0] = [{str(HERE.parent / "versions")!r}]
from pathlib import Path
from drafts import draft
from memory_of import commit_from_memory
from everstep.versions import Run
run = Run.open(Path(sys.argv[1]))
while True:
    commit = commit_from_memory if run.next_number() % 2 else Run.commit
    print(commit(run, draft(10)).number, flush=True)
"""


class Disk:
    """A file system in a file, whose power can be cut."""

    def __init__(self, kind: str, folder: Path) -> None:
        self.image, self.mount_point = folder / "disk", folder / "mounted"
        self.mount_point.mkdir()
        with self.image.open("wb") as file:
            file.truncate(SIZE_BYTES)
        command([TOOLS[kind], "-q", *(["-F"] if kind == "ext4" else ["-f"]), str(self.image)])

    def mount(self) -> None:
        command(["mount", "-o", "loop", str(self.image), str(self.mount_point)])

    def cut(self) -> None:
        """Everything that was not flushed, the journal's tail included, is gone."""
        command(["xfs_io", "-x", "-c", "shutdown", str(self.mount_point)])

    def unmount(self) -> None:
        command(["umount", str(self.mount_point)])


def command(words: list[str]) -> None:
    ended = subprocess.run(words, capture_output=True, text=True)
    if ended.returncode != 0:
        pytest.skip(f"{words[0]}: {ended.stderr.strip()}")


@pytest.fixture(params=TOOLS)
def disk(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Disk]:
    for tool in (TOOLS[request.param], "xfs_io", "mount"):
        if shutil.which(tool) is None:
            pytest.skip(f"{tool} is not installed")
    made = Disk(request.param, tmp_path)
    made.mount()
    yield made
    subprocess.run(["umount", "-l", made.mount_point], capture_output=True)


@pytest.mark.fault("real power cut of {disk}")
def test_after_a_power_cut_every_acknowledged_version_is_whole(disk: Disk) -> None:
    root, draws = disk.mount_point / "r", random.Random(4)
    Run.create(root, "a: 1\n")
    acknowledged: set[int] = set()
    for _ in range(CUTS):
        program = subprocess.Popen([sys.executable, "-c", COMMITS, root], stdout=subprocess.PIPE, text=True)
        assert program.stdout is not None
        acknowledged.add(int(program.stdout.readline()))
        time.sleep(draws.uniform(0.0, 0.3))
        disk.cut()
        rest, _ = program.communicate(timeout=60)  # ends at the first error
        acknowledged |= {int(line) for line in rest.split()}
        disk.unmount()
        disk.mount()
        opens_with(root, acknowledged)
    assert len(acknowledged) > CUTS
