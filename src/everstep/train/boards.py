"""Where curves, pictures and versions are shown besides our own records: TensorBoard where it is installed, trackio and
Weights & Biases where a project is set.

What a board cannot show is dropped; it never ends a training, and is tried again.
"""

import contextlib
import threading
from collections.abc import Callable, Mapping
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol

import xxhash

from everstep.config.schema import Config, Tracking
from everstep.contracts import Report
from everstep.errors import UserError
from everstep.telling import Told
from everstep.versions import Version
from everstep.versions.layout import MANIFEST, identity_of

RETRY_S = 30.0
LEAVE_S = 5.0  # what a board that failed gets to close


class Board(Protocol):
    """One place where things are shown."""

    def numbers(self, values: Mapping[str, float], step: int) -> None: ...
    def picture(self, tag: str, pixels_HWC: Any, step: int) -> None: ...
    def version(self, version: Version) -> None: ...
    def close(self) -> None: ...


def check_tracking(tracking: Tracking) -> None:
    """Raises: UserError if what is asked for is not installed."""
    asked = {
        "tensorboard": tracking.tensorboard or None,
        "trackio": tracking.trackio,
        "wandb": tracking.wandb_project,
    }
    settings = {"wandb": "wandb_project"}
    for module, value in asked.items():
        if value is not None and find_spec(module) is None:
            raise UserError(
                f"tracking.{settings.get(module, module)} is {str(value).lower() if value is True else value}, but "
                f"{module} is not installed. Nothing was started. pip install 'everstep[{module}]'"
            )


def open_boards(run: Path, config: Config, report: Report) -> list[Board]:
    """All that the settings ask for."""
    tracking, settings, boards = config.tracking, config.model_dump(mode="json"), list[Board]()
    if tracking.tensorboard or (tracking.tensorboard is None and find_spec("tensorboard") is not None):
        boards.append(tensorboard(run / "records", report))
    if (project := tracking.trackio) is not None:
        boards.append(Guarded("trackio", partial(Trackio, run, project, settings), report))
    if (project := tracking.wandb_project) is not None:
        boards.append(Guarded("Weights & Biases", partial(WeightsAndBiases, run, project, settings), report))
    return boards


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

    def version(self, version: Version) -> None:
        self._do(lambda board: board.version(version))

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
    from everstep.train.events import EventFile

    events = EventFile(records / "tensorboard")
    return Guarded("TensorBoard", lambda: events, report)


class WeightsAndBiases:
    """One run of theirs for one of ours, however often it is resumed; steps are the x axis. What wandb raises is
    raised.
    """

    def __init__(self, run: Path, project: str, settings: Mapping[str, Any]) -> None:
        import wandb

        self._run = wandb.init(
            project=project,
            name=run.name,
            id=_identity(run),
            resume="allow",
            reinit="create_new",  # one that failed is not to be had again
            dir=str(run / "records"),
            config=dict(settings),
            settings=wandb.Settings(silent=True),
        )
        self._run.define_metric("*", step_metric="step")
        self._image, self._artifact = wandb.Image, wandb.Artifact

    def numbers(self, values: Mapping[str, float], step: int) -> None:
        self._run.log({**values, "step": step})

    def picture(self, tag: str, pixels_HWC: Any, step: int) -> None:
        self._run.log({tag: self._image(pixels_HWC), "step": step})

    def version(self, version: Version) -> None:
        artifact = self._artifact(f"everstep-{self._run.id}", type="model", metadata=_facts(version))
        artifact.add_reference(_manifest(version).as_uri())
        self._run.log_artifact(artifact, aliases=[version.name])

    def close(self) -> None:
        self._run.finish()


class Trackio:
    """The same in trackio's own folder, on this machine; where TRACKIO_SPACE_ID or TRACKIO_SERVER_URL say so, there."""

    def __init__(self, run: Path, project: str, settings: Mapping[str, Any]) -> None:
        import trackio
        import trackio.run
        import trackio.utils

        for module in (trackio, trackio.run, trackio.utils):  # else it prints among the lines of the training
            module.print = _silent
        self._trackio = trackio
        self._run = trackio.init(
            project=project,
            name=f"{run.name}-{_identity(run)[:8]}",  # by which it is known again
            resume="allow",
            config=dict(settings),
            embed=False,
            auto_log_gpu=False,
            auto_log_cpu=False,
        )

    def numbers(self, values: Mapping[str, float], step: int) -> None:
        self._run.log(dict(values), step=step)

    def picture(self, tag: str, pixels_HWC: Any, step: int) -> None:
        self._run.log({tag: self._trackio.Image(pixels_HWC)}, step=step)

    def version(self, version: Version) -> None:
        artifact = self._trackio.Artifact(self._run.name, type="model", metadata=_facts(version))
        artifact.add_reference(_manifest(version).as_uri(), name=f"{version.name}/{MANIFEST}")
        self._run.log_artifact(artifact, aliases=[version.name])

    def close(self) -> None:
        self._run.finish()


def _identity(run: Path) -> str:
    return identity_of(run) or xxhash.xxh3_64_hexdigest(str(run).encode())


def _manifest(version: Version) -> Path:
    """What is referred to for a version: it is small, and holds the digest of every file."""
    return version.path / MANIFEST


def _facts(version: Version) -> dict[str, Any]:
    return {
        "version": version.number,
        "step": version.step,
        "images_seen": version.images_seen,
        "reason": version.reason,
        "manifest_digest": version.manifest_digest,
        "folder": str(version.path),
        "size_bytes": version.size_bytes,
    }


def _silent(*words: object, **more: object) -> None:
    """A print that prints nothing."""
