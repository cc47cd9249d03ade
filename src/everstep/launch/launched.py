"""Somebody else's launcher, torchrun or Slurm's srun: one of the processes that it starts keeps, the others stand by.

A run has one keeper on a machine, whoever starts how many processes there: the keeper starts the ranks itself, so that
what is in memory outlives them. The others do nothing, and end as the keeper ends, which is what a launcher waits for.
Never imports torch.
"""

import contextlib
import os
import select
import signal
import socket
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from everstep.errors import EverstepError, ExitCode, UserError
from everstep.keeping.channel import CREDENTIALS
from everstep.launch.assisting import assist
from everstep.launch.calling import Launch
from everstep.launch.relay import Relay
from everstep.mirror.addresses import meeting_place
from everstep.places import absolute
from everstep.versions.lock import aloud

MEET_S, POLL_S, MOMENT_S = 120.0, 0.1, 10.0
TORCHRUN = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "GROUP_RANK", "GROUP_WORLD_SIZE")


@dataclass(frozen=True, slots=True)
class Place:
    """One process's place among those that a launcher has started.

    name: of the launch, on every machine the same. is_repeated: a launch before may have had it.
    """

    name: str
    local_rank: int
    local_size: int
    node: int
    nodes: int
    is_repeated: bool = False


def place_from(environ: Mapping[str, str]) -> Place | None:
    """None where nobody has started several processes. Raises: UserError for what no launcher says."""
    try:
        if "TORCHELASTIC_RUN_ID" in environ:
            _, _, local_rank, local_size, node, nodes = (int(environ[name]) for name in TORCHRUN)
            # A run that torchrun starts again has the same name: its processes are others.
            name = f"{environ['TORCHELASTIC_RUN_ID']}-{environ['MASTER_PORT']}-{environ['TORCHELASTIC_RESTART_COUNT']}"
            return Place(name, local_rank, local_size, node, nodes, is_repeated=True)
        if "SLURM_STEP_NUM_TASKS" in environ and int(environ["SLURM_STEP_NUM_TASKS"]) > 1:
            node, nodes = int(environ["SLURM_NODEID"]), int(environ["SLURM_STEP_NUM_NODES"])
            local_size = _tasks(environ["SLURM_STEP_TASKS_PER_NODE"])[node]
            name = f"{environ['SLURM_JOB_ID']}-{environ['SLURM_STEP_ID']}-{environ.get('SLURM_RESTART_COUNT', '0')}"
            return Place(name, int(environ["SLURM_LOCALID"]), local_size, node, nodes)
    except (KeyError, ValueError, IndexError) as error:
        raise UserError(f"This was started by a launcher that does not say what others do ({error}).") from None
    return None


def _tasks(told: str) -> list[int]:
    """As Slurm writes it: 4(x2),3 are two nodes of four and one of three."""
    found = list[int]()
    for part in told.split(","):
        count, _, times = part.rstrip(")").partition("(x")
        found += [int(count)] * int(times or 1)
    return found


def ranks_asked(environ: Mapping[str, str]) -> int:
    """How many processes a launcher has started on this machine: so many ranks are meant, unless settings say more."""
    place = place_from(environ)
    return 1 if place is None else place.local_size


def stand_by(place: Place) -> int:
    """Until the keeper of this machine has ended. Returns its exit code; what it is asked, it is asked itself."""
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(number, signal.SIG_IGN)
    with _connected(place) as end:
        # Of whoever listens: ranks hold this socket open too, and may outlive their keeper.
        pid = CREDENTIALS.unpack(end.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, CREDENTIALS.size))[0]
        try:
            keeper = os.pidfd_open(pid)
        except ProcessLookupError:
            return int(ExitCode.STOPPED)
        select.select([keeper], [], [])
        os.close(keeper)
        end.setblocking(False)
        with contextlib.suppress(OSError):
            if told := end.recv(1):
                return told[0]
    return int(ExitCode.STOPPED)


def _connected(place: Place) -> socket.socket:
    """Raises: UserError if nobody is there."""
    until, end = time.monotonic() + MEET_S, socket.socket(socket.AF_UNIX)
    while True:
        try:
            end.connect(_address(place))
            return end
        except OSError:
            if time.monotonic() > until:
                end.close()
                raise UserError("The first process of this machine does not answer. Nothing was started.") from None
            time.sleep(POLL_S)


def placed(folder: Path, keep: Callable[[Launch | None], int], targets: Sequence[str] = ()) -> int:
    """Keep what is trained here; or stand by while another process of this machine does; or, on a machine that is not
    the first, train along. Returns the exit code.

    Args:
        folder: of the run.
        keep: is told of the launch where it has several machines.
        targets: mirrors that all machines know of, for those that do not share the folder.

    Raises: whatever keeping raises; UserError for a launch that is not understood.
    """
    place = place_from(os.environ)
    if place is None:
        return keep(None)
    if place.local_rank > 0:
        return stand_by(place)
    target, whole = meeting_place(targets) if place.nodes > 1 else None, absolute(folder)
    launch: Launch | None = None
    if place.node == 0 and place.nodes > 1:
        relay = None if target is None else Relay(target, whole.name, aloud)
        launch = Launch(place.name, place.nodes, relay)
        launch.forget_older(whole)

    def work() -> int:
        if place.node == 0:
            return keep(launch)
        return assist(whole, place.name, place.node, place.local_size, target, place.is_repeated)

    code = int(ExitCode.BUG)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(_address(place))
        listener.listen(place.local_size)
        try:
            code = work()
        except EverstepError as error:
            code = int(error.exit_code)
            raise
        finally:
            if launch is not None:
                launch.tell_end(whole, code)
            _tell(listener, code, place.local_size - 1)
    return code


def _tell(listener: socket.socket, code: int, others: int) -> None:
    """Those that stand by end as this process does; one that has only begun is waited for a moment."""
    until = time.monotonic() + MOMENT_S
    for _ in range(others):
        listener.settimeout(max(0.0, until - time.monotonic()))
        with contextlib.suppress(OSError), listener.accept()[0] as end:
            end.send(bytes([code]))


def _address(place: Place) -> str:
    return f"\0everstep-{os.getuid()}-{place.name}-{place.node}"
