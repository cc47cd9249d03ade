"""The training loop: batches into losses, losses into steps, steps into versions.

Knows the order of things. Does not know how a family computes its loss, nor how a version is written.
"""

import contextlib
import time

from everstep.config.schema import Config
from everstep.contracts import COMPLETE, Reason
from everstep.data import StopAsked
from everstep.errors import DataUnreadable, NotCommitted
from everstep.keeping.asked import Asked
from everstep.keeping.due import next_step
from everstep.keeping.link import KeeperGone
from everstep.keeping.saver import Saver
from everstep.keeping.team import Order, RankLost, Team, Trouble
from everstep.models.family import Family
from everstep.train.gradients import Alone
from everstep.train.judging import Judge
from everstep.train.metrics import Metrics
from everstep.train.progress import Progress, Reporter
from everstep.train.rate import Rate
from everstep.train.state import TrainState
from everstep.train.step import take_step
from everstep.train.stop import StopSignals
from everstep.train.together import Prepared
from everstep.versions import LiveStatus, write_live

TELL_PERIOD_S = 0.5


class Loop:
    """One training, from the state it is given to its end."""

    def __init__(
        self,
        config: Config,
        family: Family,
        state: TrainState,
        batches: Prepared,
        gradients: Alone,
        saver: Saver,
        judge: Judge,
        metrics: Metrics,
        reporter: Reporter,
        signals: StopSignals,
        team: Team | None = None,
    ) -> None:
        """
        Args:
            team: the ranks that this one leads.
        """
        self.config, self.family, self.state, self.batches = config, family, state, batches
        self.gradients, self._team = gradients, team
        self.saver, self.judge, self.metrics, self.reporter, self.signals = saver, judge, metrics, reporter, signals
        self._layout = saver.making.run.layout
        self._resumed_from = None if saver.last is None else saver.last.number
        self.rate = Rate()
        self._is_asked_elsewhere = False  # to stop, of another machine
        self._is_under_way = False  # after the first step, which takes longest
        self._told_at = 0.0
        self._asked = Asked(self._layout, self._save_as_asked, lambda: self.saver.due.last_step == self.state.step)

    def run(self) -> Reason:
        """Train until the last step or a request to stop; returns the reason: final, early where the benefit rises no
        more, signal, asked, or rescue where the keeper died.

        Everything up to the last whole step is in a version when this returns.
        Raises: NotCommitted if the last version could not be written; DataUnreadable; NotFinite if loss, gradients or
        weights are no numbers any more.
        """
        try:
            return self._until_the_end()
        except DataUnreadable:
            self._save_last(Reason.RESCUE)
            raise
        except RankLost:
            if self.gradients.is_whole:
                self.saver.take_over()
            raise
        except KeeperGone:
            self.reporter.say("The keeper is gone: saving without it, then ending.")
            self.saver.go_alone()
            self._tell("stopped")
            return Reason.RESCUE

    def _until_the_end(self) -> Reason:
        reason: Reason | None = None
        self.rate.start(self.state.images_seen)
        while self.state.step < self.config.optim.max_steps and reason is None:
            # One waits for data, or another machine is asked to stop: the state is that of the last whole step.
            with contextlib.suppress(StopAsked):
                self.advance()
            reason = self.asked_to_stop()
        self._save_last(reason or Reason.FINAL)
        return reason or Reason.FINAL

    def _save_last(self, reason: Reason) -> None:
        with self.reporter.during("Writing the last version"):
            if self.saver.due.last_step != self.state.step:
                self._save(reason)
            self.saver.finish()
        self._tell("complete" if reason in COMPLETE else "stopped")

    def advance(self) -> None:
        """One step, with all that goes with it: the version or snapshot that may be due, and the news."""
        self._step()
        self._hear()
        if self.saver.is_due(self.state.step):
            self._save(Reason.INTERVAL)
        else:
            self.saver.snapshot()
        self._tell()

    # --- one optimizer step --------------------------------------------------------------------------------

    def _step(self) -> None:
        """Raises: StopAsked, DataUnreadable before anything is changed."""
        if self._team is not None:
            self._agree(self._team)
        if self._is_under_way:
            self.metrics.add(take_step(self.config.optim, self.gradients, self.state, self.batches))
            return
        with self.reporter.during(f"{'Compiling, and ' if self.config.compute.compile else ''}the first step"):
            self.metrics.add(take_step(self.config.optim, self.gradients, self.state, self.batches))
        self._is_under_way = True

    def _agree(self, team: Team) -> None:
        """All ranks have their part of the batch, and take the step; or none does."""
        self.batches.prepare()
        trouble = team.order(Order.STEP).trouble
        if trouble in (Trouble.STOPPED, Trouble.ASKED):
            self._is_asked_elsewhere |= trouble is Trouble.ASKED
            raise StopAsked
        if trouble is Trouble.UNREADABLE:
            raise DataUnreadable("Another rank cannot read its data any more. Training ends here, and can be resumed.")

    # --- versions, progress, stopping ----------------------------------------------------------------------

    def _hear(self) -> None:
        """What the keeper has done, and what it asks."""
        self._asked.by_keeper(self.saver.hear())
        if self._asked.signal is not None:
            self.signals.ask(self._asked.signal)

    def _save(self, reason: Reason) -> None:
        """Make a version. A disk that refuses it costs the version, not the training, unless it is the last."""
        with self.rate.paused():
            try:
                self.saver.save(reason)
            except NotCommitted as error:
                if reason is not Reason.INTERVAL:
                    raise
                self.reporter.say(str(error))

    def _save_as_asked(self, label: str | None) -> str | None:
        """Make a version that somebody asked for. Returns why the disk refuses it; training goes on."""
        with self.rate.paused():
            try:
                self.saver.save(Reason.ASKED, label, may_wait=False)
            except NotCommitted as error:
                self.reporter.say(str(error))
                return str(error)
        return None

    def asked_to_stop(self) -> Reason | None:
        """The reason to stop after this step, or None to go on. What else was asked is done."""
        asked = self._asked.to_stop()
        if self.signals.received is not None:
            return Reason.SIGNAL
        asked = Reason.ASKED if self._is_asked_elsewhere else asked
        return asked or (Reason.EARLY if self.judge.is_worn_out else None)

    def _tell(self, state: str = "running") -> None:
        """Let the line, the live file and the records know; at most twice a second."""
        now = time.monotonic()
        if now - self._told_at < TELL_PERIOD_S and state == "running":
            return
        self._told_at = now
        self.metrics.flush()
        progress = self._progress(now)
        self.reporter.show(progress, now)
        if progress.images_per_second is not None:
            self.metrics.rate(progress.images_per_second, progress.step)
        self._tell_others(progress, state)

    def _tell_others(self, progress: Progress, state: str) -> None:
        """Write the live file that `everstep status` reads."""
        snapshots = self.saver.snapshots
        write_live(
            self._layout,
            LiveStatus.now(
                state=state,
                step=progress.step,
                max_steps=progress.max_steps,
                images_seen=progress.images_seen,
                images_per_second=progress.images_per_second,
                loss=progress.loss,
                last_version=progress.last_version,
                next_version_step=progress.next_version_step,
                resumed_from=self._resumed_from,
                snapshot_step=None if snapshots is None else snapshots.sealed_step,
                **self.saver.clock.told(self.saver.due.saved_at),
            ),
        )

    def _progress(self, now: float) -> Progress:
        state, optim = self.state, self.config.optim
        images_per_second = self.rate.images_per_second(state.images_seen)
        left = (optim.max_steps - state.step) * optim.images_per_step
        return Progress(
            step=state.step,
            max_steps=optim.max_steps,
            images_seen=state.images_seen,
            loss=self.metrics.smoothed_loss,
            images_per_second=images_per_second,
            seconds_left=left / images_per_second if images_per_second else None,
            last_version=self.saver.last.name if self.saver.last else None,
            last_version_age_s=now - self.saver.committed_at,
            next_version_step=next_step(state.step, self.saver.making),
            next_version_in_s=self.saver.clock.left_s(self.saver.due.saved_at),
            control_gain=self.judge.verdict.gain,
        )
