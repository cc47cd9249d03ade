"""A keeper for programs that are not its own: told by them which run to keep, it finds what they go on from.

Started beside a program that runs already, as `python -m everstep.keeping.host FD`, or as the parent of a command, by
`everstep keep -- COMMAND`. Never imports torch.
"""

import contextlib
import os
import select
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from everstep.contracts import ParentRef, Report
from everstep.errors import EverstepError, ExitCode, UserError
from everstep.keeping.attending import send
from everstep.keeping.channel import CREDENTIALS, Channel, Gone, Message
from everstep.keeping.child import Child
from everstep.keeping.ending import recover_memory
from everstep.keeping.keeper import Keeper
from everstep.keeping.origin import Keeping, Origin
from everstep.keeping.restart import End
from everstep.keeping.settings import Settings
from everstep.keeping.signals import Listening, outlast_warnings
from everstep.priority import lower_session
from everstep.versions import Run, Version
from everstep.versions.lock import Held
from everstep.versions.readme import About

# Where a command finds its keeper, an abstract socket of this machine. No name that could be a setting's: those are
# read from the surroundings, too, by any other Everstep that the command starts.
ADDRESS = "EVERSTEP_KEPT_BY"


@dataclass(frozen=True, slots=True)
class Opened:
    """A run that is held for writing, and what its training goes on from."""

    run: Run
    held: Held
    version: Version | None


def open_run(hello: Message, settings: Settings, held: ExitStack, report: Report) -> Opened:
    """Make the run or find it, hold it, mend it, and settle what lies in memory. Raises: EverstepError."""
    folder = Path(hello["run"])
    run = Run.open(folder) if Run.exists(folder) else Run.create(folder, hello["hparams"], About(hello["about"]))
    lock = held.enter_context(run.lock(hello["command"], report))
    for sentence in run.recover():
        report(sentence)
    recover_memory(run, settings.ram_dir, report)
    return Opened(run, lock, run.newest_resumable(report))


def welcome(channel: Channel, opened: Opened, version: Version | None) -> None:
    """Tell the program what to go on from, and let it hold the run too, for as long as it lives."""
    number = None if version is None else version.number
    send(channel, "origin", opened.held.descriptor, number=number)


def keeper_of(opened: Opened, settings: Settings, report: Report, signals: Listening | None = None) -> Keeper:
    """That keeps what goes on from there."""
    parent = None
    if opened.version is not None:
        parent = ParentRef(opened.run.name, opened.version.number, opened.version.manifest_digest)
    keeping = Keeping(
        run=opened.run,
        settings=settings,
        report=report,
        retire=lambda run, in_use: "",
        tell_trainer=opened.held.tell_trainer,
        go_on="start the program again",
    )
    return Keeper(keeping, Origin(opened.version, parent), signals)


# --- beside a program that runs already ----------------------------------------------------------------------


def beside(descriptor: int, report: Report) -> int:
    """Keep the program at the other end of a socket until it ends, or lets go. Returns the exit code."""
    channel = Channel(socket.socket(fileno=descriptor), waits=False)
    with ExitStack() as held:
        try:
            hello = channel.receive()
            child = Child.of(int(hello["pid"]), is_ours=False)
            settings = Settings(**hello["settings"])
            opened = open_run(hello, settings, held, report)
        except (Gone, ProcessLookupError):
            return int(ExitCode.STOPPED)
        except EverstepError as error:
            send(channel, "no", why=str(error), exit_code=int(error.exit_code))
            return int(error.exit_code)
        # Workers that the program forked share the lock, and may outlive it; none of them writes.
        held.callback(opened.held.let_go)
        keeper = keeper_of(opened, replace(settings, restarts=0), report)
        welcome(channel, opened, opened.version)
        return keeper.run_once(child, channel)


# --- as the parent of a command ------------------------------------------------------------------------------


class Command:
    """Starts a command again and again, and waits for it, or for what it starts, to ask to be kept."""

    def __init__(self, words: Sequence[str], report: Report) -> None:
        self._words, self._report = words, report
        self._signals = Listening()
        self._opened: Opened | None = None
        self._child: Child | None = None  # the command, while it lives
        self._address = ""  # where it finds its keeper
        self._listener: socket.socket | None = None  # open while nobody is kept
        self._asking: Asking | None = None  # a trainer that waits for its answer
        self._asked_to_stop, self._run = 0, ""

    def run(self, settings: Settings) -> int:
        """Returns the exit code of the program. Raises: UserError if the command cannot be started."""
        left = settings.restarts
        while (asking := self._start()) is None:
            code = self._end() or 0
            if code < 0 and left > 0 and not self._signals.asked:  # killed, while it loaded its libraries say
                left -= 1
                self._report(f"{self._words[0]} was killed before it asked to be kept, and is started again.")
                continue
            self._report(f"{self._words[0]} ended without asking to be kept: it has to call everstep.keep().")
            return code if code >= 0 else int(ExitCode.STOPPED)
        with ExitStack() as held:
            settings = replace(Settings(**asking.hello["settings"]), restarts=left)
            try:
                self._opened = opened = open_run(asking.hello, settings, held, self._report)
                self._run = asking.hello["run"]
            except EverstepError as error:
                send(asking.channel, "no", why=str(error), exit_code=int(error.exit_code))
                self._end()
                return int(error.exit_code)
            held.callback(opened.held.let_go)
            keeper = keeper_of(opened, settings, self._report, self._signals)
            self._asking = asking
            return keeper.run(self._again, self._outlasts)

    def _start(self) -> "Asking | None":
        """Begin the command; returns who has asked to be kept, or None if it has ended without."""
        self._address = f"everstep-{os.getpid()}-{os.urandom(8).hex()}"
        self._listen()
        surroundings = {**os.environ, ADDRESS: self._address}
        try:
            # Its own group: Ctrl-C is for the keeper, which passes it on in words.
            process = subprocess.Popen(self._words, env=surroundings, process_group=0)
        except OSError as error:
            raise UserError(f"{self._words[0]} cannot be started: {error.strerror}. Nothing was started.") from None
        process.returncode = 0  # reaped by its handle, not by Popen
        self._child, self._asked_to_stop = Child.of(process.pid, hears_signals=False), 0
        return self._hear()

    def _listen(self) -> None:
        if self._listener is None:
            self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            self._listener.bind(f"\0{self._address}")
            self._listener.listen()

    def _close(self) -> None:
        """Whoever asks later, another loop of this program say, finds nobody here: it starts a keeper of its own."""
        if self._listener is not None:
            self._listener.close()
            self._listener = None

    def _hear(self) -> "Asking | None":
        """Wait until somebody asks to be kept, or until the command has ended."""
        assert self._child is not None
        assert self._listener is not None
        found = None
        while found is None and not self._child.has_ended:
            waiting: list[Any] = [self._listener, self._child.handle, self._signals]
            ready = select.select(waiting, [], [])[0]
            self._pass_on(self._child)
            found = _hello(self._listener) if self._listener in ready else None
        self._close()
        return found

    def _pass_on(self, child: Child) -> None:
        """A command of which nothing is kept now is asked to end, and if it does not, ended."""
        self._signals.drain()
        asked = self._signals.asked
        if asked > self._asked_to_stop:
            child.signal(signal.SIGKILL if self._signals.is_asked_again else signal.SIGTERM)
        self._asked_to_stop = asked

    def _end(self) -> int | None:
        """Wait for the command's end; returns its exit code."""
        child, self._child = self._child, None
        return None if child is None else child.end()

    def _trainer(self, asking: "Asking") -> Child:
        """The command itself, or, where that starts others as torchrun does, whoever asked."""
        assert self._child is not None
        if asking.pid == self._child.pid:
            os.close(asking.handle)
            return self._child
        return Launched(asking.pid, asking.handle, hears_signals=False, launcher=self._child, at_end=self._listen)

    def _outlasts(self, end: End, is_safe: bool) -> End | None:
        """After a trainer's end the command may go on, and start the next: then there is no end (None) yet.

        Args:
            is_safe: whether memory is free for a next one.
        """
        if self._listener is None:  # the command was the trainer
            self._child = None
            return end
        self._asked_to_stop = self._signals.asked  # what the trainer was told, and its program does what comes after
        while (asking := self._hear()) is not None:
            if asking.hello["run"] != self._run:
                send(asking.channel, "elsewhere")
            elif not is_safe:
                why = "What memory holds of this run is on no disk yet, so nothing goes on. Nothing was changed."
                send(asking.channel, "no", why=why, exit_code=int(ExitCode.DISK_FULL))
            else:
                self._asking = asking
                return None
            self._listen()
        return End.of(self._end(), end.code, end.step)

    def _again(self, origin: Origin) -> tuple[Child, Channel]:
        asking, self._asking = self._asking or self._start(), None
        if asking is None:
            assert self._child is not None
            return self._child, Channel.pair()[0]
        assert self._opened is not None
        welcome(asking.channel, self._opened, origin.version)
        return self._trainer(asking), asking.channel


@dataclass(frozen=True, slots=True)
class Asking:
    """Who has asked to be kept."""

    pid: int
    handle: int  # as Child has it
    channel: Channel
    hello: Message


@dataclass(frozen=True, slots=True)
class Launched(Child):
    """A trainer that our command has started in its turn; its exit code is told to the command alone."""

    launcher: Child | None = None
    at_end: Callable[[], None] = lambda: None  # before anything is settled: the command may start the next at once

    def signal(self, number: int) -> None:
        """What ends it is for its launcher first, which would start it again."""
        if self.launcher is not None and number in (signal.SIGTERM, signal.SIGKILL):
            self.launcher.signal(number)
        Child.signal(self, number)

    def end(self) -> int | None:
        """As of any; the launcher lives on."""
        code = Child.end(self)
        self.at_end()
        return code


def _hello(listener: socket.socket) -> Asking | None:
    end, _ = listener.accept()
    pid, uid, _ = CREDENTIALS.unpack(end.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, CREDENTIALS.size))
    channel = Channel(end, waits=False)
    try:
        if uid == os.getuid():
            return Asking(pid, os.pidfd_open(pid), channel, channel.receive())
    except (Gone, ProcessLookupError):  # it has ended meanwhile
        pass
    channel.close()
    return None


# --- the program's side --------------------------------------------------------------------------------------


def connect() -> tuple[socket.socket, "subprocess.Popen[bytes] | None"]:
    """The program's side: to the keeper that started it, or to one that is started beside it now."""
    address = os.environ.get(ADDRESS)
    if address is not None:
        end = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            end.connect(f"\0{address}")
            return end, None
        except OSError:  # it keeps another loop, or is gone
            end.close()
    return start_beside()


def start_beside() -> tuple[socket.socket, "subprocess.Popen[bytes]"]:
    """A keeper of its own for this program."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    words = [sys.executable, "-m", "everstep.keeping.host", str(theirs.fileno())]
    with contextlib.closing(theirs):
        # A session of its own: what a terminal sends to the program does not reach its keeper.
        keeper = subprocess.Popen(
            words, pass_fds=[theirs.fileno()], stdin=subprocess.DEVNULL, start_new_session=True, env=_surroundings()
        )
    return ours, keeper


def _surroundings() -> dict[str, str]:
    """In which a new process finds this very package, also where it was only put on the path."""
    root = Path(__file__).parents[2]
    known = os.environ.get("PYTHONPATH")
    if root.name in ("site-packages", "dist-packages"):  # found anyway, and no place before Python's own library
        return dict(os.environ)
    return {**os.environ, "PYTHONPATH": f"{known}{os.pathsep}{root}" if known else str(root)}


def main() -> int:
    """python -m everstep.keeping.host FD"""
    os.chdir("/")  # holds no disk that somebody wants to unmount
    lower_session()  # of its threads, those that only listen are not nicer themselves
    for number in (signal.SIGINT, signal.SIGQUIT):
        signal.signal(number, signal.SIG_IGN)
    outlast_warnings()

    def report(text: str) -> None:
        with contextlib.suppress(OSError, ValueError):
            print(text, file=sys.stderr, flush=True)

    return beside(int(sys.argv[1]), report)


if __name__ == "__main__":
    sys.exit(main())
