"""Where a trainer is can be asked at any moment, of threads that run too, and costs it nothing."""

import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from everstep.keeping import stacks

BUSY = """
import sys, threading
from pathlib import Path
from everstep.keeping import stacks

def deep(depth):
    return depth and deep(depth - 1)

def busy():
    while True:
        for depth in range(200):
            deep(depth)

stacks.prepare(Path(sys.argv[1]))
stacks.listen()
for _ in range(3):
    threading.Thread(target=busy, daemon=True).start()
print("busy", flush=True)
busy()
"""


@pytest.fixture
def busy(tmp_path: Path) -> Iterator["subprocess.Popen[str]"]:
    """Several threads that recurse, each in and out of hundreds of calls."""
    words = [sys.executable, "-c", BUSY, str(tmp_path / stacks.NAME)]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "busy\n"
        yield process
        process.kill()


@pytest.mark.fault("a busy trainer that is asked where it is, 200 times")
def test_asking_a_busy_process_does_not_end_it(busy: "subprocess.Popen[str]", tmp_path: Path) -> None:
    for _ in range(200):
        busy.send_signal(stacks.ASKED)
        time.sleep(0.005)
    assert busy.poll() is None
    written = (tmp_path / stacks.NAME).read_text()
    assert written.count(f"Process {busy.pid}:") > 20
    assert "in deep" in written


def test_no_name_that_others_send_asks_for_stacks() -> None:
    with pytest.raises(ValueError, match="is not a valid Signals"):
        signal.Signals(stacks.ASKED)


@pytest.mark.fault("stacks that no disk takes")
def test_where_no_file_can_be_opened_asking_does_nothing(tmp_path: Path) -> None:
    code = "import sys, time; from pathlib import Path; from everstep.keeping import stacks\n"
    code += "stacks.prepare(Path(sys.argv[1])); stacks.listen(); print('here', flush=True); time.sleep(60)"
    words = [sys.executable, "-c", code, str(tmp_path / "no" / stacks.NAME)]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        process.stdout.readline()
        for number in (stacks.ASKED, stacks.ASKED_AGAIN):
            process.send_signal(number)
        time.sleep(0.2)
        assert process.poll() is None
        process.kill()
