"""Has a planned training measured, by a process of its own: its memory can be told apart, and ends with it.

Whatever becomes of that process is a finding. Never imports torch.
"""

import contextlib
import ctypes
import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

from everstep.config.schema import Config, Mirror
from everstep.contracts import Counted, During, ParentRef
from everstep.errors import EverstepError, ExitCode, UserError
from everstep.keeping import stacks
from everstep.keeping.channel import Channel, Gone
from everstep.keeping.child import Child, fork
from everstep.keeping.keeper import IS_POSSIBLE
from everstep.launch.apart import run_apart
from everstep.launch.plan import Opened
from everstep.launch.processors import limit_threads
from everstep.places import told
from everstep.train.measured import Measured
from everstep.train.ready import Ready, base_digest_of
from everstep.train.waiting import Waiting
from everstep.units import size
from everstep.versions import Run
from everstep.versions.reading import reading

DIE_WITH_PARENT = 1  # prctl(2), PR_SET_PDEATHSIG
FIRST_TO_GO = "1000"  # proc(5), oom_score_adj: before anything else that runs here
HEARD = (signal.SIGTERM, signal.SIGHUP)
DOING = {
    "built": "while it was put together",
    "steps": "in a step",
    "evaluated": "in an evaluation",
    "committed": "while a version was written",
    "encoded": "while a batch was encoded",
    "fed": "while the loader was timed",
}


class Stopped(EverstepError):
    """A signal ended the measuring."""

    exit_code = ExitCode.STOPPED

    def __init__(self) -> None:
        super().__init__("Stopped measuring; nothing of it is left.")


def measure(opened: Opened, during: During) -> Measured:
    """Train a few steps apart from everything, evaluate, write a version, and remove all of it again.

    Raises: UserError where the training refuses to begin, as `train` would; Stopped.
    Crash: a hidden folder, which the next plan removes; the process that measures ends with this one.
    """
    found = Measured()
    if not IS_POSSIBLE:
        found.left_out.append("nothing was measured: that needs Linux")
        return found
    with ExitStack() as held, _interruptible():
        if opened.version is not None:
            held.enter_context(reading(opened.version.path))
        try:
            run = held.enter_context(run_apart(opened.folder, _harmless(opened.inputs.config)))
        except (OSError, EverstepError) as error:
            found.left_out.append(f"nothing was measured, since {opened.folder.parent} takes no run: {told(error)}")
            return found
        _heard(opened, run, found, during)
    return found


def _harmless(config: Config) -> Config:
    """The same training, of which nobody else hears and of which nothing is pruned."""
    tracking = config.tracking.model_copy(update={"wandb_project": None, "trackio": None, "tensorboard": False})
    keep = config.keep.model_copy(update={"everything": True})
    return config.model_copy(update={"tracking": tracking, "keep": keep, "mirror": Mirror()})


def _heard(opened: Opened, run: Run, found: Measured, during: During) -> None:
    """Start the process and take in what it tells, to its end."""
    (ours, theirs), parent = Channel.pair(), os.getpid()
    written = run.layout.records / stacks.NAME
    child = fork(lambda channel: _measure(opened, run, channel, parent), ours, theirs, written)
    doing, refusal = "built", None
    try:
        with contextlib.suppress(Gone), _Shown(during) as shown:
            while True:
                message = ours.receive()
                kind = message.pop("kind")
                if kind == "found":
                    found.hear(message["part"], message["facts"])
                elif kind == "phase":
                    doing = message["part"]
                elif kind == "left_out":
                    found.left_out.append(message["what"])
                elif kind == "refused":
                    refusal = message["why"]
                elif kind == "failed":
                    found.failed, found.error = message["why"], message["error"]
                    found.is_out_of_memory = message["is_out_of_memory"]
                else:
                    shown.hear(kind, message)
    finally:
        code = _ended(child)
        ours.close()
    if refusal is not None:
        raise UserError(refusal)
    if code != 0:
        found.failed_in = DOING[doing]
        if found.failed is None:
            found.failed, found.is_out_of_memory = _death(code), code == -signal.SIGKILL


def _ended(child: Child) -> int:
    """Its exit code; it is killed if it has not ended of its own accord, as when somebody has had enough."""
    if sys.exc_info()[0] is not None:
        child.signal(signal.SIGKILL)
    return child.end() or 0


def _death(code: int) -> str:
    if code == -signal.SIGKILL:
        return "killed, as the system does where memory runs out"
    return f"ended by {signal.Signals(-code).name}" if code < 0 else f"ended with code {code}"


class _Shown:
    """What is being done, shown one thing at a time."""

    def __init__(self, during: During) -> None:
        self._during, self._now = during, ExitStack()
        self._said: Counted | None = None

    def __enter__(self) -> "_Shown":
        return self

    def __exit__(self, *error: object) -> None:
        self._now.close()

    def hear(self, kind: str, facts: dict[str, Any]) -> None:
        if kind == "count":
            if self._said is not None:
                self._said(facts["done"], facts["total"])
            return
        self._now.close()
        self._said = None
        if kind == "begin":
            count: Callable[[int], str] = size if facts["is_bytes"] else "{:,}".format
            self._said = self._now.enter_context(self._during(facts["what"], facts["unit"], count))


@contextmanager
def _interruptible() -> Iterator[None]:
    """A SIGTERM ends it as Ctrl-C does, with everything removed."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def interrupt(number: int, frame: FrameType | None) -> None:
        for again in (signal.SIGINT, *HEARD):  # what is removed now shall be removed whole
            signal.signal(again, signal.SIG_IGN)
        raise KeyboardInterrupt

    heard = [number for number in (signal.SIGINT, *HEARD) if signal.getsignal(number) is not signal.SIG_IGN]
    before = {number: signal.signal(number, interrupt) for number in heard}
    try:
        yield
    except KeyboardInterrupt:
        raise Stopped from None
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


# --- in the process that measures --------------------------------------------------------------------------


def _measure(opened: Opened, run: Run, channel: Channel, parent: int) -> int:
    """Returns 0 if everything was measured."""
    _end_with(parent)
    _say_into(run.layout.records / "said.txt")
    config = opened.inputs.config
    limit_threads(config.compute.threads)
    try:
        with Waiting(config.compute.threads, lambda text: None):
            channel.send("begin", what="Measuring: loading PyTorch", unit="", is_bytes=False)
            from everstep.train.measuring import measure as measured

            measured(_ready(opened, run, channel), channel.send)
        return 0
    except Gone:
        return 1
    except UserError as error:
        channel.send("refused", why=str(error))
        return 1
    except Exception as error:
        from everstep.evaluation.pictures.draw import is_out_of_memory

        traceback.print_exc()
        is_out = is_out_of_memory(error)
        said = f"{type(error).__name__}: {next(iter(str(error).strip().splitlines()), '')}".removesuffix(": ")
        channel.send("failed", why="memory ran out" if is_out else said, error=said, is_out_of_memory=is_out)
        return 1


def _ready(opened: Opened, run: Run, channel: Channel) -> Ready:
    config, base = _harmless(opened.inputs.config), opened.inputs.base
    version = opened.version
    parent = None if version is None else ParentRef(run.name, version.number, version.manifest_digest)
    channel.send("begin", what="Reading the base", unit="", is_bytes=True)
    digest = base_digest_of(base, version, lambda done, total: channel.send("count", done=done, total=total))
    channel.send("end")
    return Ready(run, config, base, digest, opened.inputs.source, version, parent)


def _say_into(path: Path) -> None:
    """What libraries say, and traces, are of a training that is none."""
    sys.stdout = sys.stderr = path.open("w")  # to the end of this process
    for descriptor in (1, 2):
        os.dup2(sys.stderr.fileno(), descriptor)


def _end_with(parent: int) -> None:
    """Whatever ends the plan ends this process; and where memory is out, the system takes it first."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(DIE_WITH_PARENT, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text(FIRST_TO_GO)
