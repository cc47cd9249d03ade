"""What each step measured: records/metrics.jsonl, one line a step, and the same on the boards.

Values stay on the device until they are wanted, so that a step never waits for its own loss. Lines that the disk does
not take wait in memory; no disk ends a training here.
"""

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from everstep.contracts import Report
from everstep.errors import FirstNotFinite, NotFinite, NothingTrained
from everstep.records.steps import FILE, read_metrics
from everstep.telling import why
from everstep.train.appended import AppendedFile, WaitingLines
from everstep.train.boards import Board
from everstep.versions import Version, fsops

SMOOTHING_STEPS = 50
# At the start a few steps are skipped, until the scale has come down from 65,536; so many halve it to nothing.
MOST_SKIPPED_STEPS = 50


@dataclass(frozen=True, slots=True)
class Measured:
    """One finished step whose loss may still be on its way."""

    step: int
    images_seen: int
    first_example: int
    learning_rate: float
    loss: Tensor
    grad_norm: Tensor | None = None  # before it was clipped; None where gradients are not clipped
    loss_scales: Tensor | None = None  # [2] in fp16: what the loss was scaled by, and will be in the next step

    @property
    def values(self) -> tuple[Tensor | None, ...]:
        """All that may still be on the device."""
        scales = (None, None) if self.loss_scales is None else self.loss_scales.unbind()
        return (self.loss, self.grad_norm, *scales)


class Metrics:
    """Appends every step to the records; on a resume the lines after the resumed step are dropped first."""

    def __init__(
        self,
        records: Path,
        resumed_step: int,
        report: Report,
        scales_losses: bool = False,
        boards: Sequence[Board] = (),
    ) -> None:
        """
        Args:
            scales_losses: gradients may overflow now and then (fp16); the step is skipped then, and all is well.
        """
        path = records / FILE
        kept = _keep_until(path, resumed_step, report)
        self.smoothed_loss: float | None = None
        self._skipped = 0  # last steps in a row that changed nothing, as their gradients were no numbers
        for line in kept:
            self.smoothed_loss = _smooth(self.smoothed_loss, line["loss"])
            self._skipped = self._skipped + 1 if line.get("is_skipped") else 0
        self._lines = WaitingLines(AppendedFile(path, _whole_bytes(path)), f"{records.name}/{FILE}", report)
        self._boards = boards
        self._pending: list[Measured] = []
        self._scales_losses = scales_losses

    def add(self, measured: Measured) -> None:
        self._pending.append(measured)

    def flush(self) -> None:
        """Write all pending steps. Raises: NotFinite naming the first step whose loss or gradients are no numbers, or
        the steps that were all skipped for it.
        """
        try:
            self._note_pending()
        finally:  # the line of the sick step, too, and whatever a disk refused before
            self._lines.write()

    def _note_pending(self) -> None:
        if not self._pending:
            return
        pending, self._pending = self._pending, []
        numbers = _numbers([value for measured in pending for value in measured.values])
        for measured in pending:
            loss, norm, scale, next_scale = (next(numbers) for _ in measured.values)
            assert loss is not None
            self._note(measured, loss, norm, scale, next_scale)
            if not math.isfinite(loss):
                raise _not_finite(f"The loss is {loss}", measured)
            if norm is not None and not math.isfinite(norm) and not self._scales_losses:
                raise _not_finite(f"The gradients' norm is {norm}", measured)
            if self._skipped >= MOST_SKIPPED_STEPS:
                raise _nothing_trained(measured, self._skipped, next_scale)

    def _note(
        self, measured: Measured, loss: float, norm: float | None, scale: float | None, next_scale: float | None
    ) -> None:
        line = {
            "step": measured.step,
            "images_seen": measured.images_seen,
            "first_example": measured.first_example,
            "learning_rate": measured.learning_rate,
            "loss": loss,
            "grad_norm": norm,
        }
        shown = {"loss": loss, "learning_rate": measured.learning_rate}
        shown |= {} if norm is None else {"grad_norm": norm}
        if scale is not None and next_scale is not None:
            is_skipped = next_scale < scale or next_scale == 0  # it is halved by a step that overflows, and by no other
            self._skipped = self._skipped + 1 if is_skipped else 0
            line |= {"loss_scale": scale, "is_skipped": is_skipped}
            shown["loss_scale"] = scale
        self._lines.add(json.dumps(line))
        self._show(shown, measured.step)
        self.smoothed_loss = _smooth(self.smoothed_loss, loss)

    def rate(self, images_per_second: float, step: int) -> None:
        self._show({"images_per_second": images_per_second}, step)

    def scores(self, values: Mapping[str, float], step: int) -> None:
        """What a version is worth."""
        self._show({f"scores/{name}": value for name, value in values.items()}, step)

    def picture(self, tag: str, pixels_HWC: Any, step: int) -> None:
        for board in self._boards:
            board.picture(tag, pixels_HWC, step)

    def version(self, version: Version) -> None:
        for board in self._boards:
            board.version(version)

    def _show(self, values: Mapping[str, float], step: int) -> None:
        for board in self._boards:
            board.numbers(values, step)

    def close(self) -> None:
        self._lines.close()
        for board in self._boards:
            board.close()


def _numbers(values: list[Tensor | None]) -> Iterator[float | None]:
    """All on the host at once."""
    numbers = iter(torch.stack([value for value in values if value is not None]).tolist())
    return iter([None if value is None else next(numbers) for value in values])


def _nothing_trained(measured: Measured, skipped: int, scale: float | None) -> NotFinite:
    return NothingTrained(
        f"Nothing is trained in fp16: the gradients of steps {measured.step - skipped + 1:,} to {measured.step:,} are "
        f"no numbers, though the loss was scaled down to {scale:g}, and each of these steps was skipped."
    )


def _not_finite(what: str, measured: Measured) -> NotFinite:
    kind = FirstNotFinite if measured.step == 1 else NotFinite
    return kind(
        f"{what} at step {measured.step:,} (examples {measured.first_example:,} to {measured.images_seen - 1:,}, "
        f"learning rate {measured.learning_rate:g})."
    )


def _keep_until(path: Path, step: int, report: Report) -> list[dict[str, Any]]:
    """Drop the lines after the resumed step, for whoever reads the file without `read_metrics`; returns the others.

    Crash: the old file or the new one, whole. A disk that refuses it leaves the old one, which is gone on with.
    """
    try:
        measured = read_metrics(path.parent)
    except OSError as error:
        report(f"{path} cannot be read ({why(error)}); what is measured is added to it all the same.")
        return []
    kept = [line for line in measured if line["step"] <= step]
    if len(kept) == len(measured):
        return kept
    try:
        fsops.replace_file(path, "".join(json.dumps(line) + "\n" for line in kept).encode())
    except OSError as error:
        report(
            f"{path} keeps its lines after step {step:,} ({why(error)}); of a step that comes again the later counts."
        )
    return kept


def _whole_bytes(path: Path) -> int | None:
    """How much of the file is whole lines; None where that cannot be told, or there is none."""
    try:
        return path.read_bytes().rfind(b"\n") + 1
    except OSError:
        return None


def _smooth(before: float | None, loss: float) -> float:
    return loss if before is None else before + (loss - before) / SMOOTHING_STEPS
