"""A machine that is not the first: starts its ranks when the first one calls, and ends as the training ends.

Its memory holds what the first one's does; into the run it writes its answers, and the parts of versions that the first
one asks it for. Where it does not see the run's folder, it has what it needs of it from a mirror (`away.py`).
"""

import select
import signal
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from everstep.config.load import read_hparams
from everstep.errors import EverstepError, ExitCode, UserError
from everstep.keeping.channel import Channel
from everstep.keeping.child import fork
from everstep.keeping.deputy import Deputy
from everstep.keeping.flag import Flag
from everstep.keeping.group import Group, adopt_orphans
from everstep.keeping.signals import Listening
from everstep.launch.answering import SILENT_S, Held, Listener
from everstep.launch.away import Away, away, patience_s
from everstep.launch.inputs import inputs_within, new_inputs
from everstep.launch.meeting import Meeting, Stopped
from everstep.launch.ranks import start_ranks
from everstep.launch.relay import Relay
from everstep.train.progress import Reporter
from everstep.train.ready import Ready
from everstep.versions import Run

HEARD_S = 10.0


def assist(
    folder: Path, launch: str, node: int, started: int, target: str | None = None, is_repeated: bool = False
) -> int:
    """Train along until the training has ended. Returns its exit code. Raises: EverstepError.

    Args:
        folder: of the run, where all machines share it.
        launch: its name.
        started: processes of this machine, each a rank; one where the run's settings say how many ranks there are.
        target: the mirror in which machines meet that do not.
        is_repeated: a launch before may have had the same name.
    """
    reporter, signals = Reporter(), Listening()
    with ExitStack() as closing:
        relay = None if target is None else Relay(target, folder.name, reporter.say)
        if relay is not None:
            closing.callback(relay.close, HEARD_S)  # what this one said last has to arrive
        listener = Listener(folder, launch, node, lambda: signals.stop is not None, relay, is_repeated)
        adopt_orphans()
        reporter.say(f"Machine {node}: waiting for the first one to call.")
        return _assisted(folder, started, listener, relay, reporter, signals, closing)


def _assisted(
    folder: Path,
    started: int,
    listener: Listener,
    relay: Relay | None,
    reporter: Reporter,
    signals: Listening,
    closing: ExitStack,
) -> int:
    copy: Away | None = None
    deputy: Deputy | None = None
    while True:
        call = listener.await_call()
        if isinstance(call, int):
            if deputy is not None:
                deputy.has_first_ended = True
            return call
        try:
            if copy is None and relay is not None and not listener.shares:
                copy = closing.enter_context(away(folder, listener, relay, reporter))
            run = Run.open(folder) if copy is None else copy.run_of(call)
            ready = None if run is None else _ready(run, started, call, reporter)
        except Stopped:
            raise
        except (EverstepError, OSError) as error:
            listener.refuse(str(error))
            raise
        if ready is None:
            continue
        if deputy is None:
            node = listener.node if listener.shares else None
            deputy = Deputy(ready.run, node, ready.config.keeper.ram_dir, reporter.say)
            closing.callback(deputy.let_go)
            if not listener.shares:
                deputy.drop_copies(str(call["identity"]), int(call["step"]))
        ranks = ready.config.compute.ranks
        assert ranks != "auto", "the first one has refused it"
        meeting = listener.answer(ranks, SILENT_S + patience_s(call, ready.config), _held(deputy))
        if meeting is not None and _train(ready, meeting, deputy, reporter, signals) == ExitCode.WRONG_INPUT:
            return int(ExitCode.WRONG_INPUT)


def _held(deputy: Deputy) -> Held | None:
    """What an earlier launch has left in this machine's memory, where the run's folder is here to rescue it into."""
    step = deputy.left()
    return None if step is None else Held(step, deputy.rescue)


def _ready(run: Run, started: int, call: dict[str, object], reporter: Reporter) -> Ready:
    """By the run's settings; what they name here has to be the first one's base and pairs. Raises: UserError."""
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


def _train(ready: Ready, meeting: Meeting, deputy: Deputy, reporter: Reporter, signals: Listening) -> int | None:
    """Until the ranks of this machine have ended, however. Returns their exit code."""
    asked = Flag()
    ours, theirs = Channel.pair()
    written = ready.run.layout.nodes / f"stacks-{meeting.node}.txt"
    group = fork(lambda channel: start_ranks(ready, reporter, channel, meeting, asked), ours, theirs, written, Group)
    is_heard = True
    while not group.has_ended:
        waiting: list[Any] = [group.handle, signals, *([ours] if is_heard else [])]
        select.select(waiting, [], [], deputy.period_s)
        is_heard = is_heard and deputy.hear(ours)
        deputy.look()
        signals.drain()
        if signals.is_asked_again:
            group.signal(signal.SIGKILL)
        elif signals.stop is not None:
            asked.up()  # this machine is taken away, perhaps: its ranks let the first one know, and all end
    code = group.end()
    if is_heard:
        deputy.hear(ours)
    deputy.ranks_ended()
    ours.close()
    if code not in (None, ExitCode.DONE, ExitCode.STOPPED):
        reporter.say(f"The ranks of this machine have ended ({code}); the first one decides what follows.")
    return code
