"""The program as a user runs it, in a process of its own that can be killed, and how a command ended."""

import atexit
import contextlib
import multiprocessing
import os
import runpy
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from everstep.train.loop import Loop

PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload(["bases", "preloaded", "everstep.launch.start", "everstep.train.session"])

# Of a program's text: nothing goes on, and nothing changes, before the version of a step is there. How many versions a
# training of a few quick steps gets hangs on the disk's speed else, since one that is far behind puts them off.
WAIT_FOR_VERSION = """
def wait_for_version(step):
    import glob, json, time
    while not any(json.load(open(path))["step"] == step for path in glob.glob("runs/own/version_*/manifest.json")):
        time.sleep(0.01)
"""


@dataclass(frozen=True)
class Ended:
    """How a command ended, and all that it printed."""

    code: int
    out: str


class Program:
    """The program in a process of its own, which can be killed."""

    def __init__(self, words: tuple[object, ...], folder: Path, prepare: Callable[[], None] | None = None) -> None:
        self.log = folder.parent / f"program-{time.monotonic_ns()}.log"  # nothing of ours lies where users look
        surroundings = dict(os.environ)
        self.process = PROCESSES.Process(
            target=_run, args=(list(map(str, words)), folder, self.log, surroundings, prepare)
        )
        self.process.start()

    def signal(self, number: signal.Signals) -> None:
        assert self.process.pid is not None
        os.kill(self.process.pid, number)

    def wait(self, timeout_s: float = 60) -> int:
        """Its exit code; minus the signal's number where one ended it."""
        self.process.join(timeout_s)
        assert self.process.exitcode is not None, self.output
        return self.process.exitcode

    def end(self) -> None:
        """Kill it, and what it started, wherever they are."""
        pid, started = self.process.pid, list[str]()
        if self.process.is_alive():
            with contextlib.suppress(FileNotFoundError):
                started = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
            self.process.kill()
        for child in started:
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(child), signal.SIGKILL)
        self.process.join()

    @property
    def output(self) -> str:
        return self.log.read_text() if self.log.exists() else ""

    def wait_for(self, is_there: Callable[[], object], timeout_s: float = 60) -> None:
        until = time.monotonic() + timeout_s
        while not is_there():
            assert self.process.is_alive(), self.output
            assert time.monotonic() < until, self.output
            time.sleep(0.005)


class Script:
    """A program of somebody's own in a process of its own, as Python runs it; what it prints goes into a file.

    It is forked from a process that has PyTorch loaded, which saves it the seconds that takes.
    """

    def __init__(self, path: Path, words: tuple[object, ...], folder: Path, log: Path, **environ: str) -> None:
        surroundings = {**os.environ, **environ}
        self._process = PROCESSES.Process(
            target=_run_script, args=(path, list(map(str, words)), folder, log, surroundings)
        )
        self._process.start()
        assert self._process.pid is not None
        self.pid = self._process.pid

    def poll(self) -> int | None:
        """Its exit code; minus the signal's number where one ended it; None while it runs."""
        return self._process.exitcode

    def wait(self, timeout_s: float = 60) -> int:
        """Raises: AssertionError if it runs for longer."""
        self._process.join(timeout_s)
        code = self.poll()
        assert code is not None
        return code


def _begin(folder: Path, log: Path, surroundings: dict[str, str]) -> None:
    """What a new process has, for one that was forked."""
    os.chdir(folder)
    for name in os.environ.keys() - surroundings.keys():  # the server that forks may have begun with others
        del os.environ[name]
    os.environ.update(surroundings)
    with log.open("w") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    import torch

    torch.set_num_threads(1)
    # A fork spoils PyTorch's pool of threads, and several threads that mend it at once meet none there. Users' keepers
    # fork before PyTorch is loaded; here it is there before, so that a test need not wait for it.
    os.register_at_fork(after_in_child=lambda: torch.set_num_threads(1))


def _run_script(path: Path, words: list[str], folder: Path, log: Path, surroundings: dict[str, str]) -> None:
    """As `python path words`, to the end of the process."""
    os.setsid()
    _begin(folder, log, surroundings)
    sys.argv[:] = [str(path), *words]
    sys.path.insert(0, str(path.parent))
    code: object = 0
    try:
        runpy.run_path(str(path), run_name="__main__")
    except SystemExit as ended:
        code = ended.code
    except BaseException:
        traceback.print_exc()
        code = 1
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    sys.stdout.flush()
    os._exit(code if isinstance(code, int) else int(code is not None))


def _run(
    words: list[str], folder: Path, log: Path, surroundings: dict[str, str], prepare: Callable[[], None] | None
) -> None:
    _begin(folder, log, surroundings)
    from everstep.cli.main import run

    if prepare is not None:
        prepare()
    sys.argv = ["everstep", *words]
    code = run(words)
    sys.stdout.flush()
    os._exit(code)


@dataclass(frozen=True)
class AfterStep:
    """Something is done to the live training at the end of a step, each time that it is made."""

    step: int
    act: Callable[["Loop"], None]

    def __call__(self) -> None:
        from everstep.train.loop import Loop

        original = Loop._step

        def stepped(loop: Loop) -> None:
            original(loop)
            if loop.state.step == self.step:
                self.act(loop)

        Loop._step = stepped  # type: ignore[method-assign]
