"""Small real bases, a small real folder of pairs, and the program run as a user runs it."""

import contextlib
import io
import json
import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).parent))

PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload(
    ["bases", "everstep.cli.training", "everstep.train.session", "torch.utils.tensorboard"]
)


@pytest.fixture(autouse=True)
def _private_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.getbasetemp() / "cache"))


@pytest.fixture
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder to run the program in; runs/ appears there."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(scope="session")
def tiny_base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base of the SD 1.5 layout with random weights, 16 px: as small as every part allows."""
    from bases import write_base

    return write_base(tmp_path_factory.mktemp("bases") / "sd15", like="sd15")


@pytest.fixture(scope="session")
def pairs_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """30 pairs on disk, metadata.jsonl, so that an epoch ends within a few steps."""
    from everstep.data import circles

    folder = tmp_path_factory.mktemp("data") / "pairs"
    folder.mkdir()
    lines = []
    for number in range(30):
        drawn = circles.circle(number)
        circles.target(drawn, 20).save(folder / f"{number}.png")
        circles.condition(drawn, 20).save(folder / f"{number}_outline.png")
        names = {"file_name": f"{number}.png", "conditioning_image": f"{number}_outline.png"}
        lines.append(json.dumps({**names, "text": drawn.caption}))
    (folder / "metadata.jsonl").write_text("\n".join(lines) + "\n")
    return folder


@dataclass(frozen=True)
class Ended:
    """How a command ended, and all that it printed."""

    code: int
    out: str


@pytest.fixture
def everstep(workplace: Path) -> Callable[..., Ended]:
    """Run the program in this process, as if its words were typed."""

    def call(*words: object) -> Ended:
        from everstep.cli.main import run

        printed = io.StringIO()
        before = sys.argv
        sys.argv = ["everstep", *map(str, words)]
        try:
            with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(printed):
                code = run(sys.argv[1:])
        finally:
            sys.argv = before
        return Ended(int(code), printed.getvalue())

    return call


class Program:
    """The program in a process of its own, which can be killed."""

    def __init__(self, words: tuple[object, ...], folder: Path, prepare: Callable[[], None] | None = None) -> None:
        self.log = folder / f"program-{time.monotonic_ns()}.log"
        self.process = PROCESSES.Process(target=_run, args=(list(map(str, words)), folder, self.log, prepare))
        self.process.start()

    def signal(self, number: signal.Signals) -> None:
        assert self.process.pid is not None
        os.kill(self.process.pid, number)

    def wait(self, timeout_s: float = 60) -> int:
        """Its exit code; minus the signal's number where one ended it."""
        self.process.join(timeout_s)
        assert self.process.exitcode is not None, self.output
        return self.process.exitcode

    @property
    def output(self) -> str:
        return self.log.read_text() if self.log.exists() else ""

    def wait_for(self, is_there: Callable[[], object], timeout_s: float = 60) -> None:
        until = time.monotonic() + timeout_s
        while not is_there():
            assert self.process.is_alive(), self.output
            assert time.monotonic() < until, self.output
            time.sleep(0.005)


def _run(words: list[str], folder: Path, log: Path, prepare: Callable[[], None] | None) -> None:
    os.chdir(folder)
    with log.open("w") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    import torch

    torch.set_num_threads(1)
    from everstep.cli.main import run

    if prepare is not None:
        prepare()
    sys.argv = ["everstep", *words]
    code = run(words)
    sys.stdout.flush()
    os._exit(code)


@pytest.fixture
def start(workplace: Path) -> Iterator[Callable[..., Program]]:
    """Start the program in a process of its own; whatever is left is killed at the end."""
    started: list[Program] = []

    def call(*words: object, prepare: Callable[[], None] | None = None) -> Program:
        started.append(Program(words, workplace, prepare))
        return started[-1]

    yield call
    for program in started:
        if program.process.is_alive():
            program.process.kill()
        program.process.join()
