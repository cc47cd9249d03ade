"""How a training starts: the run is made or found, locked, mended and checked, and only then is PyTorch loaded."""

import shlex
import sys
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

from everstep.config import Config, dump
from everstep.config.policy import is_free
from everstep.contracts import Changes, ParentRef, Reason
from everstep.data import Source
from everstep.errors import ExitCode, UserError
from everstep.keeping.channel import Channel
from everstep.keeping.child import Child, fork
from everstep.keeping.ending import recover_memory
from everstep.keeping.keeper import IS_POSSIBLE, STACKS, Keeper
from everstep.keeping.origin import Keeping, Origin
from everstep.keeping.remnants import say_forgotten
from everstep.keeping.settings import Settings
from everstep.launch.about import about
from everstep.launch.changes import accepts_other_data, changed, describe, refuse_changes, with_start_of
from everstep.launch.checks import complete
from everstep.launch.processors import limit_threads
from everstep.launch.space import plan_space
from everstep.models.base import BaseFolder
from everstep.train.progress import Reporter
from everstep.train.ready import Ready, check_origin, open_data, pairs_of
from everstep.train.retiring import retiring
from everstep.train.waiting import Waiting
from everstep.versions import Run, Version
from everstep.versions.reading import reading


def start(folder: Path, config: Config, other_run: Callable[[str], str]) -> int:
    """Begin the run, or go on with it if it exists with the same settings. Returns the exit code."""
    reporter = Reporter()
    completed, base = complete(config)
    found: Changes = {}
    if Run.exists(folder):
        run = Run.open(folder)
        completed = with_start_of(run, config.optim.start_from, completed)
        found = refuse_changes(run, completed, other_run)
    else:
        open_data(completed, lambda said: None)  # what is odd is said once, when the run is held
        _check_room(folder, completed, base, None, reporter)
        run = Run.create(folder, dump(completed), about(completed.keep))
    return _locked(run, completed, base, None, found, False, reporter)


def go_on(run: Run, version: str | None, assignments: Iterable[str]) -> int:
    """Go on from the newest whole version, or from the one named, with the changes asked for."""
    assigned = list(assignments)
    config, base, changes = changed(run, assigned)
    return _locked(run, config, base, version, changes, accepts_other_data(assigned), Reporter())


def _locked(
    run: Run,
    config: Config,
    base: BaseFolder,
    spec: str | None,
    changes: Changes,
    accepts_data: bool,
    reporter: Reporter,
) -> int:
    """With the run held for writing: mend it, find the version to go on from, check everything, train."""
    with run.lock(shlex.join(sys.argv), reporter.say), ExitStack() as held:
        for sentence in run.recover():
            reporter.say(sentence)
        recover_memory(run, config.keeper.ram_dir, reporter.say)
        say_forgotten(run, config.keeper.ram_dir, reporter.say)
        run.tell_best_score(config.keep.score)
        version = _version(run, config, spec, reporter)
        if version is not None and spec is None and _is_complete(version, config):
            reporter.say(_already_complete(run, version, config))
            if changes and all(map(is_free, changes)):
                _record(run, config, changes, reporter)
            return ExitCode.DONE
        source, base_digest = open_data(config, reporter.say), base.digest()
        parent = None
        if version is not None:
            held.enter_context(reading(version.path))  # inherited by the trainer: no prune takes it from under us
            changes |= check_origin(version, base_digest, source, accepts_data)
            parent = ParentRef(run.name, version.number, version.manifest_digest, changes)
            _say_held_out(config, source, version, reporter)
            _check_room(run.path, config, base, version, reporter)
        if changes:
            _record(run, config, changes, reporter)
        ready = Ready(run, config, base, base_digest, source, version, parent)
        return _kept(ready, spec is not None, reporter) if IS_POSSIBLE else _trainer(ready, reporter)


def _kept(ready: Ready, is_named: bool, reporter: Reporter) -> int:
    """Train under a keeper, which this process becomes. Returns the exit code."""
    run, config = ready.run, ready.config

    def begin(origin: Origin) -> tuple[Child, Channel]:
        ours, theirs = Channel.pair()
        going_on = replace(ready, version=origin.version, parent=origin.parent)
        stacks = run.layout.records / STACKS
        return fork(lambda channel: _trainer(going_on, reporter, channel), ours, theirs, stacks), ours

    keeping = Keeping(
        run=run,
        settings=Settings(**config.keeper.model_dump()),
        report=reporter.say,
        retire=lambda kept, in_use: retiring(config.keep, in_use)(kept),
        tell_trainer=run.held.tell_trainer if run.held is not None else lambda pid: None,
        go_on=f"everstep resume {run.path}",
    )
    return Keeper(keeping, Origin(ready.version, ready.parent, is_named)).run(begin)


def _version(run: Run, config: Config, spec: str | None, reporter: Reporter) -> Version | None:
    """What to go on from. It is read, and verified, once: by the trainer; one that ends a training, here."""
    if spec:
        return _resumable(run, spec)
    version = run.newest_resumable(reporter.say)
    return version if version is None or not _is_complete(version, config) else run.newest_whole(reporter.say)


def _resumable(run: Run, spec: str) -> Version:
    """The version named. Raises: UserError if it is slim."""
    version = run.find(spec)
    if not version.resumable:
        raise UserError(
            f"{version.name} is slim: its weights are there, but not what a resume needs. Nothing was changed.\n"
            f"A new run with its weights: everstep train {run.layout.hparams} --from {run.path}@{version.number} "
            f"--run {run.path}-2"
        )
    return version


def _check_room(folder: Path, config: Config, base: BaseFolder, version: Version | None, reporter: Reporter) -> None:
    """Say what versions take. Raises: UserError if the next two do not fit."""
    space = plan_space(folder, config, base, version)
    if space is not None:
        space.refuse_if_full()
        reporter.say(space.sentence())


def _record(run: Run, config: Config, changes: Changes, reporter: Reporter) -> None:
    """Say what changes on purpose before anything starts, and make it the run's settings."""
    reporter.say(f"{run.name}: changed on purpose\n{describe(changes)}")
    run.replace_hparams(dump(config))


def _say_held_out(config: Config, source: Source, version: Version, reporter: Reporter) -> None:
    """Where the data have changed: what has become of the pairs that were held out. Raises: UserError."""
    before = set(version.manifest["data"]["held_out"])
    now = {source.name(pair) for pair in pairs_of(config, source, version).held_out}
    if now != before:
        gone = f"; the other {len(before - now)} are not there any more" if before - now else ""
        reporter.say(f"Held out: {len(now)} pairs, {len(now & before)} of the {len(before)} before{gone}.")


def _trainer(ready: Ready, reporter: Reporter, channel: Channel | None = None) -> int:
    """In the trainer's own process; in this one where the system has not what a keeper needs."""
    if said := limit_threads(ready.config.compute.threads):
        reporter.say(said)
    reporter.say("Loading PyTorch and the base ...")
    with Waiting(ready.config.compute.threads, reporter.say):
        from everstep.train.session import train

        return train(ready, reporter, channel)


def _is_complete(version: Version, config: Config) -> bool:
    return version.step >= config.optim.max_steps or _ended_early(version, config)


def _ended_early(version: Version, config: Config) -> bool:
    return version.reason == Reason.EARLY and config.scoring.patience is not None


def _already_complete(run: Run, version: Version, config: Config) -> str:
    if _ended_early(version, config):
        return (
            f"{run.name} is already complete: it ended early at {version.name}, step {version.step:,}, since control "
            f"gain rose no more.\nGo on all the same: everstep resume {run.name} --set scoring.patience=null"
        )
    return (
        f"{run.name} is already complete: {version.name} is at step {version.step:,} of "
        f"{config.optim.max_steps:,}, in {version.path}.\n"
        f"More steps: everstep resume {run.name} --set optim.max_steps={2 * version.step}"
    )
