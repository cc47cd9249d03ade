"""How a training starts: the run is made or found, locked, mended and checked, and only then is PyTorch loaded."""

import os
import shlex
import sys
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, replace
from pathlib import Path

from everstep.config.load import dump, read_hparams
from everstep.config.policy import is_free
from everstep.config.schema import Config
from everstep.contracts import Changes, ParentRef, Reason
from everstep.data import Source
from everstep.errors import EverstepError, ExitCode, UserError
from everstep.keeping import stacks
from everstep.keeping.channel import Channel
from everstep.keeping.child import Child, fork
from everstep.keeping.ending import recover_memory
from everstep.keeping.group import Group, adopt_orphans
from everstep.keeping.keeper import IS_POSSIBLE, Keeper
from everstep.keeping.origin import Keeping, Origin
from everstep.keeping.remnants import say_forgotten
from everstep.keeping.signals import Listening
from everstep.launch.about import about
from everstep.launch.calling import Launch
from everstep.launch.changes import Differing, accepts_other_data, agreed, changed, describe, said_of_order
from everstep.launch.inputs import PLACES, Inputs, new_inputs
from everstep.launch.launched import placed, ranks_asked
from everstep.launch.others import caller_of, facts_of
from everstep.launch.processors import limit_threads
from everstep.launch.ranks import start_ranks
from everstep.launch.sending import see_off
from everstep.launch.space import plan_space
from everstep.launch.undo import Undo, has_begun
from everstep.mirror.following import Following
from everstep.places import as_word
from everstep.train.economy import keeping_settings
from everstep.train.progress import Reporter
from everstep.train.ready import Ready, check_origin, order_of, pairs_of
from everstep.train.retiring import catch_up, following, mirrors_of
from everstep.train.waiting import Waiting
from everstep.units import size
from everstep.versions import Run, Version
from everstep.versions.lock import Gone
from everstep.versions.reading import reading

TRIES = 5
MOVED = {
    "base.path": "the same base is",
    "data.path": "the same pairs are",
    "data.condition": "the same function is",
    "data.condition_model": "the same model is",
    "optim.start_from": "the version that it started from is",
}


def start(folder: Path, config: Config, other_run: Callable[[str], str]) -> int:
    """Begin the run, or go on with it if it exists with the same settings. Returns the exit code.

    One that never came to a version is begun anew, whatever its settings were. Of several processes that a launcher
    has started here, one does it.
    """
    ranks = ranks_asked(os.environ)
    if config.compute.ranks == 1 and ranks > 1:
        config = config.model_copy(update={"compute": config.compute.model_copy(update={"ranks": ranks})})
    return placed(folder, lambda launch: _started(folder, config, other_run, launch), config.mirror.targets)


def _started(folder: Path, config: Config, other_run: Callable[[str], str], launch: Launch | None) -> int:
    reporter = Reporter()
    for _ in range(TRIES):
        with suppress(Gone):  # the start that had made it came to nothing meanwhile
            run = Run.open(folder) if Run.exists(folder) else None
            if run is None or not has_begun(run, config.keeper.ram_dir):
                return _begin(folder, run, config, launch, reporter)
            inputs, found = agreed(run, config, other_run, reporter.say, reporter.during)
            return _locked(Start(run, inputs, found, launch), reporter)
    raise Gone(f"{folder} is made and taken back again and again by other starts. Nothing was changed.")


def go_on(
    folder: Path,
    opened: Callable[[], Run],
    version: str | None,
    assignments: Iterable[str],
    targets: Sequence[str] = (),
) -> int:
    """Go on from the newest whole version, or from the one named, with the changes asked for.

    Args:
        folder: of the run.
        opened: has it there, fetched if need be; asked in one process of all that a launcher has started.
        targets: mirrors that all machines know of.
    """
    assigned, ranks = list(assignments), ranks_asked(os.environ)
    if ranks > 1 and not any(one.startswith("compute.ranks=") for one in assigned):
        assigned.append(f"compute.ranks={ranks}")
    return placed(folder, lambda launch: _gone_on(opened(), version, assigned, launch), targets)


def _gone_on(run: Run, version: str | None, assigned: list[str], launch: Launch | None) -> int:
    reporter = Reporter()
    begun = has_begun(run, read_hparams(run.layout.hparams).keeper.ram_dir)
    inputs, found = changed(run, version, assigned, begun, reporter.say, reporter.during)
    is_other = accepts_other_data(assigned)
    return _locked(Start(run, inputs, found, launch, version, is_other, is_new=not begun), reporter)


def _begin(folder: Path, run: Run | None, config: Config, launch: Launch | None, reporter: Reporter) -> int:
    """Make the run, or take one in which nothing was ever trained, and train."""
    inputs, made = new_inputs(config, reporter.say, reporter.during), None
    _ = inputs.source  # read and checked: all that can be wrong is found before anything is made
    _check_room(folder, inputs, None, reporter)
    if run is None:
        root = folder.resolve()
        made = [above for above in (root, *root.parents) if not above.exists()]
        run = Run.create(folder, dump(inputs.config), about(inputs.config.keep))
    return _locked(Start(run, inputs, Differing({}, {}), launch, is_new=True, made=made), reporter)


@dataclass(frozen=True)
class Start:
    """A start whose settings are agreed upon."""

    run: Run
    inputs: Inputs
    found: Differing
    launch: Launch | None = None  # of several machines
    spec: str | None = None  # of the version that was named
    accepts_data: bool = False
    is_new: bool = False  # the run was never trained, so that any setting is right
    made: list[Path] | None = None  # the folders made for it by this start

    @property
    def config(self) -> Config:
        return self.inputs.config


def _locked(start: Start, reporter: Reporter) -> int:
    """With the run held for writing: go on, or take back what was made if it comes to nothing."""
    run, code = start.run, int(ExitCode.WRONG_INPUT)
    mirrors = mirrors_of(start.config)
    with run.lock(shlex.join(sys.argv), reporter.say), ExitStack() as held:
        undo = Undo(run, start.config.keeper.ram_dir, start.made)
        try:
            code = _mended(start, undo, held, mirrors, reporter)
        except EverstepError as error:
            code = int(error.exit_code)
            raise
        except BaseException:
            code = int(ExitCode.BUG)
            raise
        finally:
            if undo.after(code) and code != ExitCode.WRONG_INPUT:
                reporter.say(f"No version of {run.name} was made, so nothing of it is left; the same line begins it.")
    see_off(run, start.config, mirrors, reporter)
    return code


def _mended(start: Start, undo: Undo, held: ExitStack, mirrors: Following, reporter: Reporter) -> int:
    """Mend the run, find the version to go on from, check everything, train."""
    run, config, inputs, changes = start.run, start.config, start.inputs, start.found.every
    for sentence in run.recover():
        reporter.say(sentence)
    with reporter.during("Looking for what memory holds"):
        recover_memory(run, config.keeper.ram_dir, reporter.say)
    say_forgotten(run, config.keeper.ram_dir, reporter.say)
    if start.is_new and run.next_number() > 0:
        raise Gone(f"{run.name} was begun by another process meanwhile. Nothing was changed.")
    run.tell_best_score(config.keep.score)
    version = _version(run, config, start.spec, reporter)
    if version is not None and start.spec is None and _is_complete(version, config):
        reporter.say(_already_complete(run, version, config))
        if changes and all(is_free(key) or _is_moved(key, inputs, version) for key in changes):
            _record(start, version, changes, reporter)
        if sending := catch_up(run, config, mirrors):  # with the settings as they are now
            reporter.say(sending)
        return ExitCode.DONE
    source, base_digest = inputs.source, inputs.base_digest(version)
    parent = None
    if version is not None:
        held.enter_context(reading(version.path))  # inherited by the trainer: no prune takes it from under us
        changes |= check_origin(version, inputs.base, source, start.accepts_data)
        parent = ParentRef(run.name, version.number, version.manifest_digest, changes)
        _say_held_out(config, source, version, reporter)
        _check_room(run.path, inputs, version, reporter)
        if changes:
            _record(start, version, changes, reporter)
    else:
        if (written := dump(config)) != run.layout.hparams.read_text():
            run.replace_hparams(written)
        if said := pairs_of(config, source, None).sentence():
            reporter.say(said)
    if said := order_of(config, source, inputs.base, pairs_of(config, source, version)).sentence():
        reporter.say(said)
    ready = Ready(run, config, inputs.base, base_digest, source, version, parent)
    return _kept(ready, start, undo, mirrors, reporter) if IS_POSSIBLE else _trainer(ready, reporter)


def _kept(ready: Ready, start: Start, undo: Undo, mirrors: Following, reporter: Reporter) -> int:
    """Train under a keeper, which this process becomes. Returns the exit code."""
    run, config, launch = ready.run, ready.config, start.launch
    nodes = 1 if launch is None else launch.nodes
    is_alone = config.compute.ranks == 1 and nodes == 1
    if not is_alone:
        adopt_orphans()
    signals = Listening()
    others = None if launch is None else caller_of(launch, ready, signals, reporter)
    if sending := catch_up(run, config, mirrors):
        reporter.say(sending)

    def begin(origin: Origin) -> tuple[Child, Channel]:
        going_on = replace(ready, version=origin.version, parent=origin.parent)
        meeting = None if others is None else others.call(facts_of(going_on))
        if others is not None and meeting is None:  # another machine's memory has become a version, newer than this
            if not origin.is_named:
                keeper.origin = origin.moved_to(run, run.newest_resumable(reporter.say))
            return begin(keeper.origin)
        ours, theirs = Channel.pair()
        written = run.layout.records / stacks.NAME
        if is_alone:
            return fork(lambda channel: _trainer(going_on, reporter, channel), ours, theirs, written), ours
        return fork(
            lambda channel: start_ranks(going_on, reporter, channel, meeting), ours, theirs, written, Group
        ), ours

    keeping = Keeping(
        run=run,
        settings=keeping_settings(config, nodes),
        report=reporter.say,
        retire=lambda kept, in_use: following(config, in_use, mirrors)(kept),
        tell_trainer=run.held.tell_trainer if run.held is not None else lambda pid: None,
        go_on=f"everstep resume {run.word}",
        undo=undo.when_left,
        during=reporter.during,
    )
    keeper = Keeper(keeping, Origin(ready.version, ready.parent, start.spec is not None), signals)
    code = int(ExitCode.WRONG_INPUT)
    try:
        code = keeper.run(begin)
    finally:
        if others is not None and code == ExitCode.WRONG_INPUT:
            others.forget()
    return code


def _version(run: Run, config: Config, spec: str | None, reporter: Reporter) -> Version | None:
    """What to go on from. It is read, and verified, once: by the trainer; one that ends a training, here."""
    if spec:
        return _resumable(run, spec)
    version = run.newest_resumable(reporter.say)
    if version is None or not _is_complete(version, config):
        return version
    with reporter.during(f"Verifying {version.name}, {size(version.size_bytes)}"):
        return run.newest_whole(reporter.say)


def _resumable(run: Run, spec: str) -> Version:
    """The version named. Raises: UserError if it is slim."""
    version = run.find(spec)
    if not version.resumable:
        raise UserError(
            f"{version.name} is slim: its weights are there, but not what a resume needs. Nothing was changed.\n"
            f"A new run with its weights: everstep train {as_word(run.layout.hparams)} --from "
            f"{as_word(run.path)}@{version.number} --run {as_word(f'{run.path}-2')}"
        )
    return version


def _check_room(folder: Path, inputs: Inputs, version: Version | None, reporter: Reporter) -> None:
    """Say what versions take. Raises: UserError if the next two do not fit."""
    space = plan_space(folder, inputs.config, inputs.base, version)
    if space is not None:
        space.refuse_if_full()
        reporter.say(space.sentence())


def _is_moved(key: str, inputs: Inputs, version: Version) -> bool:
    return key in PLACES and inputs.is_same(key, version)


def _record(start: Start, version: Version, changes: Changes, reporter: Reporter) -> None:
    """Say what changes before anything starts, and make it the run's settings."""
    run, edited = start.run, start.found.edited
    moved = [key for key in MOVED if key in changes and "data.fingerprint" not in changes]
    asked = {key: ab for key, ab in changes.items() if (key in start.found.asked or key not in edited)}
    asked = {key: ab for key, ab in asked.items() if key not in moved}
    by_hand = {key: ab for key, ab in changes.items() if key not in asked and key not in moved}
    for key in moved:
        before, after = changes[key]
        reporter.say(f"{run.name}: {MOVED[key]} in another place now: {before} -> {after}")
    if by_hand:
        reporter.say(
            f"{run.name}: {run.layout.hparams.name} differs from what {version.name} was made with, and is followed\n"
            f"{describe(by_hand)}"
        )
    if asked:
        reporter.say(f"{run.name}: changed on purpose\n{describe(asked)}")
    if said := said_of_order(start.config, changes):
        reporter.say(said)
    if (written := dump(start.config)) != run.layout.hparams.read_text():
        run.replace_hparams(written)


def _say_held_out(config: Config, source: Source, version: Version, reporter: Reporter) -> None:
    """Where the data have changed: what has become of the pairs that were held out. Raises: UserError."""
    before = set(version.manifest["data"]["held_out"])
    now = {source.name(pair) for pair in pairs_of(config, source, version).held_out}
    if now != before:
        gone = f"; the other {len(before - now)} are not there any more" if before - now else ""
        reporter.say(f"Held out: {len(now)} pairs, {len(now & before)} of the {len(before)} before{gone}.")


def _trainer(ready: Ready, reporter: Reporter, channel: Channel | None = None) -> int:
    """In the trainer's own process; in this one where the system has not what a keeper needs."""
    stacks.listen()
    if said := limit_threads(ready.config.compute.threads):
        reporter.say(said)
    reporter.say("Loading PyTorch and the base ...")
    with Waiting(ready.config.compute.threads, reporter.say):
        with reporter.during("Loading PyTorch"):
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
            f"gain rose no more.\nGo on all the same: everstep resume {run.word} --set scoring.patience=null"
        )
    return (
        f"{run.name} is already complete: {version.name} is at step {version.step:,} of "
        f"{config.optim.max_steps:,}, in {version.path}.\n"
        f"More steps: everstep resume {run.word} --set optim.max_steps={2 * version.step}"
    )
