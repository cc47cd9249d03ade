"""Real kills at real system calls, and a real full disk. Skipped, with the reason, where the tools are not there."""

import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from chance import rounds
from drafts import draft
from faults import Seen
from invariants import opens_with

from everstep.errors import DiskFull
from everstep.versions import Run

HERE = Path(__file__).parent
ROUNDS = rounds(3, most=12)
SYSTEM_CALLS = {
    "mkdir": "mkdir,mkdirat",
    "open": "openat",
    "write": "write,pwrite64,writev,pwritev,pwritev2",
    "fsync": "fsync,fdatasync",
    "rename": "rename,renameat,renameat2",
    "fallocate": "fallocate",
}
COMMIT = f"""
import sys
sys.path[:0] = [{str(HERE.parent / "versions")!r}]
from pathlib import Path
from drafts import draft
from everstep.versions import Run
run = Run.open(Path(sys.argv[1]))
print("ready", flush=True)
run.commit(draft(20))
"""


def calls_made(run: Run, calls: str, log: Path) -> int:
    """How often a commit makes these calls, start-up of the interpreter included."""
    command = ["strace", "-f", "-qq", "-e", f"trace={calls}", "-o", log, sys.executable, "-c", COMMIT, run.path]
    subprocess.run(command, check=True, capture_output=True)
    return len(log.read_text().splitlines())


@pytest.mark.fault("kill -9 at the n-th {call} of the kernel, by strace")
@pytest.mark.skipif(shutil.which("strace") is None, reason="strace is not installed")
@pytest.mark.parametrize("call", SYSTEM_CALLS)
def test_a_kill_at_a_system_call_leaves_the_version_before(
    run_on_disk: Run, tmp_path: Path, call: str, seen: Seen
) -> None:
    run, log, calls = run_on_disk, tmp_path / "trace", SYSTEM_CALLS[call]
    total = calls_made(run, calls, log)
    assert total > 0
    for nth in sorted({max(1, total - back * max(1, min(total, 12) // ROUNDS)) for back in range(ROUNDS)}):
        known = {version.number for version in run.versions()}
        command = ["strace", "-f", "-qq", "-e", f"trace={calls}", "-e", f"inject={calls}:signal=SIGKILL:when={nth}"]
        subprocess.run([*command, "-o", log, sys.executable, "-c", COMMIT, run.path], capture_output=True)
        assert "killed by SIGKILL" in log.read_text()
        opens_with(run.path, known)
        seen.both()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 256 kB."""
    folder = tmp_path / "small"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=256k", "none", folder], capture_output=True, text=True
    )
    if mounted.returncode != 0:
        pytest.skip(f"mounting is refused: {mounted.stderr.strip()}")
    yield folder
    subprocess.run(["umount", "-l", folder], check=True)


@pytest.mark.fault("disk that gets really full by commits")
def test_a_disk_that_is_really_full_costs_the_new_version_only(small_disk: Path) -> None:
    run = Run.create(small_disk / "r", "a: 1\n")
    known = set()
    while run.next_number() < 100:
        try:
            known.add(run.commit(draft(10)).number)
        except DiskFull:
            break
    assert 2 < len(known) < 100
    assert {version.number for version in run.versions()} == known
    shutil.rmtree(run.find("0").path)
    opens_with(run.path, known - {0})
