"""How threads wait: what the system tells is heard, libgomp sleeps and spins again, no bit and no setting changes."""

import os
import subprocess
import sys
import textwrap

import pytest

from everstep.train.waiting import CALM_PERIODS, SETTINGS, TASKS, Crowd, how_threads_wait, kept_off_s

IS_WATCHED = (TASKS / str(os.getpid()) / "schedstat").exists()
watched = pytest.mark.skipif(not IS_WATCHED, reason="the kernel does not tell how long threads wait for a processor")


def alone(program: str, **settings: str) -> str:
    """What a program prints in a process of its own, with two threads and no settings but these."""
    kept = {name: value for name, value in os.environ.items() if name not in SETTINGS}
    ended = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)],
        env=kept | {"OMP_NUM_THREADS": "2"} | settings,
        capture_output=True,
        text=True,
    )
    assert ended.returncode == 0, ended.stderr
    return ended.stdout.strip()


def test_one_crowded_moment_is_a_crowd_and_one_quiet_moment_is_no_end_of_it() -> None:
    crowd = Crowd()
    crowd.hear(0.05)
    assert not crowd.is_there
    crowd.hear(0.5)
    assert crowd.is_there
    for _ in range(CALM_PERIODS - 1):
        crowd.hear(0.02)
        assert crowd.is_there
    crowd.hear(0.15)
    for _ in range(CALM_PERIODS - 1):
        crowd.hear(0.02)
        assert crowd.is_there
    crowd.hear(0.02)
    assert not crowd.is_there


def test_what_lies_between_quiet_and_crowded_begins_nothing() -> None:
    crowd = Crowd()
    for _ in range(10):
        crowd.hear(0.2)
    assert not crowd.is_there


def test_threads_that_begin_or_end_between_two_looks_count_for_nothing() -> None:
    assert kept_off_s({"1": 1.0, "2": 7.0}, {"1": 1.5, "3": 9.0}) == 0.5


@watched
@pytest.mark.skipif((os.cpu_count() or 1) < 2, reason="with one processor libgomp never spins")
def test_libgomp_sleeps_while_it_is_told_to_and_spins_again_afterwards() -> None:
    # What the second thread of a team spends on a processor for each wait tells; other work on the machine does not.
    printed = alone(
        """
        import os, time, torch
        from everstep.train.waiting import Asleep, TASKS, loaded_libgomp

        def spent():
            before = used()
            for _ in range(10):
                numbers.mul_(1.0)
                while (TASKS / worker / "stat").read_text().rpartition(")")[2].split()[0] != "S":
                    time.sleep(0.001)
            return used() - before

        def used():
            return int((TASKS / worker / "schedstat").read_text().split()[0])

        before = set(os.listdir(TASKS))
        numbers = torch.zeros(1 << 17)
        (worker,) = set(os.listdir(TASKS)) - before
        spent()
        spinning = spent()
        asleep = Asleep(loaded_libgomp())
        while len(os.listdir(TASKS)) < len(before) + 3:
            time.sleep(0.001)
        spent()
        sleeping, threads = spent(), torch.get_num_threads()
        asleep.end()
        while len(os.listdir(TASKS)) > len(before) + 1:
            time.sleep(0.001)
        again = spent()
        print(spinning > 3 * sleeping, again > 3 * sleeping, threads, spinning, sleeping, again)
        """
    )
    assert printed.startswith("True True 2"), printed


def test_no_bit_depends_on_how_threads_wait() -> None:
    printed = alone(
        """
        import torch
        from everstep.train.waiting import Asleep, loaded_libgomp

        def trained(switches):
            torch.manual_seed(0)
            convolutions = torch.nn.Conv2d(3, 16, 3), torch.nn.Conv2d(16, 4, 3)
            layers = torch.nn.Sequential(convolutions[0], torch.nn.GroupNorm(4, 16), convolutions[1])
            pictures, asleep = torch.randn(8, 3, 48, 48), None
            optimizer = torch.optim.AdamW(layers.parameters(), foreach=True)
            for step in range(12):
                if switches and step % 3 == 1:
                    asleep = Asleep(loaded_libgomp())
                layers(pictures).square().mean().backward()
                optimizer.step()
                optimizer.zero_grad()
                if switches and step % 3 == 2:
                    asleep.end()
            return torch.cat([value.detach().flatten() for value in layers.parameters()])

        print(torch.equal(trained(False), trained(True)))
        """
    )
    assert printed == "True"


WATCHED = """
    import itertools
    import torch
    from everstep.train import waiting

    told, heard = [], itertools.chain([0.0, 1.0, 1.0], itertools.repeat(0.0))
    waiting.PERIOD_S, waiting.kept_off_s = 0.01, lambda before, now: 0.01 * next(heard) * 5
    made, Asleep = [], waiting.Asleep
    waiting.Asleep = lambda libraries: made.append(Asleep(libraries)) or made[-1]
    with waiting.Waiting(THREADS, told.append) as watching:
        watching._watcher.ident and watching._watcher.join(0.5)
    print(len(told), len(made), all(one._is_over.is_set() for one in made))
"""


@watched
def test_a_crowd_is_told_of_once_and_its_end_is_heard() -> None:
    assert alone(WATCHED.replace("THREADS", "0")) == "1 1 True"


@watched
def test_one_thread_waits_for_nobody() -> None:
    assert alone(WATCHED.replace("THREADS", "1")) == "0 0 True"
    assert alone(WATCHED.replace("THREADS", "0"), OMP_NUM_THREADS="1") == "0 0 True"


@pytest.mark.parametrize("name", SETTINGS)
def test_a_persons_own_setting_stands(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    value = {"OMP_WAIT_POLICY": "PASSIVE", "GOMP_SPINCOUNT": "300000"}[name]
    assert alone(WATCHED.replace("THREADS", "0"), **{name: value}) == "0 0 True"
    for other in SETTINGS:
        monkeypatch.delenv(other, raising=False)
    assert how_threads_wait() == "asleep beside other work"
    monkeypatch.setenv(name, value)
    assert how_threads_wait() == f"{name}={value}"


def test_waiting_never_loads_pytorch() -> None:
    program = "import sys, everstep.train.waiting, everstep.launch.processors; print('torch' in sys.modules)"
    assert alone(program) == "False"
