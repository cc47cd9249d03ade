"""What train and resume share: the run is locked and mended, then handed to the trainer."""

import shlex
import sys
from collections.abc import Callable, Iterable
from pathlib import Path

from everstep.config import Config, dump
from everstep.contracts import ParentRef
from everstep.errors import ExitCode
from everstep.train.intent import Changes, Ready, begin, changed, complete, open_data, refuse_changes
from everstep.train.progress import Reporter
from everstep.versions import Run


def start(folder: Path, config: Config, other_run: Callable[[str], str]) -> int:
    """Begin the run, or go on with it if it exists with the same settings."""
    reporter = Reporter()
    resolved, _ = complete(config)
    if Run.exists(folder):
        run = Run.open(folder)
        refuse_changes(run, resolved, other_run)
    else:
        open_data(resolved, reporter.say)
        run = begin(folder, resolved)
    return _train(run, resolved, None, {}, reporter)


def go_on(run: Run, version: str | None, assignments: Iterable[str]) -> int:
    """Go on from the newest whole version, or from the one named, with the changes asked for."""
    config, changes = changed(run, assignments)
    return _train(run, config, version, changes, Reporter())


def _train(run: Run, config: Config, spec: str | None, changes: Changes, reporter: Reporter) -> int:
    with run.lock(shlex.join(sys.argv)):
        for sentence in run.recover():
            reporter.say(sentence)
        version = run.find(spec) if spec else run.newest_whole(reporter.say)
        if version is not None and spec is None and version.step >= config.optim.max_steps:
            reporter.say(
                f"{run.name} is already complete: {version.name} is at step {version.step:,} of "
                f"{config.optim.max_steps:,}, in {version.path}.\n"
                f"More steps: everstep resume {run.name} --set optim.max_steps={2 * version.step}"
            )
            return ExitCode.DONE
        config, base = complete(config)
        source = open_data(config, reporter.say)
        if changes:
            run.replace_hparams(dump(config))
        parent = None if version is None else _parent(run, version.number, version.manifest_digest, changes)
        ready = Ready(run, config, base, source, version, parent)
        reporter.say("Loading PyTorch and the base ...")
        from everstep.train.session import train

        return train(ready, reporter)


def _parent(run: Run, number: int, digest: str, changes: Changes) -> ParentRef:
    return ParentRef(run.name, number, digest, changes)
