"""A plain PyTorch loop, kept: versions, snapshots that survive kill -9, and exact resume, in a few lines.

with everstep.keep("runs/mine", network, optimizer, every=100) as kept:
    for step in kept.steps(2_000):
        ...                          # batches, losses: functions of the step
        optimizer.step()
"""

import os
import shlex
import signal
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack
from dataclasses import replace
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any

import yaml
from torch import Tensor, nn

from everstep.contracts import COMPLETE, Reason, Report
from everstep.errors import EverstepError, ExitCode, NotCommitted, NotFinite, UserError
from everstep.keeping.asked import Asked
from everstep.keeping.channel import Channel
from everstep.keeping.claims import Making, Observer
from everstep.keeping.host import connect, settings_as_told
from everstep.keeping.link import KeeperGone, Link
from everstep.keeping.parts import HasState, Parts
from everstep.keeping.saver import Saver
from everstep.keeping.settings import Settings
from everstep.keeping.snapshots import open_snapshots
from everstep.versions import LiveStatus, Run, run_folder, write_live
from everstep.versions.layout import HPARAMS

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
    hparams = yaml.safe_dump(dict(settings or {}), sort_keys=False)
    return Kept(
        Path(run_folder(str(run))).expanduser().resolve(),
        parts,
        hparams,
        dict(facts or {}),
        images_per_step,
        (every, every_s),
        keeping or Settings(),
        observers,
        report or _print,
    )


def _print(text: str) -> None:
    try:
        print(text, flush=True)
    except (OSError, ValueError):  # what is only told ends no training
        return


class Kept:
    """A loop that is kept, between entering and leaving."""

    def __init__(
        self,
        folder: Path,
        parts: Parts,
        hparams: str,
        facts: dict[str, Any],
        images_per_step: int,
        cadence: tuple[int | None, float | None],
        settings: Settings,
        observers: tuple[Observer, ...],
        report: Report,
    ) -> None:
        self._folder, self._parts, self._hparams, self._facts = folder, parts, hparams, facts
        self._images_per_step, self._cadence, self._settings = images_per_step, cadence, settings
        self._observers, self._report = observers, report
        self._held = ExitStack()
        self._told_at = self._began_at = 0.0
        self._until: int | None = None
        self._whole_at: int | None = None  # the state's revision at the end of the last whole step
        self.ended: Reason | None = None  # why no more steps come: final, asked, signal, rescue

    @property
    def step(self) -> int:
        """Steps that have been done."""
        return self._parts.step

    def changing(self) -> AbstractContextManager[None]:
        """Change what is kept inside, other than by an optimizer's step: averages, tensors of one's own."""
        return self._parts.revision.changing()

    def __enter__(self) -> "Kept":
        end, self._keeper = connect()
        self._link = Link(Channel(end))
        try:
            self._open()
        except BaseException as error:
            self._held.close()
            self._link.close()
            if isinstance(error, KeeperGone):
                raise UserError("The keeper could not be started; what it printed says why.") from None
            raise
        return self

    def _listen(self) -> None:
        """A service manager's or scheduler's SIGTERM asks to stop, unless the program has plans of its own for it."""
        if threading.current_thread() is not threading.main_thread():
            return
        for number in (signal.SIGTERM, signal.SIGHUP):
            if signal.getsignal(number) is signal.SIG_DFL:
                signal.signal(number, self._ask_to_stop)
                self._held.callback(signal.signal, number, signal.SIG_DFL)

    def _ask_to_stop(self, number: int, frame: FrameType | None) -> None:
        self._asked.signal = signal.Signals(number).name

    def _open(self) -> None:
        answer = self._link.ask_any(
            "hello",
            ("origin", "no"),
            run=str(self._folder),
            hparams=self._hparams,
            about="training of a PyTorch loop",
            pid=os.getpid(),
            command=shlex.join(sys.argv),
            settings=settings_as_told(self._settings),
        )
        if answer["kind"] == "no":
            kind = NotCommitted if answer["exit_code"] == ExitCode.DISK_FULL else UserError
            raise kind(answer["why"])
        run = Run.open(self._folder)
        self._held.enter_context(run.lock_from(answer["descriptor"], shlex.join(sys.argv)))
        version = None if answer["number"] is None else run.version(answer["number"])
        if version is not None:
            self._restore(version)
        every, every_s = self._cadence
        making = Making(
            run=run,
            facts=self._facts,
            small_files={HPARAMS: self._hparams.encode()},
            settings=self._settings,
            report=self._report,
            every_steps=every,
            every_s=every_s,
            may_wait=sys.stdout.isatty(),
        )
        self._saver = Saver(making, self._parts, version, None, self._link, observers=self._observers)
        if version is not None:
            self._saver.parent = run.ref(version)
        self._asked = Asked(run.layout, self._save_as_asked)
        self._saver.snapshots = open_snapshots(
            self._parts, self._saver.small_bytes(), self._link, self._settings, self._report
        )
        self._whole_at = self._parts.revision.seen()
        self._listen()
        if version is None:
            self._saver.save(Reason.START)

    def _restore(self, version: Any) -> None:
        try:
            self._parts.restore(version)
        except EverstepError:
            self._link.tell("damaged", number=version.number)
            raise
        self._report(f"Resumed from {version.name} (step {version.step:,}), every digest verified: {version.path}")

    # --- steps ----------------------------------------------------------------------------------------------

    def steps(self, until: int) -> Iterator[int]:
        """The numbers of the steps that are left, from the first that has not been done; ends early where asked to.

        Raises: NotFinite, NotCommitted; the newest whole state is kept.
        """
        self._until, self._began_at = until, time.monotonic()
        self._first = self.step
        self._saver.making = replace(self._saver.making, max_steps=until)
        try:
            while self.step < until and self.ended is None:
                yield self.step
                self._stepped()
            self.ended = self.ended or Reason.FINAL
            self._save_last()
        except KeeperGone:
            self._go_alone()

    def _stepped(self) -> None:
        self._parts.step += 1
        self._parts.images_seen += self._images_per_step
        self._whole_at = self._parts.revision.seen()
        self._asked.by_keeper(self._saver.hear())
        if self._saver.is_due(self.step):
            self._try_to_save(Reason.INTERVAL)
        else:
            self._saver.snapshot()
        self.ended = self._asked.to_stop()
        self._tell("running")

    def save(self, label: str | None = None) -> None:
        """Make a version now. Raises: NotCommitted if the disk refuses it; it is tried again."""
        self._saver.save(Reason.ASKED, label)

    def _save_as_asked(self, label: str | None) -> str | None:
        try:
            self._saver.save(Reason.ASKED, label, may_wait=False)
        except NotCommitted as error:
            self._report(str(error))
            return str(error)
        return None

    def _try_to_save(self, reason: Reason) -> None:
        try:
            self._saver.save(reason)
        except NotCommitted as error:
            self._report(str(error))

    def _save_last(self) -> None:
        assert self.ended is not None
        if self._saver.last_step != self.step:
            self._saver.save(self.ended)
        self._saver.finish()
        self._tell("complete" if self.ended in COMPLETE else "stopped")

    def _go_alone(self) -> None:
        self._report("The keeper is gone: saving without it, then ending.")
        self.ended = Reason.RESCUE
        self._saver.go_alone()

    # --- leaving --------------------------------------------------------------------------------------------

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        code = int(ExitCode.DONE)
        try:
            if kind is not None and issubclass(kind, KeyboardInterrupt):
                self._stop_where_it_is()
            elif kind is not None:
                code = int(getattr(error, "exit_code", ExitCode.BUG))
        finally:
            self._saver.close()
            self._link.tell("bye", code=code)
            self._link.close()
            self._held.close()
            self._parts.revision.close()
            if self._keeper is not None:
                self._keeper.wait()  # what is only in memory becomes a version before the program goes on

    def _stop_where_it_is(self) -> None:
        """Interrupted between two steps the state is whole, and saved; within one, its last snapshot is rescued."""
        is_whole = self._whole_at is not None and self._parts.revision.seen() == self._whole_at
        if is_whole and self._saver.last_step != self.step:
            try:
                self._saver.save(Reason.SIGNAL)
            except (NotCommitted, NotFinite, KeeperGone) as refused:
                self._report(str(refused))

    def _tell(self, state: str) -> None:
        now = time.monotonic()
        if state == "running" and now - self._told_at < TELL_PERIOD_S:
            return
        self._told_at, saver = now, self._saver
        rate = (self.step - self._first) * self._images_per_step / max(1e-9, now - self._began_at)
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
