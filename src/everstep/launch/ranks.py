"""Before ranks are started: how many threads each gets, and what PyTorch must know before it is loaded."""

import os
from collections.abc import MutableMapping

from everstep.keeping.channel import Channel
from everstep.keeping.flag import Flag
from everstep.launch.meeting import Meeting
from everstep.launch.processors import limit_threads
from everstep.train.progress import Reporter
from everstep.train.ready import Ready

# What torchrun tells its workers, and what the launcher of ranks must not take for its own.
OF_TORCHRUN = (
    *("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "GROUP_RANK", "GROUP_WORLD_SIZE"),
    *("ROLE_RANK", "ROLE_NAME", "ROLE_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"),
)


def forget_launcher(environ: MutableMapping[str, str]) -> None:
    """Nothing of somebody else's launcher is left for the one that starts the ranks."""
    for name in [name for name in environ if name in OF_TORCHRUN or name.startswith("TORCHELASTIC_")]:
        del environ[name]


def start_ranks(
    ready: Ready,
    reporter: Reporter,
    channel: Channel,
    meeting: Meeting | None = None,
    asked: Flag | None = None,
) -> int:
    """Launch the ranks of this machine, and wait for their end. Returns the exit code of the training.

    Args:
        channel: to the keeper of this machine.
        meeting: of several machines.
        asked: up once this machine is asked to stop, where it is not the first.
    """
    compute = ready.config.compute
    forget_launcher(os.environ)
    if said := limit_threads(compute.threads, compute.ranks):
        reporter.say(said)
    reporter.say("Loading PyTorch and the base ...")
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")  # DDP warns of what gradients.py asks of it on purpose
    with reporter.during("Loading PyTorch"):
        from everstep.train.ranks import train_together

    where = None if meeting is None else (meeting.host, meeting.port, meeting.node, meeting.nodes, meeting.ranks)
    return train_together(ready, reporter, channel, where, asked)
