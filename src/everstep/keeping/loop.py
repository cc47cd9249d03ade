"""A plain PyTorch loop, kept: versions, snapshots that survive kill -9, and exact resume, in a few lines.

with everstep.keep("runs/mine", network, optimizer, every=100) as kept:
    for step in kept.steps(2_000):
        ...                          # batches, losses: functions of the step
        optimizer.step()
"""

import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any

import yaml
from torch import Tensor, nn

from everstep.contracts import COMPLETE, Reason, Report
from everstep.errors import DamageFound, EverstepError, ExitCode, NotCommitted, UserError
from everstep.keeping.asked import Asked
from everstep.keeping.channel import Channel
from everstep.keeping.claims import Observer
from everstep.keeping.host import connect
from everstep.keeping.interrupts import Interrupts
from everstep.keeping.link import KeeperGone, Link
from everstep.keeping.parts import HasState, Parts
from everstep.keeping.saver import Saver
from everstep.keeping.settings import Settings
from everstep.keeping.snapshots import open_snapshots
from everstep.keeping.terms import Terms, command
from everstep.places import absolute
from everstep.versions import LiveStatus, Run, Version, run_folder, write_live
from everstep.versions.lock import Held

TELL_PERIOD_S = 0.5
Modules = nn.Module | Mapping[str, nn.Module]
Others = HasState | Mapping[str, HasState]


def keep(
    run: str | Path,
    modules: Modules,
    optimizers: Others | None = None,
    *,
    others: Mapping[str, HasState] | None = None,
    tensors: Mapping[str, Tensor] | None = None,
    settings: Mapping[str, Any] | None = None,
    facts: Mapping[str, Any] | None = None,
    images_per_step: int = 1,
    every: int | None = 300,
    every_s: float | None = None,
    keeping: Settings | None = None,
    observers: tuple[Observer, ...] = (),
    report: Report | None = None,
) -> "Kept":
    """Keep a training loop; on entering, whatever the run holds already is put back.

    Args:
        run: a name in runs/, or a path; made if it is not there.
        modules: the network, or networks by name; each is a safetensors file of every version.
        optimizers: one, or several by name. Their state may come later, and be of any kind.
        others: schedulers, scalers, loaders: whatever has state_dict() and load_state_dict().
        tensors: any other tensors by name, changed in place, within `kept.changing()`.
        settings: of the run, as hparams.yaml has them.
        facts: JSON for every version's manifest.
        every, every_s: steps, seconds between versions.
        keeping: how often snapshots are taken, where their memory is.

    Raises on entering: UserError if another process writes the run, or its versions are of other parts.
    """
    named = {"weights": modules} if isinstance(modules, nn.Module) else dict(modules)
    stepping = optimizers if isinstance(optimizers, Mapping) else {"optimizer": optimizers} if optimizers else {}
    parts = Parts(named, {**stepping, **(others or {})}, dict(tensors or {}))
    terms = Terms(
        folder=absolute(run_folder(str(run))),
        hparams=yaml.safe_dump(dict(settings or {}), sort_keys=False),
        facts=dict(facts or {}),
        images_per_step=images_per_step,
        every_steps=every,
        every_s=every_s,
        settings=keeping or Settings(),
        observers=observers,
        report=report or _print,
    )
    return Kept(parts, terms)


def _print(text: str) -> None:
    try:
        print(text, flush=True)
    except (OSError, ValueError):  # what is only told ends no training
        return


class Kept:
    """A loop that is kept, between entering and leaving."""

    def __init__(self, parts: Parts, terms: Terms) -> None:
        self._parts, self._terms, self._report = parts, terms, terms.report
        self._interrupts, self._held = Interrupts(terms.report), ExitStack()
        self._lock: Held | None = None
        self._keeper: subprocess.Popen[bytes] | None = None
        self._saver: Saver | None = None
        self._until: int | None = None
        self._wanted: list[str | None] = []  # labels of versions that were asked for within a step
        self._told_at = self._began_at = 0.0
        self._first = 0
        self.ended: Reason | None = None  # why no more steps come: final, early, asked, signal, rescue

    @property
    def step(self) -> int:
        """Steps that have been done."""
        return self._parts.step

    def changing(self) -> AbstractContextManager[None]:
        """Change what is kept inside, other than by an optimizer's step: averages, tensors of one's own."""
        return self._parts.revision.changing()

    # --- entering -------------------------------------------------------------------------------------------

    def __enter__(self) -> "Kept":
        end, self._keeper = connect()
        self._link = Link(Channel(end))
        try:
            self._open()
        except BaseException as error:
            self._close(self._code(error))
            if isinstance(error, KeeperGone):
                raise UserError("The keeper could not be started; what it printed says why.") from None
            raise
        return self

    def _open(self) -> None:
        terms = self._terms
        answer = self._link.ask_any("hello", ("origin", "no"), **terms.hello())
        if answer["kind"] == "no":
            kind = NotCommitted if answer["exit_code"] == ExitCode.DISK_FULL else UserError
            raise kind(answer["why"])
        run = Run.open(terms.folder)
        self._lock = self._held.enter_context(run.lock_from(answer["descriptor"], command()))
        version = None if answer["number"] is None else run.version(answer["number"])
        if version is not None:
            self._restore(version)
        parent = None if version is None else run.ref(version)
        saver = Saver(terms.making(run), self._parts, version, parent, self._link, observers=terms.observers)
        self._saver = saver
        self._asked = Asked(run.layout, self._save_as_asked)
        self._first = self.step
        saver.snapshots = open_snapshots(self._parts, saver.small_bytes(), self._link, terms.settings, self._report)
        self._tell("running")
        self._interrupts.listen()
        if version is None:
            saver.save(Reason.START)

    def _restore(self, version: Version) -> None:
        try:
            self._parts.restore(version)
        except DamageFound:
            self._link.tell("damaged", number=version.number)
            raise
        self._report(f"Resumed from {version.name} (step {version.step:,}), every digest verified: {version.path}")

    # --- steps ----------------------------------------------------------------------------------------------

    def steps(self, until: int) -> Iterator[int]:
        """The numbers of the steps that are left, from the first that has not been done; ends early where asked to.

        Raises: NotFinite, NotCommitted; the newest whole state is kept. KeyboardInterrupt after the step in which it
        was asked for, which is kept.
        """
        saver = self._in_use()
        self._until, self._began_at, self._first = until, time.monotonic(), self.step
        saver.making = replace(saver.making, max_steps=until)
        if self.ended in COMPLETE:  # of steps before these
            self.ended = None
        self._interrupts.is_stepping = True
        try:
            while self.step < until and self.ended is None:
                yield self.step
                self._stepped(saver)
            if self.step >= until:
                self.ended = Reason.FINAL
            self._save_last(saver)
        except KeeperGone:
            self._go_alone(saver)
        finally:
            self._interrupts.is_stepping = False
        if self._interrupts.asked == "SIGINT":
            self._interrupts.asked = None
            raise KeyboardInterrupt

    def _in_use(self) -> Saver:
        if self._saver is None:
            raise UserError("Steps are made inside of it: with everstep.keep(...) as kept: ...")
        return self._saver

    def _stepped(self, saver: Saver) -> None:
        self._parts.step += 1
        self._parts.images_seen += self._terms.images_per_step
        self._asked.by_keeper(saver.hear())
        if self._wanted:
            wanted, self._wanted = self._wanted, []
            for label in wanted:
                self._save_as_asked(label)
        elif saver.is_due(self.step):
            self._save_as_due(saver)
        else:
            saver.snapshot()
        self._asked.signal = self._asked.signal or self._interrupts.asked
        self.ended = self._asked.to_stop() or self.ended
        self._tell("running")

    def save(self, label: str | None = None) -> None:
        """Make a version: now, or, asked for within a step, when that is done.

        Raises: NotCommitted if the disk refuses it now; it is tried again.
        """
        saver = self._in_use()
        if self._interrupts.is_stepping:
            self._wanted.append(label)
        else:
            saver.save(Reason.ASKED, label)

    def stop(self) -> None:
        """No more steps after this one; the training is complete with it."""
        self.ended = Reason.EARLY

    def _save_as_asked(self, label: str | None) -> str | None:
        try:
            self._in_use().save(Reason.ASKED, label, may_wait=False)
        except NotCommitted as error:
            self._report(str(error))
            return str(error)
        return None

    def _save_as_due(self, saver: Saver) -> None:
        try:
            saver.save(Reason.INTERVAL)
        except NotCommitted as error:
            self._report(str(error))

    def _save_last(self, saver: Saver) -> None:
        assert self.ended is not None
        if saver.last_step != self.step:
            saver.save(self.ended)
        saver.finish()
        self._tell("complete" if self.ended in COMPLETE else "stopped")

    def _go_alone(self, saver: Saver) -> None:
        self._report("The keeper is gone: saving without it, then ending.")
        self.ended = Reason.RESCUE
        saver.go_alone()
        self._tell("stopped")

    # --- leaving --------------------------------------------------------------------------------------------

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.ended is None and (error is None or isinstance(error, KeyboardInterrupt)):
            self._tell("stopped")  # left by break, or at once
        self._close(self._code(error))

    def _code(self, error: BaseException | None) -> int:
        """How the program says that it ends. Of an error in the loop's body nobody knows what state it left: the newest
        whole state in memory is what becomes a version.
        """
        if error is None:
            return int(ExitCode.DONE if self.ended in COMPLETE else ExitCode.STOPPED)
        if isinstance(error, KeyboardInterrupt):
            return int(ExitCode.STOPPED)
        if isinstance(error, SystemExit):
            return error.code if isinstance(error.code, int) else int(error.code is not None)
        return int(error.exit_code) if isinstance(error, EverstepError) else 1  # as Python ends

    def _close(self, code: int) -> None:
        """Let go of everything, and wait until what is only in memory is a version."""
        self._interrupts.close()
        try:
            if self._saver is not None:
                self._saver.close()
        finally:
            self._saver = None
            self._parts.revision.close()
            self._link.tell("bye", code=code)
            self._link.close()
            if self._keeper is not None:
                self._keeper.wait()
                if self._lock is not None:  # workers that were forked meanwhile share it, and may live on
                    self._lock.let_go()
            self._held.close()

    def _tell(self, state: str) -> None:
        now = time.monotonic()
        if state == "running" and now - self._told_at < TELL_PERIOD_S:
            return
        saver, self._told_at = self._in_use(), now
        rate = (self.step - self._first) * self._terms.images_per_step / max(1e-9, now - self._began_at)
        write_live(
            saver.making.run.layout,
            LiveStatus.now(
                state=state,
                step=self.step,
                max_steps=self._until or self.step,
                images_seen=self._parts.images_seen,
                images_per_second=rate,
                loss=None,
                last_version=None if saver.last is None else saver.last.name,
                next_version_step=saver.next_step(self.step),
                snapshot_step=None if saver.snapshots is None else saver.snapshots.sealed_step,
            ),
        )
