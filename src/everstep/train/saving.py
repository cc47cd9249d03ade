"""From the live state to versions: when they are due, what goes into them, and snapshots between.

The one place where training meets the store while it runs. With a keeper, versions are copies in memory that the
keeper writes while training goes on; without, they are written here while it waits.
"""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from everstep.config import Config, dump
from everstep.contracts import Draft, ParentRef, Reason
from everstep.errors import NotCommitted
from everstep.keeping.channel import Channel, Gone
from everstep.models.files import HPARAMS
from everstep.train.judging import Judge, Judged
from everstep.train.metrics import Metrics
from everstep.train.progress import Progress, Reporter
from everstep.train.retiring import retiring
from everstep.train.snapshots import Snapshots
from everstep.train.state import TrainState
from everstep.units import duration
from everstep.versions import (
    LiveStatus,
    Request,
    Run,
    Version,
    clear_requests,
    read_requests,
    write_annotation,
    write_live,
)


@dataclass(slots=True)
class Pending:
    """A version that the keeper has been given and has not committed yet."""

    step: int
    label: str | None
    loss: float | None
    judged: Judged | None = None


class KeeperGone(Exception):
    """The keeper died; what it held has to be saved by the trainer itself."""


class Saver:
    """Makes the versions of one training, and has each of them judged."""

    def __init__(
        self,
        run: Run,
        config: Config,
        facts: Mapping[str, Any],
        judge: Judge,
        reporter: Reporter,
        last: Version | None,
        parent: ParentRef | None,
        snapshots: Snapshots | None = None,
        channel: Channel | None = None,
    ) -> None:
        self.run, self.config, self.facts, self.judge = run, config, facts, judge
        self.reporter, self.last, self._parent = reporter, last, parent
        self.snapshots, self._channel, self._pending = snapshots, channel, list[Pending]()
        self.saved_at = time.monotonic()
        self.last_step = None if last is None else last.step  # of the newest version, made or on its way
        self._resumed_from = None if last is None else last.number
        self._hparams = dump(config).encode()

    # --- when ----------------------------------------------------------------------------------------------

    def is_due(self, step: int) -> bool:
        """Whether a version is to be made after this step; a disk that is far behind puts it off."""
        if step == self.last_step or (self.snapshots is not None and self.snapshots.is_full):
            return False
        every = self.config.versions.every
        if every.steps is not None and step // every.steps > (self.last_step or 0) // every.steps:
            return True
        return every.seconds is not None and time.monotonic() - self.saved_at >= every.seconds

    def next_step(self, step: int, max_steps: int) -> int | None:
        """The step of the next version where that can be told; time alone cannot."""
        every = self.config.versions.every
        return None if every.steps is None else min((step // every.steps + 1) * every.steps, max_steps)

    # --- making versions -----------------------------------------------------------------------------------

    def save(self, state: TrainState, reason: Reason, metrics: Metrics | None = None, label: str | None = None) -> None:
        """Make the state the next version, and judge it. Returns when it is committed, or, for one that is made
        at an interval under a keeper, when its copy is.

        Raises: NotCommitted if the disk refuses it; NotFinite if the weights are no numbers. Older versions are whole.
        """
        pending = Pending(state.step, label, metrics.smoothed_loss if metrics else None)
        if self.snapshots is None:
            self._commit_here(state, reason, pending, metrics)
            return
        self.snapshots.take(self._draft(state, reason), claimed=True, label=label)
        self._pending.append(pending)
        self.last_step, self.saved_at = state.step, time.monotonic()
        if reason is not Reason.INTERVAL:
            self._await(metrics)
            self._judge(state, pending)
            self._file(pending, metrics)
        else:
            self._judge(state, pending)

    def _commit_here(self, state: TrainState, reason: Reason, pending: Pending, metrics: Metrics | None) -> None:
        began = time.monotonic()
        state.check_finite()
        version = self.run.commit(self._draft(state, reason))
        self.last_step, self.saved_at = state.step, time.monotonic()
        seconds = time.monotonic() - began
        self._committed(version, seconds, pending, retiring(self.config.keep, self._resumed_from)(self.run))
        self._judge(state, pending)
        self._file(pending, metrics)

    def snapshot(self, state: TrainState, metrics: Metrics) -> None:
        """Copy the state into memory that outlives this process, where that is due. Raises: NotFinite."""
        if self.snapshots is not None and self.snapshots.is_due(state.step):
            metrics.flush()
            self.snapshots.take(self._draft(state, Reason.RESCUE), claimed=False)

    def _draft(self, state: TrainState, reason: Reason) -> Draft:
        return Draft(
            step=state.step,
            images_seen=state.images_seen,
            reason=reason,
            parent=self._parent,
            tensor_files=state.tensor_files() if self.snapshots is None else (),
            small_files={HPARAMS: self._hparams, **state.small_files()},
            facts=self.facts,
        )

    # --- what the keeper says ------------------------------------------------------------------------------

    def hear(self, metrics: Metrics | None, step: int) -> None:
        """Note what the keeper has done since. Raises: KeeperGone, NotCommitted, NotFinite."""
        if self.snapshots is None or self._channel is None:
            return
        self.snapshots.beat(step)
        if self.snapshots.fault is not None:
            raise self.snapshots.fault
        try:
            while self._channel.is_waiting():
                committed = self._understand(self._channel.receive(), waits=False)
                if committed is not None:
                    self._file(committed, metrics)
        except Gone:
            raise KeeperGone from None

    def _understand(self, message: dict[str, Any], waits: bool) -> Pending | None:
        """Returns what was committed, if that is what the message says. Raises: NotCommitted."""
        if message["kind"] == "committed":
            pending = self._pending.pop(0)
            self._committed(self.run.version(message["number"]), message["seconds"], pending, message["retired"])
            return pending
        if message["kind"] == "refused":
            self._refused(message, waits)
        elif message["kind"] == "give_up":
            raise NotCommitted(f"The disk has refused every version for {duration(message['after_s'])}.")
        return None

    def _refused(self, message: dict[str, Any], waits: bool) -> None:
        is_tried_again, has_time = message["is_tried_again"], self.config.keeper.unattended_minutes is not None
        if not is_tried_again:
            self._pending.pop(0)
            self.reporter.say(f"A version was refused: it {message['why']}.")
            return
        if waits and not has_time and not self.reporter.console.is_terminal:
            raise NotCommitted(message["why"])
        doing = "waiting" if waits else "training goes on"
        self.reporter.say(f"{message['why']} It is tried again every {message['retry_s']:g} s; {doing}.")

    def _await(self, metrics: Metrics | None) -> None:
        """Until all that was handed over is committed, or refused for good; the pictures of the last are left."""
        assert self.snapshots is not None
        assert self._channel is not None
        while self._pending:
            if self.snapshots.fault is not None:
                raise self.snapshots.fault
            try:
                if self._channel.is_waiting(0.2):
                    committed = self._understand(self._channel.receive(), waits=True)
                    if committed is not None and self._pending:
                        self._file(committed, metrics)
            except Gone:
                raise KeeperGone from None
            self.snapshots.beat(self.last_step or 0)

    def finish(self, metrics: Metrics | None) -> None:
        """Everything that is on its way is committed. Raises: NotCommitted."""
        last = self._pending[-1:]
        if last:
            self._await(metrics)
            self._file(last[0], metrics)

    def go_alone(self, state: TrainState, metrics: Metrics) -> None:
        """The keeper is gone: save here what it can no longer save. Raises: UserError if another holds the run now."""
        snapshots, self.snapshots, self._pending = self.snapshots, None, []
        assert snapshots is not None
        with self.run.lock("a trainer whose keeper died"):
            versions = self.run.versions()
            self.last = versions[-1] if versions else None
            if self.last is not None:
                self._parent = ParentRef(self.run.name, self.last.number, self.last.manifest_digest)
            if self.last is None or self.last.step != state.step:
                self.facts = {**self.facts, **snapshots.facts}
                self.save(state, Reason.RESCUE, metrics)
            snapshots.release()

    def _committed(self, version: Version, seconds: float, pending: Pending, retired: str) -> None:
        self.last = version
        self._parent = ParentRef(self.run.name, version.number, version.manifest_digest)
        megabytes = version.size_bytes / 1e6
        self.reporter.say(
            f"{version.name}: step {version.step:,}, {version.images_seen:,} images, {megabytes:,.1f} MB in "
            f"{seconds:.1f} s -> {version.path}"
        )
        if retired:
            self.reporter.say(f"  {retired}")
        notes: dict[str, Any] = {} if pending.loss is None else {"scores": {"loss": pending.loss}}
        if pending.label is not None:
            notes["labels"] = (pending.label,)
        if notes:
            write_annotation(self.run.layout, version.number, **notes)

    def _judge(self, state: TrainState, pending: Pending) -> None:
        """Measure the state as it is now, while the version is written."""
        pending.judged = self.judge.measure(state, pending.loss)

    def _file(self, pending: Pending, metrics: Metrics | None) -> None:
        """Note what was measured under the last version, which is the one that it was measured of."""
        if pending.judged is not None and self.last is not None:
            self.judge.file(self.last, pending.judged, metrics)

    # --- what other shells see and ask ---------------------------------------------------------------------

    def requests(self) -> list[Request]:
        """What was asked of this training and not done yet."""
        return read_requests(self.run.layout)

    def done(self, request: Request) -> None:
        clear_requests(self.run.layout, request.kind)

    def tell(self, progress: Progress, state: str) -> None:
        """Write the live file that `everstep status` reads."""
        write_live(
            self.run.layout,
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
                snapshot_step=None if self.snapshots is None else self.snapshots.sealed_step,
            ),
        )
