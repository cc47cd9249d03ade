"""One training put together: base, ControlNet, state, data and store, then the loop, then how it ended.

Everything that can be wrong in the input was found before this; here weights are loaded.
"""

import gc
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from everstep.arrival.cache import receipt_of_start, start_folder
from everstep.arrival.receipt import lines
from everstep.config.load import dump
from everstep.config.schema import Config, Optim
from everstep.contracts import ParentRef, Reason
from everstep.data import BatchStream, Framer, PatientSource, Split
from everstep.data.sequence import Order
from everstep.errors import DamageFound, DataUnreadable, ExitCode, NotCommitted, NotFinite, UserError
from everstep.evaluation.scorer import example_settings
from everstep.keeping.channel import Channel
from everstep.keeping.claims import Making
from everstep.keeping.link import KeeperGone, Link, Unkept
from everstep.keeping.others import Others
from everstep.keeping.saver import Saver
from everstep.keeping.team import Order as Ordered
from everstep.keeping.team import Team
from everstep.models.family import Family
from everstep.models.files import HPARAMS, WEIGHTS
from everstep.models.optimizers import ADAMW
from everstep.train.advice import advice
from everstep.train.boards import open_boards
from everstep.train.caching import Cache, framer_of
from everstep.train.captions import say_cut
from everstep.train.economy import economy, keeping_settings
from everstep.train.ema import Ema
from everstep.train.facts import version_facts
from everstep.train.gradients import gradients_of
from everstep.train.judging import Judge, scorer_of
from everstep.train.loop import Loop
from everstep.train.metrics import Metrics
from everstep.train.moments import as_taken, take_moments
from everstep.train.optim import make_optimizer
from everstep.train.progress import Reporter
from everstep.train.ready import Ready, order_of, pairs_of
from everstep.train.receipt import receipt
from everstep.train.retiring import following, mirrors_of
from everstep.train.sharding import family_of, refuse_unshared, share_out
from everstep.train.state import TrainState, seed_process
from everstep.train.stop import StopSignals
from everstep.train.together import Prepared, SharedOrder, TeamRounds
from everstep.train.wanted import until_asked
from everstep.units import duration, size
from everstep.versions import Run, Version, read_requests, split_spec
from everstep.versions.reading import reading
from everstep.versions.torch import load_weights, part_of


def train(ready: Ready, reporter: Reporter, channel: Channel | None = None, others: Others | None = None) -> ExitCode:
    """Build the training and run it to its end. Returns how the command shall end; says it in words too.

    Args:
        others: the ranks that follow this one.
    """
    link = None if channel is None else Link(channel)
    gc.freeze()  # what libraries made at import stays to the end: a collection that goes through it takes half a second
    with StopSignals(reporter.say, is_kept=link is not None) as signals, ExitStack() as closing:
        closing.callback(reporter.close)
        reporter.say(_opening(ready))
        try:
            loop = build(ready, reporter, signals, closing, link, others)
        except KeeperGone:
            reporter.say(f"The keeper was gone before the training began. Go on: everstep resume {ready.run.word}")
            if others is not None:
                raise Unkept("The other ranks end with this one.") from None
            return ExitCode.STOPPED
        code = _ended(ready, loop, reporter)
        if others is not None:  # not where it failed: then the others may wait for something else
            others.team.order(Ordered.END)
        return code


def build(
    ready: Ready,
    reporter: Reporter,
    signals: StopSignals,
    closing: ExitStack,
    link: Link | None = None,
    others: Others | None = None,
    begins: bool = True,
) -> Loop:
    """Load the base, make or restore the state, commit version_0 if there is none; `closing` ends what was opened.

    Without a link to a keeper, versions are written while training waits.

    Args:
        begins: whether version_0 is committed; `everstep plan` only measures.

    Raises: DamageFound if the version to go on from is not what was committed; the keeper is told which.
    """
    team = None if others is None else others.team
    family = _family(ready, team, reporter)
    source = PatientSource(ready.source, reporter.say, lambda: signals.received is not None or _is_asked_to_stop(ready))

    def is_stopped() -> bool:
        if link is not None:
            link.listen()
        return signals.received is not None

    is_wanted = until_asked(ready.config, lambda: signals.received is not None)
    pairs = pairs_of(ready.config, ready.source, ready.version)
    order = order_of(ready.config, ready.source, ready.base, pairs)
    framer, cache = framer_of(ready.config, family, source, order, pairs, reporter.say, reporter.during, is_stopped)
    if cache is not None:
        closing.callback(cache.framer.close)
    if team is not None:
        team.told(None)  # the cache is full
    with reporter.during("Building the ControlNet"):
        state, origin = state_of(ready, family)
        if ready.version is None:
            _refuse_sick_start(ready, state)
    facts = version_facts(ready, family, state.controlnet, pairs, origin, cache)
    making = _making(ready, facts, reporter, team)
    saver = Saver(making, state, ready.version, ready.parent or origin, link, others=others)
    gradients = gradients_of(ready.config.optim, family, state.controlnet, team)
    _lay_out(saver, gradients.is_whole, reporter, closing)
    if team is not None:
        team.order(Ordered.RESTORE)
    _restore(ready, state, family, origin, saver, cache, reporter)
    metrics = _metrics(ready, state, reporter, closing)
    mine = order if team is None else SharedOrder(order, team.rank, team.size)
    batches = batches_of(ready, framer, mine, source.is_stopped, family, state, pairs)
    closing.callback(batches.close)
    closing.callback(source.close)  # before the batches', whose threads may wait for it
    rounds = None if team is None else TeamRounds(team, state.controlnet, gradients.is_whole, is_wanted)
    scorer = scorer_of(ready, family, framer, pairs, batches.settings, reporter, is_wanted, rounds)
    judge = Judge(ready.run, scorer, reporter, state, metrics, is_wanted)
    saver.making, saver.observers = replace(making, check=metrics.flush), (judge,)
    prepared = Prepared(batches, ready.config.optim.accumulation_steps)
    if begins and ready.version is None:
        with reporter.during("Writing version_0"):
            saver.save(Reason.START)
    return Loop(ready.config, family, state, prepared, gradients, saver, judge, metrics, reporter, signals, team)


def _family(ready: Ready, team: Team | None, reporter: Reporter) -> Family:
    """The base in memory; says what of the captions it does not hear."""
    with reporter.during("Loading the base"):
        family = family_of(ready, team)
    with reporter.during("Counting captions that are cut"):
        if said := say_cut(family.tokenizer, ready.source.captioned, ready.config.data.path, ready.base.name):
            reporter.say(said)
    return family


def _lay_out(saver: Saver, is_whole: bool, reporter: Reporter, closing: ExitStack) -> None:
    """Memory for copies. Raises: UserError where ranks can do without none."""
    if saver.link is not None:
        with reporter.during("Laying out memory for snapshots"):
            saver.open_memory()
        closing.callback(saver.close)
    if saver.snapshots is None and not is_whole:
        raise UserError(
            "compute.parallel is fsdp, so no rank holds the state whole, and there is no memory in which to put it "
            "together. Nothing was trained; keeper.ram_dir names a folder in memory with room for it."
        )


def _metrics(ready: Ready, state: TrainState, reporter: Reporter, closing: ExitStack) -> Metrics:
    boards = open_boards(ready.run.path, ready.config, reporter.say)
    scales_losses = state.scaler.is_enabled()
    metrics = Metrics(ready.run.layout.records, state.step, reporter.say, scales_losses, boards)
    closing.callback(metrics.close)
    return metrics


def _making(ready: Ready, facts: dict[str, Any], reporter: Reporter, team: Team | None) -> Making:
    machines = 1 if team is None else team.machines
    config, in_use = ready.config, None if ready.version is None else ready.version.number
    return Making(
        run=ready.run,
        facts=facts,
        small_files={HPARAMS: dump(config).encode()},
        settings=keeping_settings(config, machines),
        report=reporter.say,
        every_steps=config.versions.every.steps,
        every_s=config.versions.every.seconds,
        economy=economy(config, machines),
        max_steps=config.optim.max_steps,
        retire=following(config, in_use, mirrors_of(config)),
        may_wait=reporter.console.is_terminal or config.keeper.unattended_minutes is not None,
    )


def _opening(ready: Ready) -> str:
    optim = ready.config.optim
    notes = "".join(f"{note}\n" for note in ready.base.notes)
    return (
        f"{notes}{ready.run.name}: ControlNet on {ready.base.name}, {ready.source.description}\n"
        f"{optim.max_steps:,} steps of {optim.images_per_step} images at {ready.config.data.resolution} px; "
        f"{_cadence(ready.config)} in {ready.run.path}"
    )


def _cadence(config: Config) -> str:
    every = config.versions.every
    return "versions as often as costs least" if every.is_auto else f"versions every {every}"


def state_of(ready: Ready, family: Family) -> tuple[TrainState, ParentRef | None]:
    """The state before the first step, and the version whose weights it begins with, if any."""
    optim, compute = ready.config.optim, family.arithmetic
    controlnet, origin = _controlnet(family, optim, ready)
    if compute.is_shared_out:
        refuse_unshared(controlnet, optim.optimizer, compute.precision)
        for network in (*family.large, controlnet):
            share_out(network)
    state = TrainState(
        controlnet=controlnet,
        optimizer=make_optimizer(controlnet, optim),
        scaler=torch.amp.GradScaler(compute.device.type, enabled=compute.needs_loss_scaling),
        ema=Ema(controlnet, optim.ema_decay) if optim.ema_decay else None,
        kind=optim.optimizer,
    )
    if ready.version is None and origin is None and optim.start_from is not None and optim.optimizer == ADAMW:
        take_moments(state.optimizer, controlnet, start_folder(optim.start_from, ready.base))
    seed_process(optim.seed)
    return state, origin


def _refuse_sick_start(ready: Ready, state: TrainState) -> None:
    """Raises: UserError naming the weights to begin with that are no numbers: nothing could be learned from there."""
    weights = state.tensors()[WEIGHTS]
    sick = [name for name, tensor in weights.items() if not bool(torch.isfinite(part_of(tensor).tensor).all())]
    if sick:
        raise UserError(
            f"{ready.config.optim.start_from or ready.base.name} cannot be begun with: {len(sick)} of {len(weights)} "
            f"tensors hold what is no finite number (first: {sick[0]}). Nothing was trained.\n"
            "It was damaged, or came out of a training that diverged; another copy is needed."
        )


def _restore(
    ready: Ready,
    state: TrainState,
    family: Family,
    origin: ParentRef | None,
    saver: Saver,
    cache: Cache | None,
    reporter: Reporter,
) -> None:
    """Put back what the version to go on from holds, if there is one, and say what was restored."""
    if ready.version is None:
        if origin is not None:
            reporter.say(f"Weights from {origin.run} version_{origin.version}; optimizer and data start anew.")
        elif (brought := receipt_of_start(ready.config.optim.start_from, ready.base)) is not None:
            reporter.say("\n".join(lines(as_taken(brought, ready.config.optim.optimizer))))
        return
    try:
        with reporter.during(f"Reading {ready.version.name}, {size(ready.version.size_bytes)}"):
            state.restore(ready.version, None if saver.snapshots is None else saver.snapshots.arena)
    except DamageFound:
        if saver.link is not None:
            saver.link.tell("damaged", number=ready.version.number)
        raise
    reporter.say(receipt(ready, state, family.arithmetic, cache))


def _controlnet(family: Family, optim: Optim, ready: Ready) -> tuple[Any, ParentRef | None]:
    start_from, going_on = optim.start_from, ready.version
    if start_from is None:
        return family.new_controlnet(optim.seed, optim.hint_start, optim.control), None
    folder, number = split_spec(start_from)
    if going_on is not None:
        # All weights come from there; the start, which may be gone, is only told of in what is made.
        origin = ParentRef(folder, int(number), "") if number is not None and number.isdecimal() else None
        return family.load_controlnet(str(going_on.path / "controlnet")), origin
    if number is None:
        return family.load_controlnet(str(start_folder(start_from, ready.base))), None
    version = Run.open(Path(folder)).find(number)
    with reading(version.path):
        controlnet = family.load_controlnet(str(version.path / "controlnet"))
        load_weights(controlnet, version, WEIGHTS)
    return controlnet, ParentRef(str(version.path.parent), version.number, version.manifest_digest)


def _is_asked_to_stop(ready: Ready) -> bool:
    return any(request.kind == "stop" for request in read_requests(ready.run.layout))


def batches_of(
    ready: Ready,
    framer: Framer,
    order: Order,
    is_stopped: Callable[[], bool],
    family: Family,
    state: TrainState,
    pairs: Split,
) -> BatchStream:
    """Batches from the example on that the state has come to."""
    return BatchStream(
        framer,
        pairs.training,
        first_example=state.images_seen,
        batch_size=ready.config.optim.batch_size,
        settings=example_settings(ready.config, family),
        workers=ready.config.data.workers,
        is_stopped=is_stopped,
        order=order,
    )


def _ended(ready: Ready, loop: Loop, reporter: Reporter) -> ExitCode:
    """Run the loop and say in words how it ended and what to do next."""
    began, name = time.monotonic(), ready.run.word
    try:
        reason = loop.run()
    except NotFinite as error:
        next_ = advice(error, ready.config, loop.family.arithmetic, name)
        reporter.say(f"{error} Nothing of it was saved. {next_}")
        return ExitCode.NOT_FINITE
    except NotCommitted as error:
        reporter.say(f"{error}\nOnce the disk takes it: everstep resume {name}")
        return error.exit_code
    except DataUnreadable as error:
        reporter.say(f"{error} {_last(loop.saver.last)}\nGo on: everstep resume {name}")
        return error.exit_code
    took = duration(time.monotonic() - began)
    if reason is Reason.EARLY:
        reporter.say(
            f"Ended early at step {loop.state.step:,}, {took}: the benefit has not risen for "
            f"{ready.config.scoring.patience} versions. Best: {name}@best. {_last(loop.saver.last)}\n"
            f"Go on all the same: everstep resume {name} --set scoring.patience=null"
        )
        return ExitCode.DONE
    if reason is Reason.FINAL:
        reporter.say(f"Complete after {loop.state.step:,} steps, {took}: {_last(loop.saver.last)}")
        return ExitCode.DONE
    reporter.say(f"Stopped at step {loop.state.step:,}. {_last(loop.saver.last)}\nGo on: everstep resume {name}")
    return ExitCode.STOPPED


def _last(version: Version | None) -> str:
    return (
        "no version was made yet." if version is None else f"{version.name} (step {version.step:,}) is {version.path}"
    )
