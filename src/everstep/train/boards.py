"""Where curves and pictures are shown: TensorBoard always, Weights & Biases where a project is set.

What a board cannot show is dropped; it never ends a training, and is tried again.
"""

import contextlib
import threading
from collections.abc import Callable, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol

import xxhash

from everstep.config.schema import Tracking
from everstep.contracts import Report
from everstep.errors import UserError
from everstep.telling import Told
from everstep.train.events import EventFile
from everstep.versions.layout import identity_of

RETRY_S = 30.0
LEAVE_S = 5.0  # what a board that failed gets to close


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


class Guarded:
    """A board that may fail: what it cannot show is dropped, which is said once, and it is opened again later."""

    def __init__(self, name: str, open_: Callable[[], Board], report: Report) -> None:
        self._open = open_
        self._board: Board | None = None
        self._told = Told(name, report, RETRY_S)
        self._do(lambda board: None)  # what is wrong from the start is said at the start

    def numbers(self, values: Mapping[str, float], step: int) -> None:
        self._do(lambda board: board.numbers(values, step))

    def picture(self, tag: str, pixels_HWC: Any, step: int) -> None:
        self._do(lambda board: board.picture(tag, pixels_HWC, step))

    def close(self) -> None:
        board, self._board = self._board, None
        if board is not None:
            self._told.attempt(board.close)

    def _do(self, act: Callable[[Board], None]) -> None:
        if not self._told.attempt(lambda: act(self._there())):
            self._let_go()

    def _there(self) -> Board:
        if self._board is None:
            self._board = self._open()
        return self._board

    def _let_go(self) -> None:
        """Close what failed, beside: where a board's server is dead, closing it may wait for ever."""
        board, self._board = self._board, None
        if board is None:
            return

        def close() -> None:
            with contextlib.suppress(Exception):
                board.close()

        closing = threading.Thread(target=close, name="everstep-board", daemon=True)
        closing.start()
        closing.join(LEAVE_S)


def tensorboard(records: Path, report: Report) -> Board:
    """Event files under records/tensorboard; one for each training, which goes on after a failure."""
    events = EventFile(records / "tensorboard")
    return Guarded("TensorBoard", lambda: events, report)


def weights_and_biases(run: Path, project: str, settings: Mapping[str, Any], report: Report) -> Board:
    """One W&B run for one run of ours, however often it is resumed; steps are the x axis."""
    return Guarded("Weights & Biases", lambda: WeightsAndBiases(run, project, settings), report)


class WeightsAndBiases:
    """What wandb raises is raised."""

    def __init__(self, run: Path, project: str, settings: Mapping[str, Any]) -> None:
        import wandb

        self._run = wandb.init(
            project=project,
            name=run.name,
            id=identity_of(run) or xxhash.xxh3_64_hexdigest(str(run).encode()),
            resume="allow",
            reinit="create_new",  # one that failed is not to be had again
            dir=str(run / "records"),
            config=dict(settings),
            settings=wandb.Settings(silent=True),
        )
        self._run.define_metric("*", step_metric="step")
        self._image = wandb.Image

    def numbers(self, values: Mapping[str, float], step: int) -> None:
        self._run.log({**values, "step": step})

    def picture(self, tag: str, pixels_HWC: Any, step: int) -> None:
        self._run.log({tag: self._image(pixels_HWC), "step": step})

    def close(self) -> None:
        self._run.finish()
