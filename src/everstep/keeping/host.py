"""A keeper for programs that are not its own: told by them which run to keep, it finds what they go on from.

Started beside a program that runs already, as `python -m everstep.keeping.host FD`, or as the parent of a command, by
`everstep keep -- COMMAND`. Never imports torch.
"""

import contextlib
import os
import select
import signal
import socket
import struct
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from everstep.contracts import ParentRef, Report
from everstep.errors import EverstepError, ExitCode
from everstep.keeping.attending import send
from everstep.keeping.channel import Channel, Gone, Message
from everstep.keeping.child import Child
from everstep.keeping.ending import recover_memory
from everstep.keeping.keeper import Keeper, Keeping, Origin
from everstep.keeping.settings import Settings
from everstep.versions import Run, Version
from everstep.versions.lock import Held
from everstep.versions.readme import About

ADDRESS = "EVERSTEP_KEEPER"  # where a command finds its keeper: an abstract socket of this machine
CREDENTIALS = struct.Struct("3i")  # pid, uid, gid


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


def keeper_of(opened: Opened, settings: Settings, report: Report) -> Keeper:
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
    return Keeper(keeping, Origin(opened.version, parent))


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
        keeper = keeper_of(opened, replace(settings, restarts=0), report)
        welcome(channel, opened, opened.version)
        return keeper.run_once(child, channel)


# --- as the parent of a command ------------------------------------------------------------------------------


class Command:
    """Starts a command again and again, and waits for it to ask to be kept."""

    def __init__(self, words: Sequence[str], report: Report) -> None:
        self._words, self._report = words, report
        self._address = f"everstep-{os.getpid()}-{os.urandom(8).hex()}"
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._listener.bind(f"\0{self._address}")
        self._listener.listen()
        self.opened: Opened | None = None

    def run(self, settings: Settings) -> int:
        """Returns the exit code of the program."""
        with ExitStack() as held:
            child, channel, hello = self.start()
            if hello is None:
                code = child.end() or 0
                self._report(f"{self._words[0]} ended without asking to be kept: it has to call everstep.keep().")
                return code if code >= 0 else int(ExitCode.STOPPED)
            settings = replace(Settings(**hello["settings"]), restarts=settings.restarts)
            try:
                self.opened = open_run(hello, settings, held, self._report)
            except EverstepError as error:
                send(channel, "no", why=str(error), exit_code=int(error.exit_code))
                child.end()
                return int(error.exit_code)
            keeper = keeper_of(self.opened, settings, self._report)
            welcome(channel, self.opened, self.opened.version)
            return keeper.run(self._again, (child, channel))

    def _again(self, origin: Origin) -> tuple[Child, Channel]:
        child, channel, hello = self.start()
        assert self.opened is not None
        if hello is not None:
            welcome(channel, self.opened, origin.version)
        return child, channel

    def start(self) -> tuple[Child, Channel, Message | None]:
        """Begin the command; returns once it has asked to be kept, or has ended without (then no message)."""
        surroundings = {**os.environ, ADDRESS: self._address}
        # Its own group: Ctrl-C is for the keeper, which passes it on in words.
        process = subprocess.Popen(self._words, env=surroundings, process_group=0)
        process.returncode = 0  # reaped by its handle, not by Popen
        child = Child.of(process.pid, hears_signals=False)
        while not child.has_ended:
            for channel, hello in self._asked(child):
                return child, channel, hello
        return child, Channel.pair()[0], None

    def _asked(self, child: Child) -> Iterator[tuple[Channel, Message]]:
        waiting: list[Any] = [self._listener, child.handle]
        if self._listener not in select.select(waiting, [], [])[0]:
            return
        end, _ = self._listener.accept()
        _, uid, _ = CREDENTIALS.unpack(end.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, CREDENTIALS.size))
        if uid != os.getuid():
            end.close()
            return
        channel = Channel(end, waits=False)
        with contextlib.suppress(Gone):
            yield channel, channel.receive()


def connect() -> tuple[socket.socket, "subprocess.Popen[bytes] | None"]:
    """The program's side: to the keeper that started it, or to one that is started beside it now."""
    address = os.environ.get(ADDRESS)
    if address is not None:
        end = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        end.connect(f"\0{address}")
        return end, None
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    words = [sys.executable, "-m", "everstep.keeping.host", str(theirs.fileno())]
    # A session of its own: what a terminal sends to the program does not reach its keeper.
    keeper = subprocess.Popen(
        words, pass_fds=[theirs.fileno()], stdin=subprocess.DEVNULL, start_new_session=True, cwd="/"
    )
    theirs.close()
    return ours, keeper


def main() -> int:
    """python -m everstep.keeping.host FD"""
    for number in (signal.SIGINT, signal.SIGQUIT):
        signal.signal(number, signal.SIG_IGN)

    def report(text: str) -> None:
        with contextlib.suppress(OSError, ValueError):
            print(text, file=sys.stderr, flush=True)

    return beside(int(sys.argv[1]), report)


def settings_as_told(settings: Settings) -> dict[str, Any]:
    """As a message carries them."""
    return {name: getattr(settings, name) for name in Settings.__dataclass_fields__}


if __name__ == "__main__":
    sys.exit(main())
