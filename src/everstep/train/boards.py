"""Where curves and pictures are shown: TensorBoard always, Weights & Biases where a project is set.

A board that fails is left out from then on, said once, and never ends a training.
"""

from collections.abc import Callable, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol

import xxhash

from everstep.config.schema import Tracking
from everstep.contracts import Report
from everstep.errors import UserError
from everstep.versions.layout import identity_of


class Board(Protocol):
    """One place where things are shown."""

    def numbers(self, values: Mapping[str, float], step: int) -> None: ...
    def picture(self, tag: str, pixels_HWC: Any, step: int) -> None: ...
    def close(self) -> None: ...


def check_tracking(tracking: Tracking) -> None:
    """Raises: UserError if what is asked for is not installed."""
    if tracking.wandb_project is not None and find_spec("wandb") is None:
        raise UserError(
            f"tracking.wandb_project is {tracking.wandb_project}, but wandb is not installed. Nothing was started. "
            "pip install 'everstep[wandb]'"
        )


class TensorBoard:
    """Event files under records/tensorboard."""

    def __init__(self, records: Path, resumed_step: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._writer = SummaryWriter(str(records / "tensorboard"), purge_step=resumed_step + 1)

    def numbers(self, values: Mapping[str, float], step: int) -> None:
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)

    def picture(self, tag: str, pixels_HWC: Any, step: int) -> None:
        self._writer.add_image(tag, pixels_HWC, step, dataformats="HWC")

    def close(self) -> None:
        self._writer.close()


class WeightsAndBiases:
    """One W&B run for one run of ours, however often it is resumed; steps are the x axis."""

    def __init__(self, run: Path, project: str, settings: Mapping[str, Any], report: Report) -> None:
        self._report = report
        self._run: Any = None
        self._try(lambda: self._open(run, project, settings))

    def _open(self, run: Path, project: str, settings: Mapping[str, Any]) -> None:
        import wandb

        opened = wandb.init(
            project=project,
            name=run.name,
            id=identity_of(run) or xxhash.xxh3_64_hexdigest(str(run).encode()),
            resume="allow",
            dir=str(run / "records"),
            config=dict(settings),
            settings=wandb.Settings(silent=True),
        )
        opened.define_metric("*", step_metric="step")
        self._run, self._image = opened, wandb.Image

    def numbers(self, values: Mapping[str, float], step: int) -> None:
        if self._run is not None:
            self._try(lambda: self._run.log({**values, "step": step}))

    def picture(self, tag: str, pixels_HWC: Any, step: int) -> None:
        if self._run is not None:
            self._try(lambda: self._run.log({tag: self._image(pixels_HWC), "step": step}))

    def close(self) -> None:
        if self._run is not None:
            self._try(lambda: self._run.finish())

    def _try(self, act: Callable[[], object]) -> None:
        try:
            act()
        except Exception as error:  # whatever it raises, training is worth more
            self._run = None
            self._report(f"Weights & Biases failed ({' '.join(str(error).split())}); training goes on without it.")
