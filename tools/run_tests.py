"""Runs the tests in two halves side by side, each in a process of its own, and prints one after the other.

    python tools/run_tests.py [options of pytest]

Many tests wait: for a commit, a keeper, a death. Where the system allows it, each half has a /dev/shm of its own, so
that what one kills does not lie in memory when the other looks; elsewhere one half follows the other.
"""

import subprocess
import sys
import tempfile
from pathlib import Path
from typing import IO

TESTS = Path(__file__).parents[1] / "tests"
FIRST = ("crash", "keeping", "train")  # about half of the time
ALONE = ("full_size",)  # make full-size
NOTHING_SELECTED = 5  # pytest's exit code
MOUNT = 'mount -t tmpfs -o size=50% tmpfs /dev/shm && exec "$0" "$@"'
APART = ("unshare", "--mount", "--propagation", "private", "sh", "-c", MOUNT)


def main(options: list[str]) -> int:
    """Returns pytest's exit code of the half that ended worse."""
    first, second = [TESTS / name for name in FIRST], the_rest()
    if not can_be_apart():
        codes = [start(half, options, sys.stdout).wait() for half in (first, second)]
    else:
        with tempfile.TemporaryFile("w+") as kept:
            beside = start(second, options, kept, APART)
            codes = [start(first, options, sys.stdout, APART).wait(), beside.wait()]
            kept.seek(0)
            print(kept.read(), flush=True)
    return max(0 if code == NOTHING_SELECTED else code for code in codes)


def the_rest() -> list[Path]:
    """Every folder and file of tests that is not in the first half, nor run by itself alone."""
    found = {path.relative_to(TESTS).parts[0] for path in TESTS.rglob("test_*.py")}
    return [TESTS / name for name in sorted(found - {*FIRST, *ALONE})]


def can_be_apart() -> bool:
    """Whether processes of ours may have a /dev/shm of their own."""
    try:
        return subprocess.run([*APART, "true"], capture_output=True, check=False).returncode == 0
    except OSError:  # there is no such tool
        return False


def start(half: list[Path], options: list[str], out: IO[str], before: tuple[str, ...] = ()) -> "subprocess.Popen[str]":
    """Pytest over one half."""
    command = [*before, sys.executable, "-m", "pytest", *map(str, half), *options]
    return subprocess.Popen(command, stdout=out, stderr=subprocess.STDOUT, text=True, cwd=TESTS.parent)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
