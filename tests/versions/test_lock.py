"""One writer: the lock is held as long as any process lives that inherited it, whatever kind of lock there is."""

import fcntl
import json
import os
import platform
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from everstep.errors import UserError
from everstep.versions import LiveStatus, Run, ofd, write_live
from everstep.versions.holder import LockHolder
from everstep.versions.lock import Busy
from everstep.versions.trash import pruning_alone

HEAD = """
import os, signal, subprocess, sys, time
from pathlib import Path
from everstep.versions import Run, ofd
run = Run.open(Path(sys.argv[1]))
if sys.argv[2] == "flock":
    ofd.SET = None
"""
KEEPER_THAT_FORKS = """
with run.lock("everstep train") as held:
    trainer = os.fork()
    if trainer == 0:
        sys.stdin.readline()
        os._exit(0)
    held.tell_trainer(trainer)
    print(trainer, flush=True)
    if sys.argv[3] == "dies":
        time.sleep(60)
print("left", flush=True)
"""
KEEPER_THAT_STARTS = """
with run.lock("everstep keep") as held:
    words = [sys.executable, "-c", sys.argv[3], sys.argv[1], sys.argv[2], str(held.descriptor)]
    started = subprocess.Popen(words, pass_fds=[held.descriptor])
    time.sleep(60)
"""
STARTED = """
with run.lock_from(int(sys.argv[3]), "a trainer") as held:
    print(os.getpid(), flush=True)
    while "go on" in sys.stdin.readline():  # asked whose the lock is
        print(held.holder.pid, flush=True)
"""
ADOPTS_LATER = """
print(os.getpid(), flush=True)
sys.stdin.readline()
with run.lock_from(int(sys.argv[3]), "a trainer alone") as held:
    print(held.holder.pid, flush=True)
    sys.stdin.readline()
"""


@pytest.fixture(params=["ofd", "flock"])
def kind(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    if request.param == "flock":
        monkeypatch.setattr(ofd, "SET", None)
    return str(request.param)


@pytest.fixture
def start(run: Run) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Start a program at the run; whatever still runs at the end is killed."""
    started: list[subprocess.Popen[str]] = []

    def call(program: str, *words: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-c", HEAD + program, str(run.path), *words]
        started.append(subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True))
        return started[-1]

    yield call
    for program in started:
        program.kill()
        program.communicate()


def said(program: subprocess.Popen[str]) -> str:
    assert program.stdout is not None
    return program.stdout.readline().strip()


def tell(program: subprocess.Popen[str], line: str = "") -> None:
    assert program.stdin is not None
    program.stdin.write(f"{line}\n")
    program.stdin.flush()


def refusal(run: Run) -> str:
    with pytest.raises(Busy) as refused, run.lock("mine"):
        pass
    return str(refused.value)


def becomes_free(run: Run) -> bool:
    until = time.monotonic() + 10
    while run.holder() is not None and time.monotonic() < until:
        time.sleep(0.02)
    with run.lock("mine"):
        return True


def test_a_trainer_whose_keeper_was_killed_holds_the_run_until_it_ends(run: Run, kind: str, start) -> None:
    keeper = start(KEEPER_THAT_FORKS, kind, "dies")
    trainer = int(said(keeper))
    assert f"written by process {keeper.pid} on {platform.node()} since" in refusal(run)
    assert f"its trainer is process {trainer}. Nothing was changed.\neverstep stop r ends it cleanly" in refusal(run)
    keeper.send_signal(signal.SIGKILL)
    keeper.wait()
    found = run.holder()
    assert found is not None
    assert (found.pid, found.is_alive, found.trainer, found.trainer_is_alive) == (keeper.pid, False, trainer, True)
    words = refusal(run)
    assert f"still being written by process {trainer} on" in words
    assert f"a trainer whose keeper, process {keeper.pid}, died. Nothing was changed." in words
    assert "ends by itself in a moment" in words
    tell(keeper)
    assert becomes_free(run)


def test_a_keeper_that_leaves_before_its_trainer_leaves_the_run_held(run: Run, kind: str, start) -> None:
    keeper = start(KEEPER_THAT_FORKS, kind, "leaves")
    trainer = int(said(keeper))
    assert said(keeper) == "left"
    found = run.holder()
    assert found is not None
    assert found.trainer == trainer
    assert str(trainer) in refusal(run)
    tell(keeper)
    assert becomes_free(run)


@pytest.mark.parametrize("is_early", [True, False], ids=["before the keeper died", "after it"])
def test_a_program_that_was_given_the_descriptor_holds_the_same_lock(
    run: Run, kind: str, start, is_early: bool
) -> None:
    keeper = start(KEEPER_THAT_STARTS, kind, HEAD + (STARTED if is_early else ADOPTS_LATER))
    trainer = int(said(keeper))
    if is_early:
        found = run.holder()
        assert found is not None
        assert (found.pid, found.trainer) == (keeper.pid, trainer)
    keeper.kill()
    keeper.wait()
    assert run.holder() is not None
    tell(keeper, "go on")
    if is_early:
        assert int(said(keeper)) == keeper.pid
    else:
        assert int(said(keeper)) == trainer  # whoever was named is dead, so it names itself
        assert f"written by process {trainer} on" in refusal(run)
    tell(keeper)
    assert becomes_free(run)


def test_a_descriptor_of_something_else_is_refused(run: Run, tmp_path: Path) -> None:
    descriptor = os.open(tmp_path, os.O_RDONLY)
    try:
        with pytest.raises(UserError, match="is not the lock of r"), run.lock_from(descriptor, "mine"):
            pass
    finally:
        os.close(descriptor)


def test_an_older_everstep_with_its_posix_lock_is_respected(run: Run, start) -> None:
    old = {"pid": 0, "host": platform.node(), "started_at": "2026-01-02T03:04:05+00:00", "command": "everstep train"}
    program = f"""
import fcntl, json
descriptor = os.open(run.layout.lock, os.O_RDWR | os.O_CREAT)
fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
os.pwrite(descriptor, json.dumps({old!r} | {{"pid": os.getpid()}}).encode(), 0)
print("held", flush=True)
time.sleep(60)
"""
    older = start(program, "ofd")
    assert said(older) == "held"
    assert f"written by process {older.pid} on {platform.node()} since 2026-01-02T03:04:05+00:00." in refusal(run)
    found = run.holder()
    assert found is not None
    assert (found.pid, found.trainer, found.is_alive) == (older.pid, None, True)
    older.kill()
    older.wait()
    assert becomes_free(run)


def test_an_older_everstep_is_refused_by_ours(run: Run) -> None:
    with run.lock("mine"):
        older = os.fork()
        if older == 0:
            descriptor = os.open(run.layout.lock, os.O_RDWR)
            try:
                fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                os._exit(7)
            os._exit(0)
        assert os.waitstatus_to_exitcode(os.waitpid(older, 0)[1]) == 7


def test_whoever_holds_it_may_look_and_still_holds_it(run: Run, kind: str) -> None:
    with run.lock("mine") as held:
        for _ in range(3):
            found = run.holder()
            assert found is not None
            assert (found.pid, found.is_alive, found.trainer) == (os.getpid(), True, None)
        assert "is being written by process" in refusal(run)
        assert run.held is held
    assert run.held is None
    assert run.holder() is None
    assert run.layout.lock.read_bytes() == b""


def test_one_that_is_dead_but_not_waited_for_and_one_with_its_number_are_told_from_it(run: Run) -> None:
    child = os.fork()
    if child == 0:
        time.sleep(60)
    me = LockHolder.me("mine").with_trainer(child)
    assert me.trainer_is_alive
    os.kill(child, signal.SIGKILL)
    os.waitid(os.P_PID, child, os.WEXITED | os.WNOWAIT)
    assert me.trainer_is_alive is False
    os.waitpid(child, 0)
    other = LockHolder(os.getpid(), platform.node(), "", "", pid_born=me.pid_born - 1)
    assert other.is_alive is False
    assert LockHolder(os.getpid(), "elsewhere", "", "").is_alive is None


def test_another_host_and_a_nameless_holder_are_named_as_far_as_is_known(run: Run) -> None:
    descriptor = os.open(run.layout.lock, os.O_RDWR | os.O_CREAT)
    try:
        assert ofd.take(descriptor)
        assert "by another process, which has not said who it is" in refusal(run)
        facts = {"pid": 7, "host": "elsewhere", "started_at": "then", "command": "", "trainer": 8, "from_later": 1}
        os.pwrite(descriptor, json.dumps(facts).encode(), 0)
        words = refusal(run)
        assert "by process 7 on elsewhere since then, its trainer is process 8." in words
        assert "everstep stop r ends it cleanly, from here too; it can be looked at only on elsewhere." in words
    finally:
        os.close(descriptor)


# --- where the file system has no locks --------------------------------------------------------------------


@pytest.fixture
def without_locks(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> bool:
        raise OSError(37, "No locks available")

    for name in ("_record", "_ask", "_flock"):
        monkeypatch.setattr(ofd, name, refuse)


def test_without_locks_it_goes_on_and_says_so(run: Run, without_locks: None) -> None:
    reported: list[str] = []
    with run.lock("mine", reported.append):
        found = run.holder()
        assert found is not None
        assert found.pid == os.getpid()
    assert reported == [f"{run.path} has no file locks: nothing can keep a second process from writing r too."]
    assert run.holder() is None
    with pruning_alone(run.layout):
        pass


def test_without_locks_a_process_that_lives_is_still_respected_and_a_dead_one_is_not(
    run: Run, without_locks: None
) -> None:
    child = os.fork()
    if child == 0:
        time.sleep(60)
    with run.lock("mine", lambda _: None) as held:
        assert "is being written by process" in refusal(run)
        held.tell_trainer(child)
    assert f"by process {os.getpid()} on" in refusal(run)  # its child goes on
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    run.layout.lock.write_text(json.dumps({"pid": child, "host": platform.node(), "started_at": "", "command": ""}))
    assert becomes_free(run)


@pytest.mark.parametrize(
    ("host", "age_s", "state", "is_respected"),
    [
        ("elsewhere", 10, "running", True),
        ("elsewhere", 90, "running", False),
        ("elsewhere", 10, "stopped", False),
        (platform.node(), 10, "running", False),
    ],
)
def test_without_locks_a_training_on_another_host_that_told_lately_is_respected(
    run: Run,
    without_locks: None,
    host: str,
    age_s: float,
    state: str,
    is_respected: bool,
) -> None:
    live = LiveStatus(7, host, time.time() - age_s, state, 1, 9, 4, None, None, None, None)
    write_live(run.layout, live)
    if is_respected:
        assert "by process 7 on elsewhere since at least 2" in refusal(run)
    else:
        assert becomes_free(run)


# --- what must not be inherited ----------------------------------------------------------------------------


def test_a_child_forked_during_a_prune_or_a_note_does_not_go_on_holding_it(run: Run, kind: str) -> None:
    with pruning_alone(run.layout):
        child = os.fork()
        if child == 0:
            time.sleep(60)
    try:
        with pruning_alone(run.layout):
            pass
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
