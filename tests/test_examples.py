"""The examples do what the documents say of them."""

import subprocess
import sys
from pathlib import Path

from everstep.versions import Run, verify

EXAMPLES = Path(__file__).parents[1] / "examples"


def test_a_plain_loop_that_is_killed_goes_on_where_it_was(workplace: Path) -> None:
    command = [sys.executable, str(EXAMPLES / "own_loop.py")]
    program = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert program.stdout is not None
    for _ in range(3):
        assert program.stdout.readline().startswith("version_")
    program.kill()
    program.communicate()
    kept = Run.open(workplace / "runs/own_loop").find("latest").step
    again = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    run = Run.open(workplace / "runs/own_loop")
    assert again[0].startswith(f"version_{kept // 100}: step {kept + 100}")
    assert run.find("latest").step == 2000
    assert [verify(version) for version in run.versions()] == [[]] * 20
