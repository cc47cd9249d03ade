"""Who stands behind on the processors, by what the kernel says of it."""

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from behind import knows_sessions, niceness_of_session
from everstep import priority
from everstep.priority import NICENESS, lower_session, lower_thread


@pytest.fixture(params=[True, False], ids=["of a session of its own", "of ours"])
def process(request: pytest.FixtureRequest) -> Iterator["subprocess.Popen[bytes]"]:
    words = [sys.executable, "-c", "import sys; sys.stdin.read()"]
    with subprocess.Popen(words, stdin=subprocess.PIPE, start_new_session=request.param) as found:
        yield found


@pytest.mark.parametrize(("before", "after"), [(0, NICENESS), (NICENESS + 5, NICENESS + 5)])
def test_a_thread_is_nicer_and_whoever_is_nicer_still_stays_so(before: int, after: int) -> None:
    found: list[int] = []

    def measure() -> None:
        thread = threading.get_native_id()
        os.setpriority(os.PRIO_PROCESS, thread, before)
        lower_thread()
        found.append(os.getpriority(os.PRIO_PROCESS, thread))

    measuring = threading.Thread(target=measure)
    measuring.start()
    measuring.join()
    assert found == [after]
    assert os.getpriority(os.PRIO_PROCESS, os.getpid()) < NICENESS


@knows_sessions
def test_a_session_goes_behind_where_it_is_its_leader_s(process: "subprocess.Popen[bytes]") -> None:
    ours = niceness_of_session(os.getpid())
    lower_session(process.pid)
    lower_session(process.pid)
    is_own = os.getsid(process.pid) == process.pid
    assert niceness_of_session(process.pid) == (NICENESS if is_own else ours)
    assert niceness_of_session(os.getpid()) == ours


def test_a_process_that_is_gone_is_no_error() -> None:
    gone = subprocess.Popen([sys.executable, "-c", ""], start_new_session=True)
    gone.wait()
    lower_session(gone.pid)
    lower_thread(gone.pid)


@pytest.mark.parametrize(
    ("told", "refusals", "written"),
    [
        ("/autogroup-3 nice 0\n", 2, [str(NICENESS)]),  # without privileges, at most once in a tenth of a second
        ("/autogroup-3 nice 0\n", 9, []),  # others change theirs all the time
        ("/autogroup-3 nice 15\n", 0, []),
        ("", 0, []),  # in a container
        ("something new\n", 0, []),
    ],
)
def test_what_the_kernel_may_answer(
    told: str, refusals: int, written: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tries, found = iter(range(9)), list[str]()

    class File(type(tmp_path)):  # type: ignore[misc]
        def read_text(self) -> str:  # type: ignore[override]
            return told

        def write_text(self, text: str) -> int:  # type: ignore[override]
            if next(tries) < refusals:
                raise BlockingIOError
            found.append(text)
            return len(text)

    monkeypatch.setattr(priority, "Path", File)
    monkeypatch.setattr(os, "getsid", lambda pid: pid)
    lower_session()
    assert found == written
