"""What machines that share no folder say to each other in a mirror, and the process that says it for them."""

import os
import signal
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from servers import start_sshd
from serving import wait_for

from everstep.launch import answering, calling
from everstep.launch import relay as relaying_again
from everstep.launch.answering import Listener
from everstep.launch.calling import Caller, Launch
from everstep.launch.meeting import Meeting
from everstep.launch.relay import Relay
from everstep.launch.relaying import FOLDER
from everstep.telling import untold
from everstep.versions.layout import RunLayout
from machines import Machines, listening


@dataclass
class Called:
    """Two machines that share no folder, as far as they talk; the first one calls in a thread of its own."""

    machines: Machines
    listener: Listener
    apart: ThreadPoolExecutor
    caller: Caller
    _calling: Future[Meeting | None] | None = None

    def begin(self) -> None:
        self._calling = self.apart.submit(self.caller.call, {"version": None})
        assert isinstance(self.listener.await_call(), dict)

    @property
    def is_done(self) -> bool:
        assert self._calling is not None
        return self._calling.done()

    def meeting(self) -> Meeting | None:
        assert self._calling is not None
        return self._calling.result()


def test_a_process_that_relays_has_no_threads_in_who_asks_it(machines: Machines) -> None:
    before = len(os.listdir("/proc/self/task"))  # tests before it may have some, of a client of theirs
    relay = Relay(machines.target, "a", print)
    relay.write("call.json", {"x": 1})
    assert relay.settle(20)
    assert len(os.listdir("/proc/self/task")) == before
    other = Relay(machines.target, "a", print)
    wait_for(lambda: other.read("call.json") == {"x": 1})
    relay.clear()
    relay.close(20)
    wait_for(lambda: other.read("call.json") is None)
    other.close()
    assert list(Path(machines.target).iterdir()) == []


@pytest.mark.fault("a connection of SSH that breaks while machines meet")
def test_a_connection_that_broke_is_made_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said = list[str]()
    with contextmanager(start_sshd)(tmp_path / "sshd") as server:
        monkeypatch.setenv("HOME", str(server.home))
        monkeypatch.delenv("SSH_AUTH_SOCK", raising=False)
        (tmp_path / "mirror").mkdir()
        relay = Relay(f"sftp://{server.host}{tmp_path}/mirror", "a", said.append)
        relay.write("call.json", {"x": 1})
        assert relay.settle(20)
        server.kill()
        relay.write("call.json", {"x": 2})
        wait_for(lambda: not relay.is_settled and relay.trouble != "")
        server.come_back()
        assert relay.settle(20)
        wait_for(lambda: relay.read("call.json") == {"x": 2})
        relay.close()
    assert [line for line in said if "answers again" in line] == [said[-1]]


def test_a_process_that_relays_ends_with_who_asks_it(machines: Machines) -> None:
    told, tell = os.pipe()
    if (pid := os.fork()) == 0:
        relay = Relay(machines.target, "a", print)
        relay.write("call.json", {"x": 1})
        relay.settle(20)
        assert relay._process is not None
        os.write(tell, str(relay._process.pid).encode())
        time.sleep(60)
    helper = int(os.read(told, 20))
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    os.close(told)
    os.close(tell)
    wait_for(lambda: is_over(helper))


def test_a_process_that_relays_is_started_again(
    machines: Machines, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """With what it had not done yet."""
    monkeypatch.setattr(relaying_again, "AGAIN_S", 0.2)
    in_the_way = Path(machines.target) / "a"
    in_the_way.write_text("")
    relay = Relay(machines.target, "a", print)
    relay.write("call.json", {"x": 1})
    assert not relay.settle(2)
    assert "exists" in relay.trouble  # what the mirror says: that is no reason to end
    assert relay._process is not None
    os.kill(relay._process.pid, signal.SIGKILL)
    in_the_way.unlink()
    assert relay.settle(20)
    assert (in_the_way / FOLDER / "call.json").read_text() == '{"x": 1}'
    relay.close()
    assert "answers again" in capsys.readouterr().out


def is_over(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True


def test_who_sees_the_folder_does_not_go_by_the_mirror(machines: Machines, monkeypatch: pytest.MonkeyPatch) -> None:
    """Though the mirror shows the call a moment before."""
    listener, relay = listening(machines)
    in_mirror = Relay(machines.target, "a", print)
    in_mirror.write("call.json", {"launch": machines.name, "nonce": "n"})
    in_mirror.close(20)

    def shown_late() -> None:
        wait_for(lambda: listener._shown_at is not None)
        folder = machines.run(1) / "records/nodes"
        folder.mkdir(parents=True)
        (folder / "call.json").write_text(f'{{"launch": "{machines.name}", "nonce": "n"}}')

    late = threading.Thread(target=shown_late)
    late.start()
    assert isinstance(listener.await_call(), dict)
    late.join()
    relay.close()
    assert listener.shares


@pytest.fixture
def called(machines: Machines, monkeypatch: pytest.MonkeyPatch) -> Iterator[Called]:
    monkeypatch.setattr(answering, "SURE_S", 0.0)
    listener, relay = listening(machines)
    launch = Launch(machines.name, 2, Relay(machines.target, "a", print))
    caller = Caller(RunLayout(machines.run(0)), launch, 2, print, untold, lambda: False)
    with ThreadPoolExecutor(1) as apart:
        yield Called(machines, listener, apart, caller)
        assert launch.relay is not None
        launch.relay.close()
    relay.close()


def test_each_hears_who_sees_the_folder(called: Called) -> None:
    called.begin()
    answered = called.listener.answer(3)
    assert answered is not None
    assert (answered.node, answered.ranks) == (1, 5)
    called.meeting()
    assert called.caller.launch.unheard == {1}


def test_one_that_fetches_is_waited_for_as_long_as_it_says_so(called: Called, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calling, "FIRST_S", 4.0)
    monkeypatch.setattr(calling, "ALIVE_S", 4.0)
    called.begin()
    until = time.monotonic() + 7
    while time.monotonic() < until:
        called.listener.say_coming()
        time.sleep(0.5)
    assert called.listener.answer(1) is not None
    assert called.meeting().nodes == 2


@pytest.mark.fault("a mirror that goes away when all have answered")
def test_nobody_begins_before_all_can_know(called: Called) -> None:
    """The others' ranks would be waited for in vain."""
    called.begin()
    in_the_way = Path(called.machines.target) / "a" / FOLDER / "go.json"
    in_the_way.mkdir()
    with ThreadPoolExecutor(1) as apart:
        answered = apart.submit(called.listener.answer, 1)
        time.sleep(5)
        assert not called.is_done
        in_the_way.rmdir()
        assert answered.result() is not None
    assert called.meeting().nodes == 2


def test_an_end_is_heard_where_nothing_was_ever_called(machines: Machines, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calling, "LINGER_S", 20.0)
    listener, relay = listening(machines)
    launch = Launch(machines.name, 2, Relay(machines.target, "a", print))
    telling = threading.Thread(target=launch.tell_end, args=(machines.run(0), 4))
    telling.start()
    assert listener.await_call() == 4
    relay.close(20)
    telling.join()
    assert launch.unheard == set()
    assert list(Path(machines.target).iterdir()) == []
