"""A machine that is not the first: starts its ranks when the first one calls, and ends as the training ends.

Writes nothing into the run but its answers; what its ranks hold is in the first one's memory too.
"""

import select
import signal
from contextlib import suppress
from pathlib import Path
from typing import Any

from everstep.config import read_hparams
from everstep.errors import EverstepError, ExitCode, UserError
from everstep.keeping.channel import Channel
from everstep.keeping.child import fork
from everstep.keeping.group import Group, adopt_orphans
from everstep.keeping.signals import Listening
from everstep.launch.inputs import inputs_within, new_inputs
from everstep.launch.meeting import FOLDER, Listener, Meeting
from everstep.launch.ranks import start_ranks
from everstep.train.progress import Reporter
from everstep.train.ready import Ready
from everstep.versions import Run, write_request

POLL_S = 1.0


def assist(folder: Path, launch: str, node: int, started: int) -> int:
    """Train along until the training has ended. Returns its exit code. Raises: EverstepError.

    Args:
        folder: of the run, on a disk that all machines share.
        launch: its name.
        started: processes of this machine, each a rank; one where the run's settings say how many ranks there are.
    """
    reporter, signals = Reporter(), Listening()
    listener = Listener(folder, launch, node, lambda: signals.stop is not None)
    adopt_orphans()
    reporter.say(f"Machine {node}: waiting for the first one to call.")
    while True:
        call = listener.await_call()
        if isinstance(call, int):
            return call
        try:
            ready = _ready(folder, started, call, reporter)
        except EverstepError as error:
            listener.refuse(str(error))
            raise
        ranks = ready.config.compute.ranks
        assert ranks != "auto", "the first one has refused it"
        meeting = listener.answer(ranks)
        if meeting is not None and _train(ready, meeting, reporter, signals) == ExitCode.WRONG_INPUT:
            return int(ExitCode.WRONG_INPUT)


def _ready(folder: Path, started: int, call: dict[str, object], reporter: Reporter) -> Ready:
    """By the run's settings; what they name here has to be the first one's base and pairs. Raises: UserError."""
    run = Run.open(folder)
    config = read_hparams(run.layout.hparams)
    if started > 1:
        config = config.model_copy(update={"compute": config.compute.model_copy(update={"ranks": started})})
    version = None if call["version"] is None else run.version(int(str(call["version"])))
    inputs = (
        new_inputs(config, reporter.say, reporter.during)
        if version is None
        else inputs_within(run, config, config, reporter.say, reporter.during)
    )
    found = {"base": inputs.base_digest(version), "data": inputs.source.fingerprint()}
    for what, digest in found.items():
        if digest != call[what]:
            raise UserError(f"the {what} here is not the first machine's: its content is another.")
    return Ready(run, inputs.config, inputs.base, found["base"], inputs.source, version, None)


def _train(ready: Ready, meeting: Meeting, reporter: Reporter, signals: Listening) -> int | None:
    """Until the ranks of this machine have ended, however. Returns their exit code."""
    ours, theirs = Channel.pair()
    stacks = ready.run.layout.records / FOLDER / f"stacks-{meeting.node}.txt"
    group = fork(lambda channel: start_ranks(ready, reporter, None, meeting), ours, theirs, stacks, Group)
    has_asked = False
    while not group.has_ended:
        waiting: list[Any] = [group.handle, signals]
        select.select(waiting, [], [], POLL_S)
        signals.drain()
        if signals.is_asked_again:
            group.signal(signal.SIGKILL)
        elif signals.stop is not None and not has_asked:
            has_asked = True  # this machine is taken away, perhaps: the first one commits, and all end
            with suppress(OSError):
                write_request(ready.run.layout, "stop")
    code = group.end()
    if code not in (None, ExitCode.DONE, ExitCode.STOPPED):
        reporter.say(f"The ranks of this machine have ended ({code}); the first one decides what follows.")
    return code
