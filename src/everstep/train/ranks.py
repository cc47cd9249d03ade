"""Several processes of this machine that train one run: started by PyTorch's own launcher, watched by the keeper.

The first one is the trainer that keeper, records and pictures know; the others follow it (`follower.py`).
"""

import contextlib
import logging
import os
import secrets
import signal
import socket
import sys
import tempfile
import time
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import distributed
from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.launcher.api import LaunchConfig, launch_agent

from everstep.config.schema import Compute
from everstep.errors import EverstepError, ExitCode, UserError
from everstep.keeping import stacks
from everstep.keeping.channel import Channel, uid_of
from everstep.keeping.flag import Flag
from everstep.keeping.followers import Follower, Leader
from everstep.keeping.link import Link
from everstep.keeping.others import Neighbours, Others
from everstep.keeping.signals import STOP
from everstep.keeping.team import RankLost, Team, lost
from everstep.train.follower import follow
from everstep.train.progress import Reporter
from everstep.train.ready import Ready
from everstep.train.session import train
from everstep.train.sharding import device_here
from everstep.train.waiting import Waiting

HERE = "127.0.0.1"
# The launcher ends its ranks at signals, and finds out by itself when one has ended: signals are the keeper's, which
# passes them on in words. So it is given one that nobody sends.
UNSENT = "SIGRTMAX"
LEAVE_S = 10  # what ranks get once another has died, to put into the keeper's memory what they hold
MOMENT_S, MEET_S = 2.0, 60.0
LOST = 75  # how a rank ends that has lost another; the launcher says which one


def ranks_of(compute: Compute) -> int:
    """How many processes train here. Asks the driver alone, since what has begun CUDA cannot be forked."""
    if compute.ranks != "auto":
        return compute.ranks
    return max(1, torch.cuda.device_count()) if compute.device in ("auto", "cuda") else 1


Where = tuple[str, int, int, int, int]  # host and port of the first machine; this one's place, of how many; all ranks


def train_together(
    ready: Ready, reporter: Reporter, channel: Channel, where: Where | None = None, asked: Flag | None = None
) -> int:
    """Launch the ranks of this machine, and wait for their end. Returns the exit code of the training.

    Args:
        channel: to the keeper of this machine.
        where: several machines meet; None for one.
        asked: up once this machine is asked to stop, where it is not the first.

    Raises: UserError.
    """
    here, batch_size = ranks_of(ready.config.compute), ready.config.optim.batch_size
    host, port, node, nodes, ranks = where or (HERE, 0, 0, 1, here)
    if ranks > batch_size:
        raise UserError(
            f"optim.batch_size is {batch_size}, fewer than the {ranks} ranks: each needs an example of every batch. "
            "Nothing was trained."
        )
    heard = [number for number in STOP if signal.getsignal(number) is not signal.SIG_IGN]
    for number in heard:
        signal.signal(number, signal.SIG_IGN)
    for name in ("torch.distributed.elastic", "torch.multiprocessing"):
        logging.getLogger(name).setLevel(logging.CRITICAL)  # what they tell is told below
    if nodes == 1:
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")  # else it asks what this machine's name means in the network
    address = f"\0everstep-{os.getpid()}-{secrets.token_hex(8)}"
    places = [_Place(ready, reporter, channel, address, heard, os.getpid(), asked)]
    with tempfile.TemporaryDirectory(prefix="everstep-ranks-") as folder:
        config = LaunchConfig(
            min_nodes=nodes,
            max_nodes=nodes,
            nproc_per_node=here,
            run_id="everstep",
            rdzv_backend="c10d" if nodes == 1 else "static",
            rdzv_endpoint=f"{host}:{port}",
            rdzv_configs={} if nodes == 1 else {"rank": node, "timeout": MEET_S},
            local_addr=HERE if nodes == 1 else None,
            max_restarts=0,  # the keeper restarts all of them, once what is in memory is settled
            start_method="fork",
            logs_specs=DefaultLogsSpecs(log_dir=folder),
            signals_to_handle=UNSENT,
            shutdown_timeout=LEAVE_S,
        )
        try:
            return int(min(launch_agent(config, _rank, places).items())[1])
        except ChildFailedError as error:
            failed = error.get_first_failure()
    return _ended(*failed, ranks, reporter)  # once the folder has gone: this process may end here as the rank did


def _ended(rank: int, failure: Any, ranks: int, reporter: Reporter) -> int:
    """A rank's end is the training's. One that was killed is told by name: the keeper sees the launcher alone."""
    code = int(failure.exitcode)
    if code >= 0 and code != LOST:
        return code
    if code == LOST:
        reporter.say("Ranks of another machine are gone.")
        code = -signal.SIGKILL
    else:
        reporter.say(f"Rank {rank} of {ranks} was ended by {_name(-code)}.")
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
    os.kill(os.getpid(), -code)
    return int(ExitCode.BUG)  # of a signal that does not end a process


def _name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:  # most real-time signals have none
        return f"signal {number}"


@dataclass(frozen=True, slots=True)
class _Place:
    """What a rank takes with it from its launcher."""

    ready: Ready
    reporter: Reporter
    channel: Channel  # to the keeper of this machine, of its first rank
    address: str  # where the first rank meets the others: an abstract socket of this machine
    heard: Sequence[int]  # signals that nobody ignored before
    launcher: int
    asked: Flag | None


def _rank(place: _Place) -> int:
    """In a process of its own. Returns the exit code of the training; what goes wrong ends the process at once, so that
    the launcher sees it.
    """
    rank, ranks = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    try:
        code = _trained(place, rank, ranks)
        # What is returned is read by the launcher. Where that is gone, nobody would, and this process would wait for
        # ever: the system sends SIGINT when a launcher dies (`torch.multiprocessing` asks it to).
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        if os.getppid() == place.launcher:
            return code
    except RankLost:
        code = LOST
        _await_the_launcher()
    except EverstepError as error:
        code = int(error.exit_code)
        if rank > 0:  # what the first one finds too, it says
            _await_the_launcher()
        print(f"{'' if rank == 0 else f'Rank {rank}: '}{error}", file=sys.stderr)
    except BaseException:
        code = int(ExitCode.BUG)
        print(f"Rank {rank}: {traceback.format_exc()}\nVersions on disk are whole.", file=sys.stderr)
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
    os._exit(code)


def _await_the_launcher() -> None:
    """It ends all once it has found the one that is gone, and tells of that one only if it finds no other before."""
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    time.sleep(MOMENT_S)


def _trained(place: _Place, rank: int, ranks: int) -> int:
    for number in place.heard:
        signal.signal(number, signal.SIG_DFL)
    stacks.listen()
    ready = place.ready
    compute = ready.config.compute
    here, ranks_here = int(os.environ["LOCAL_RANK"]), int(os.environ["LOCAL_WORLD_SIZE"])
    with Waiting(compute.threads, place.reporter.say if rank == 0 else _untold), socket.socket(socket.AF_UNIX) as met:
        if here == 0:
            met.bind(place.address)
            met.listen(ranks_here)
        with lost():
            distributed.init_process_group("nccl" if device_here(compute).startswith("cuda") else "gloo")
        team = Team(rank, ranks)
        if here == 0:
            neighbours = Neighbours(_met(met, ranks_here - 1))
        else:
            place.channel.close()
            met.connect(place.address)
        if rank == 0:
            code = int(train(ready, place.reporter, place.channel, Others(team, neighbours)))
        elif here == 0:
            link = Link(place.channel)
            code = follow(ready, team, lambda state, say: Leader(state, link, neighbours, say), place.asked)
        else:
            code = follow(
                ready, team, lambda state, say: Follower(here, ranks_here, state, Channel(met), say), place.asked
            )
        distributed.destroy_process_group()
    return code


def _met(listener: socket.socket, others: int) -> list[Channel]:
    """A channel to each of the others, which nobody else holds: its end is noticed. Raises: RankLost."""
    listener.settimeout(MEET_S)
    found = list[Channel]()
    try:
        while len(found) < others:
            end, _ = listener.accept()
            if uid_of(end) == os.getuid():  # names of such sockets can be read by anybody
                found.append(Channel(end))
            else:
                end.close()
    except TimeoutError:
        raise RankLost("Another rank does not answer.") from None
    return found


def _untold(text: str) -> None:
    """What all ranks would say, the first one says."""
