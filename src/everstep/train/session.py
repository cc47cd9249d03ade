"""One training put together: base, ControlNet, state, data and store, then the loop, then how it ended.

Everything that can be wrong in the input was found before this; here weights are loaded.
"""

import json
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch

from everstep.config import dump
from everstep.config.schema import Optim
from everstep.contracts import ParentRef, Reason
from everstep.data import BatchStream, Split
from everstep.errors import ExitCode, NotCommitted, NotFinite
from everstep.evaluation.scorer import Scorer, example_settings
from everstep.keeping.channel import Channel
from everstep.models.arithmetic import arithmetic
from everstep.models.files import WEIGHTS
from everstep.models.sd import StableDiffusion
from everstep.train.boards import Board, TensorBoard, WeightsAndBiases
from everstep.train.ema import Ema
from everstep.train.facts import version_facts
from everstep.train.intent import Ready, pairs_of
from everstep.train.judging import Judge
from everstep.train.loop import Loop
from everstep.train.metrics import Metrics
from everstep.train.optim import make_optimizer
from everstep.train.progress import Reporter
from everstep.train.receipt import receipt
from everstep.train.saving import Saver
from everstep.train.snapshots import open_snapshots
from everstep.train.state import TrainState, seed_process
from everstep.train.stop import StopSignals
from everstep.units import duration
from everstep.versions import Run, Version
from everstep.versions.reading import reading
from everstep.versions.torch import load_weights


def train(ready: Ready, reporter: Reporter, channel: Channel | None = None) -> ExitCode:
    """Build the training and run it to its end. Returns how the command shall end; says it in words too."""
    with StopSignals(reporter.say) as signals, ExitStack() as closing:
        closing.callback(reporter.close)
        reporter.say(_opening(ready))
        loop = build(ready, reporter, signals, closing, channel)
        return _ended(ready, loop, reporter)


def build(
    ready: Ready, reporter: Reporter, signals: StopSignals, closing: ExitStack, channel: Channel | None = None
) -> Loop:
    """Load the base, make or restore the state, commit version_0 if there is none; `closing` ends what was opened.

    Without a channel to a keeper, versions are written while training waits.
    """
    family = StableDiffusion(ready.base, arithmetic(ready.config.compute), ready.config.compute)
    state, origin = _state(family, ready, reporter)
    pairs = pairs_of(ready.config, ready.source, ready.version)
    boards = _boards(ready, state.step, reporter)
    metrics = Metrics(ready.run.layout.records, state.step, state.scaler.is_enabled(), boards)
    closing.callback(metrics.close)
    batches = _batches(ready, family, state, pairs)
    closing.callback(batches.close)
    facts = version_facts(ready, family, pairs, origin)
    scorer = Scorer(family, ready.config, ready.source, pairs, batches.settings)
    judge = Judge(ready.run, scorer, reporter)
    parent = ready.parent or origin
    snapshots = None
    if channel is not None:
        small_bytes = len(dump(ready.config)) + len(json.dumps(facts)) + sum(map(len, state.small_files().values()))
        snapshots = open_snapshots(state, small_bytes, channel, ready.config.keeper, reporter.say)
    if snapshots is not None:
        closing.callback(snapshots.close)
    last = ready.version
    saver = Saver(ready.run, ready.config, facts, judge, reporter, last, parent, snapshots, channel)
    if ready.version is None:
        saver.save(state, Reason.START)
    return Loop(ready.config, family, state, batches, saver, metrics, reporter, signals)


def _opening(ready: Ready) -> str:
    optim = ready.config.optim
    return (
        f"{ready.run.name}: ControlNet on {ready.base.name}, {ready.source.description}\n"
        f"{optim.max_steps:,} steps of {optim.images_per_step} images at {ready.config.data.resolution} px; "
        f"versions every {ready.config.versions.every} in {ready.run.path}"
    )


def _state(family: StableDiffusion, ready: Ready, reporter: Reporter) -> tuple[TrainState, ParentRef | None]:
    """The state to train from, and the version whose weights it began with, if any."""
    optim, compute = ready.config.optim, family.arithmetic
    controlnet, origin = _controlnet(family, optim)
    state = TrainState(
        controlnet=controlnet,
        optimizer=make_optimizer(controlnet, optim),
        scaler=torch.amp.GradScaler(compute.device.type, enabled=compute.needs_loss_scaling),
        ema=Ema(controlnet, optim.ema_decay) if optim.ema_decay else None,
    )
    seed_process(optim.seed)
    if ready.version is not None:
        state.restore(ready.version)
        reporter.say(receipt(ready, state))
    elif origin is not None:
        reporter.say(f"Weights from {origin.run} version_{origin.version}; optimizer and data start anew.")
    return state, origin


def _controlnet(family: StableDiffusion, optim: Optim) -> tuple[Any, ParentRef | None]:
    start_from = optim.start_from
    if start_from is None:
        return family.new_controlnet(optim.seed, optim.hint_start), None
    folder, at, number = start_from.rpartition("@")
    if not at:
        return family.load_controlnet(start_from), None
    version = Run.open(Path(folder)).find(number)
    with reading(version.path):
        controlnet = family.load_controlnet(str(version.path / "controlnet"))
        load_weights(controlnet, version, WEIGHTS)
    return controlnet, ParentRef(str(version.path.parent), version.number, version.manifest_digest)


def _boards(ready: Ready, step: int, reporter: Reporter) -> list[Board]:
    boards: list[Board] = [TensorBoard(ready.run.layout.records, step)]
    project = ready.config.tracking.wandb_project
    if project is not None:
        settings = ready.config.model_dump(mode="json")
        boards.append(WeightsAndBiases(ready.run.path, project, settings, reporter.say))
    return boards


def _batches(ready: Ready, family: StableDiffusion, state: TrainState, pairs: Split) -> BatchStream:
    """Batches from the example on that the state has come to."""
    return BatchStream(
        ready.source,
        pairs.training,
        first_example=state.images_seen,
        batch_size=ready.config.optim.batch_size,
        settings=example_settings(ready.config, family),
        workers=ready.config.data.workers,
    )


def _ended(ready: Ready, loop: Loop, reporter: Reporter) -> ExitCode:
    """Run the loop and say in words how it ended and what to do next."""
    began, name = time.monotonic(), ready.run.path
    try:
        reason = loop.run()
    except NotFinite as error:
        reporter.say(
            f"{error} Nothing of it was saved. Next: a lower learning rate,\n"
            f"  everstep resume {name} --set optim.learning_rate={ready.config.optim.learning_rate / 2:g}"
        )
        return ExitCode.NOT_FINITE
    except NotCommitted as error:
        reporter.say(f"{error}\nOnce the disk takes it: everstep resume {name}")
        return error.exit_code
    took = duration(time.monotonic() - began)
    if reason is Reason.EARLY:
        reporter.say(
            f"Ended early at step {loop.state.step:,}, {took}: control gain has not risen for "
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
