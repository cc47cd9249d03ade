"""Machines that share no folder train one run; here all of them are this one, each in a workplace of its own, and what
they share is a mirror.
"""

import getpass
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from servers import KEY, SECRET, Server, Sshd, Weed, family, start_sshd, start_weed
from serving import wait_for

from everstep.launch.relay import Relay
from everstep.launch.relaying import FOLDER
from everstep.mirror.backend import Place
from everstep.mirror.offered import versions_in
from everstep.records.steps import read_metrics
from everstep.versions import Run
from machines import Impatient, Machines, ended, is_at, listening
from program import Ended, Program
from ranks import KillRank

TEN_THOUSAND = ("--set", "optim.max_steps=10000")


def nothing_is_left_on(disk: Path) -> bool:
    return list(disk.iterdir()) == []


def words_left(machines: Machines) -> list[str]:
    """In the mirror. A store may go on listing a folder that is empty."""
    return [name for name in machines.place.names(FOLDER) if name.endswith(".json")]


def test_they_begin_a_run_and_go_on_with_it(machines: Machines) -> None:
    """The other machine has nothing of it on its disk, before, between and after; the mirror has the versions."""
    second, first = machines.start(1), machines.start(0)
    assert ended(first, second) == [0, 0]
    assert "Machine 1 does not see the run's folder" in first.output
    last = Run.open(machines.run()).find("latest")
    assert (last.step, last.manifest["machine"]["ranks"]) == (30, 2)
    assert nothing_is_left_on(machines.disk(1))
    assert words_left(machines) == []

    machines.launch()
    more = ("--set", "optim.max_steps=60")
    words = ("resume", "a", *more)
    second = machines.start(1, words=("resume", f"{machines.target}/a", *more))
    first = machines.start(0, words=words)
    assert ended(first, second) == [0, 0]
    run = Run.open(machines.run())
    assert (run.find("latest").step, run.find("latest").manifest["machine"]["ranks"]) == (60, 2)
    assert [line["first_example"] for line in read_metrics(run.path / "records")] == [4 * at for at in range(60)]
    assert nothing_is_left_on(machines.disk(1))
    wait_for(lambda: max(versions_in(machines.place)) == run.find("latest").number)
    assert words_left(machines) == []


@pytest.mark.slow
def test_a_run_that_the_mirror_alone_has_is_gone_on_with(machines: Machines) -> None:
    """The first machine is lost with its disk: of two others one fetches the run, the other its version."""
    assert ended(machines.start(1), machines.start(0)) == [0, 0]
    wait_for(lambda: 30 in [offered_step(machines.place, number) for number in versions_in(machines.place)])
    machines.run().rename(machines.folder / "lost")
    machines.launch()
    words = ("resume", f"{machines.target}/a", "--set", "optim.max_steps=40")
    second, first = machines.start(1, words=words), machines.start(0, words=words)
    assert ended(first, second) == [0, 0]
    assert "fetched to runs/a" in first.output
    assert Run.open(machines.run()).find("latest").step == 40
    assert nothing_is_left_on(machines.disk(1))


def offered_step(place: Place, number: int) -> int:
    return int(Run(place.root).version(number).step)  # type: ignore[attr-defined]


@pytest.mark.fault("a machine of two that shares no folder")
def test_one_that_is_gone_is_gone_on_without(machines: Machines) -> None:
    more = ("--set", "optim.max_steps=300")
    second = machines.start(1, *more)
    first = machines.start(0, *more, "--restarts", 1, prepare=Impatient())
    first.wait_for(lambda: is_at(machines.run(), 5))
    assert second.process.pid is not None
    for pid in family(second.process.pid):
        os.kill(pid, signal.SIGKILL)
    assert ended(first) == [0]
    assert "0 steps back" in first.output
    assert "1 of 2 go on" in first.output
    assert Run.open(machines.run()).find("latest").step == 300
    left = [path.name for path in machines.disk(1).iterdir()]
    assert all(name.startswith(".a.") and name.endswith(".plan") for name in left)  # the next one there removes it


@pytest.mark.slow
def test_one_whose_rank_died_comes_again_with_the_version_gone_on_from(machines: Machines) -> None:
    """That version was made after the meeting, and is fetched for the second one."""
    second = machines.start(1, prepare=KillRank(1, "a step", 20))
    first = machines.start(0, "--restarts", 1)
    assert ended(first, second) == [0, 0]
    run = Run.open(machines.run())
    assert (run.find("latest").step, run.find("latest").manifest["machine"]["ranks"]) == (30, 2)
    assert [line["first_example"] for line in read_metrics(run.path / "records")] == [4 * at for at in range(30)]
    assert nothing_is_left_on(machines.disk(1))


@pytest.mark.fault("SIGTERM at a machine that shares no folder")
def test_one_that_is_taken_away_stops_all_with_a_version(machines: Machines) -> None:
    second, first = machines.start(1, *TEN_THOUSAND), machines.start(0, *TEN_THOUSAND)
    first.wait_for(lambda: is_at(machines.run(), 2))
    second.signal(signal.SIGTERM)
    assert ended(first, second) == [3, 3]
    last = Run.open(machines.run()).find("latest")
    assert last.reason == "asked"
    assert last.step > 0
    assert words_left(machines) == []


@pytest.mark.fault("a mirror that is away when machines meet in it")
@pytest.mark.slow
def test_a_mirror_that_is_away_at_first_is_waited_for(machines: Machines) -> None:
    in_the_way = Path(machines.target) / "a"
    in_the_way.write_text("")
    second, first = machines.start(1), machines.start(0)
    first.wait_for(lambda: "takes nothing now" in first.output)
    in_the_way.unlink()
    assert ended(first, second) == [0, 0]
    assert "answers again" in first.output
    assert Run.open(machines.run()).find("latest").manifest["machine"]["ranks"] == 2


def test_other_data_are_refused_and_nothing_is_left(machines: Machines) -> None:
    listener, relay = listening(machines)
    first = machines.start(0)
    call = listener.await_call()
    assert isinstance(call, dict)
    assert not listener.shares
    listener.refuse("the data here is not the first machine's: its content is another.")
    assert listener.await_call() == 2
    relay.close(20)
    assert first.wait() == 2, first.output
    assert "Machine 1: the data here is not the first machine's" in first.output
    assert not machines.run().exists()
    assert list(Path(machines.target).iterdir()) == []


def test_copies_of_another_run_are_refused(machines: Machines) -> None:
    """A first machine that has nothing of the run would begin it anew, beside the copies of the true one."""
    (machines.folder / "mirror/a").mkdir()
    (machines.folder / "mirror/a/mirror.json").write_text('{"identity": "another"}')
    second, first = machines.start(1), machines.start(0)
    assert ended(first, second) == [2, 2]
    assert "holds copies of another run" in first.output
    assert f"everstep resume {machines.target}/a" in first.output
    assert not machines.run().exists()
    assert [path.name for path in (machines.folder / "mirror/a").iterdir()] == ["mirror.json"]


@pytest.mark.slow
def test_a_version_that_the_mirror_lacks_is_sent_for_the_others(machines: Machines, words: tuple[object, ...]) -> None:
    """A run that one machine began, without any mirror."""
    alone = Program((*words, *TEN_THOUSAND), machines.disk(0))
    alone.wait_for(lambda: is_at(machines.run(), 5))
    alone.signal(signal.SIGTERM)
    assert alone.wait() == 3
    number = Run.open(machines.run()).find("latest").number
    second, first = machines.start(1, *TEN_THOUSAND), machines.start(0, *TEN_THOUSAND)
    first.wait_for(lambda: is_at(machines.run(), Run.open(machines.run()).version(number).step + 5))
    assert number in versions_in(machines.place)
    first.signal(signal.SIGTERM)
    assert ended(first, second) == [3, 3]
    assert Run.open(machines.run()).find("latest").manifest["machine"]["ranks"] == 2
    assert nothing_is_left_on(machines.disk(1))


def test_verbs_pass_over_what_lies_there_for_a_meeting(
    run: Run, everstep: Callable[..., Ended], tmp_path: Path
) -> None:
    (tmp_path / "mirror").mkdir()
    target = str(tmp_path / "mirror")
    relay = Relay(target, "r", print)
    relay.write("call.json", {"x": 1})
    assert relay.settle(20)
    for words in (("mirror", "r", target), ("mirror", "r", target, "--keep", "last 1")):
        assert everstep(*words).code == 0
    for words in (("mirror", "status", "r", target), ("mirror", "verify", f"{target}/r")):
        ended = everstep(*words)
        assert ended.code == 0
        assert FOLDER not in ended.out
    assert everstep("mirror", "pull", f"{target}/r", "--to", tmp_path / "pulled").code == 0
    assert not (tmp_path / "pulled" / FOLDER).exists()
    relay.close()
    assert (tmp_path / "mirror/r" / FOLDER / "call.json").exists()


@pytest.mark.slow
@pytest.mark.fault("a mirror that is away, of machines that share a folder")
def test_where_the_folder_is_shared_no_mirror_is_waited_for(machines: Machines) -> None:
    in_the_way = Path(machines.target) / "a"
    in_the_way.write_text("")
    machines.disk(1).rmdir()
    machines.disk(1).symlink_to(machines.disk(0))
    began = time.monotonic()
    second, first = machines.start(1), machines.start(0)
    assert ended(first, second) == [0, 0]
    assert time.monotonic() - began < 45
    assert "does not see" not in first.output
    assert Run.open(machines.run()).find("latest").manifest["machine"]["ranks"] == 2


def test_a_machine_that_has_not_the_run_is_told_what_to_name(machines: Machines) -> None:
    second = machines.start(1, words=("resume", "a"))
    assert ended(second) == [2]
    assert "everstep resume TARGET/a" in second.output


# --- in a store, and behind SSH ------------------------------------------------------------------------------


@pytest.fixture(scope="module", params=(start_weed, start_sshd))
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    yield from request.param(tmp_path_factory.mktemp("server"))


@pytest.fixture
def away(machines: Machines, server: Server, monkeypatch: pytest.MonkeyPatch) -> Machines:
    """The mirror is behind a server."""
    if isinstance(server, Weed):
        monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", KEY)
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
        machines.target = f"s3://{server.bucket}/{machines.folder.name}?endpoint={server.endpoint}"
    elif isinstance(server, Sshd):
        monkeypatch.setenv("HOME", str(server.home))
        monkeypatch.setenv("USER", getpass.getuser())
        monkeypatch.delenv("SSH_AUTH_SOCK", raising=False)
        machines.target = f"sftp://{server.host}{machines.target}"
    return machines


@pytest.mark.slow
@pytest.mark.fault("a server that is gone while machines meet behind it")
def test_they_meet_behind_a_server(away: Machines, server: Server) -> None:
    server.kill()
    second, first = away.start(1), away.start(0)
    threading.Timer(8.0, server.come_back).start()
    assert ended(first, second) == [0, 0]
    wait_for(lambda: len(versions_in(away.place)) > 1)
    away.launch()
    words = ("resume", away.place.address, "--set", "optim.max_steps=60")
    away.run().rename(away.folder / "lost")
    second, first = away.start(1, words=words), away.start(0, words=words)
    assert ended(first, second) == [0, 0]
    assert Run.open(away.run()).find("latest").manifest["machine"]["ranks"] == 2
    assert nothing_is_left_on(away.disk(1))
    assert words_left(away) == []
