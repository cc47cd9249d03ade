"""How a training starts: the run is made or found, locked, mended and checked, and only then is PyTorch loaded."""

import shlex
import sys
from collections.abc import Callable, Iterable
from pathlib import Path

from everstep.config import Config, dump
from everstep.contracts import ParentRef
from everstep.errors import ExitCode
from everstep.train.channel import Channel
from everstep.train.intent import (
    Changes,
    Ready,
    changed,
    check_origin,
    complete,
    open_data,
    refuse_changes,
)
from everstep.train.keeper import IS_POSSIBLE, Keeper
from everstep.train.progress import Reporter
from everstep.versions import Run, Version
from everstep.versions.memory import recover_arenas


def start(folder: Path, config: Config, other_run: Callable[[str], str]) -> int:
    """Begin the run, or go on with it if it exists with the same settings. Returns the exit code."""
    reporter = Reporter()
    completed, _ = complete(config)
    if Run.exists(folder):
        run = Run.open(folder)
        refuse_changes(run, completed, other_run)
    else:
        open_data(completed, reporter.say)
        run = Run.create(folder, dump(completed))
    return _locked(run, completed, None, {}, False, reporter)


def go_on(run: Run, version: str | None, assignments: Iterable[str]) -> int:
    """Go on from the newest whole version, or from the one named, with the changes asked for."""
    assigned = list(assignments)
    config, changes = changed(run, assigned)
    accepts_data = any(assignment.startswith("data") for assignment in assigned)
    return _locked(run, config, version, changes, accepts_data, Reporter())


def _locked(
    run: Run, config: Config, spec: str | None, changes: Changes, accepts_data: bool, reporter: Reporter
) -> int:
    """With the run held for writing: mend it, find the version to go on from, check everything, train."""
    with run.lock(shlex.join(sys.argv)):
        for sentence in [*run.recover(), *recover_arenas(run, config.keeper.ram_dir)]:
            reporter.say(sentence)
        version = run.find(spec) if spec else run.newest_whole(reporter.say)
        if version is not None and spec is None and version.step >= config.optim.max_steps:
            reporter.say(_already_complete(run, version, config))
            return ExitCode.DONE
        _, base = complete(config)
        source, base_digest = open_data(config, reporter.say), base.digest()
        parent = None
        if version is not None:
            changes |= check_origin(version, base_digest, source, accepts_data)
            parent = ParentRef(run.name, version.number, version.manifest_digest, changes)
        if changes:
            run.replace_hparams(dump(config))
        ready = Ready(run, config, base, base_digest, source, version, parent)
        return Keeper(ready, reporter, _trainer).run() if IS_POSSIBLE else _trainer(ready, reporter)


def _trainer(ready: Ready, reporter: Reporter, channel: Channel | None = None) -> int:
    """In the trainer's own process; in this one where the system has not what a keeper needs."""
    reporter.say("Loading PyTorch and the base ...")
    from everstep.train.session import train

    return train(ready, reporter, channel)


def _already_complete(run: Run, version: Version, config: Config) -> str:
    return (
        f"{run.name} is already complete: {version.name} is at step {version.step:,} of "
        f"{config.optim.max_steps:,}, in {version.path}.\n"
        f"More steps: everstep resume {run.name} --set optim.max_steps={2 * version.step}"
    )
