"""From the live state to committed versions: when they are due, what goes into them, and their pictures.

The one place where training meets the store while it runs.
"""

import time
from collections.abc import Mapping
from typing import Any

import torch

from everstep.config import Config, dump
from everstep.contracts import Draft, ParentRef
from everstep.evaluation.samples import Shown, contact_sheet, draw
from everstep.models.sd import StableDiffusion
from everstep.train.metrics import Metrics
from everstep.train.progress import Progress, Reporter, duration
from everstep.train.state import HPARAMS, TrainState
from everstep.versions import LiveStatus, Run, Version, read_requests, write_annotation, write_live


class Saver:
    """Commits versions of one training and draws the contact sheet of each."""

    def __init__(
        self,
        run: Run,
        config: Config,
        family: StableDiffusion,
        facts: Mapping[str, Any],
        shown: list[Shown],
        reporter: Reporter,
        last: Version | None,
        parent: ParentRef | None,
    ) -> None:
        self.run, self.config, self.family, self.facts = run, config, family, facts
        self.shown, self.reporter, self.last, self._parent = shown, reporter, last, parent
        self.saved_at = time.monotonic()

    @property
    def last_step(self) -> int | None:
        return None if self.last is None else self.last.step

    def is_due(self, step: int) -> bool:
        every = self.config.versions.every
        if every.steps is not None and step % every.steps == 0:
            return step != self.last_step
        return every.seconds is not None and time.monotonic() - self.saved_at >= every.seconds

    def next_step(self, step: int, max_steps: int) -> int | None:
        """The step of the next version where that can be told; time alone cannot."""
        every = self.config.versions.every
        return None if every.steps is None else min((step // every.steps + 1) * every.steps, max_steps)

    def save(self, state: TrainState, reason: str, metrics: Metrics | None = None) -> Version:
        """Commit the state as the next version, then draw its pictures. Raises: NotCommitted; older ones are whole."""
        began = time.monotonic()
        version = self.run.commit(self._draft(state, reason))
        self.last, self.saved_at = version, time.monotonic()
        self._parent = ParentRef(self.run.name, version.number, version.manifest_digest)
        megabytes = version.size_bytes / 1e6
        self.reporter.say(
            f"{version.name}: step {version.step:,}, {version.images_seen:,} images, {megabytes:,.1f} MB in "
            f"{duration(time.monotonic() - began)} -> {version.path}"
        )
        if metrics is not None and metrics.smoothed_loss is not None:
            write_annotation(self.run.layout, version.number, scores={"loss": metrics.smoothed_loss})
        self._draw(state, version, metrics)
        return version

    def _draft(self, state: TrainState, reason: str) -> Draft:
        return Draft(
            step=state.step,
            images_seen=state.images_seen,
            reason=reason,
            parent=self._parent,
            tensor_files=state.tensor_files(),
            small_files={HPARAMS: dump(self.config).encode(), **state.small_files()},
            facts=self.facts,
        )

    def _draw(self, state: TrainState, version: Version, metrics: Metrics | None) -> None:
        """The contact sheet, under records/samples/. Whatever fails here is said, and training goes on."""
        if not self.shown:
            return
        try:
            self._draw_sheet(state, version, metrics)
        except Exception as error:  # a picture must never cost a training
            reason = " ".join(str(error).split()) or type(error).__name__
            self.reporter.say(f"{version.name}: its pictures could not be drawn ({reason}); training goes on.")
            if torch.cuda.is_available():
                torch.cuda.empty_cache()

    def _draw_sheet(self, state: TrainState, version: Version, metrics: Metrics | None) -> None:
        import numpy as np

        controlnet = state.controlnet
        if state.ema is None:
            drawn = draw(self.family, controlnet, self.shown, self.config.sampling)
        else:
            with state.ema.swapped_in():
                drawn = draw(self.family, controlnet, self.shown, self.config.sampling)
        title = f"{self.run.name} · {version.name} · step {version.step:,} · {version.images_seen:,} images"
        sheet = contact_sheet(title, self.shown, drawn)
        path = self.run.layout.samples / f"{version.name}.png"
        path.parent.mkdir(exist_ok=True)
        sheet.save(path)
        if metrics is not None:
            metrics.picture("samples", np.asarray(sheet), version.step)

    # --- what other shells see and ask ---------------------------------------------------------------------

    def is_stop_requested(self) -> bool:
        return any(request.kind == "stop" for request in read_requests(self.run.layout))

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
            ),
        )
