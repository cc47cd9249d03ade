"""What each step measured: records/metrics.jsonl, one line a step, and the same on the boards.

Values stay on the device until they are wanted, so that a step never waits for its own loss.
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from everstep.errors import NotFinite
from everstep.train.boards import Board

FILE = "metrics.jsonl"
SMOOTHING_STEPS = 50


@dataclass(frozen=True, slots=True)
class Measured:
    """One finished step whose loss may still be on its way."""

    step: int
    images_seen: int
    first_example: int
    learning_rate: float
    loss: Tensor
    grad_norm: Tensor | None = None  # before it was clipped; None where gradients are not clipped


class Metrics:
    """Appends every step to the records; on a resume the lines after the resumed step are dropped first."""

    def __init__(
        self, records: Path, resumed_step: int, scales_losses: bool = False, boards: Sequence[Board] = ()
    ) -> None:
        """
        Args:
            scales_losses: gradients may overflow now and then (fp16); the step is skipped then, and all is well.
        """
        self._path = records / FILE
        self.smoothed_loss = _keep_until(self._path, resumed_step)
        self._file = self._path.open("a", encoding="utf-8")
        self._boards = boards
        self._pending: list[Measured] = []
        self._scales_losses = scales_losses

    def add(self, measured: Measured) -> None:
        self._pending.append(measured)

    def flush(self) -> None:
        """Write all pending steps. Raises: NotFinite naming the first step whose loss or gradients are no numbers."""
        if not self._pending:
            return
        losses = torch.stack([measured.loss for measured in self._pending]).tolist()
        norms = _numbers([measured.grad_norm for measured in self._pending])
        pending, self._pending = self._pending, []
        for measured, loss, norm in zip(pending, losses, norms, strict=True):
            self._write(measured, loss, norm)
            if not math.isfinite(loss):
                raise _not_finite(f"The loss is {loss}", measured)
            if norm is not None and not math.isfinite(norm) and not self._scales_losses:
                raise _not_finite(f"The gradients' norm is {norm}", measured)
        self._file.flush()

    def _write(self, measured: Measured, loss: float, norm: float | None) -> None:
        line = {
            "step": measured.step,
            "images_seen": measured.images_seen,
            "first_example": measured.first_example,
            "learning_rate": measured.learning_rate,
            "loss": loss,
            "grad_norm": norm,
        }
        self._file.write(json.dumps(line) + "\n")
        shown = {"loss": loss, "learning_rate": measured.learning_rate}
        self._show(shown if norm is None else {**shown, "grad_norm": norm}, measured.step)
        self.smoothed_loss = _smooth(self.smoothed_loss, loss)

    def rate(self, images_per_second: float, step: int) -> None:
        self._show({"images_per_second": images_per_second}, step)

    def scores(self, values: Mapping[str, float], step: int) -> None:
        """What a version is worth."""
        self._show({f"scores/{name}": value for name, value in values.items()}, step)

    def picture(self, tag: str, pixels_HWC: Any, step: int) -> None:
        for board in self._boards:
            board.picture(tag, pixels_HWC, step)

    def _show(self, values: Mapping[str, float], step: int) -> None:
        for board in self._boards:
            board.numbers(values, step)

    def close(self) -> None:
        self._file.close()
        for board in self._boards:
            board.close()


def _numbers(values: list[Tensor | None]) -> list[float | None]:
    """All on the host at once."""
    there = [value for value in values if value is not None]
    numbers = iter(torch.stack(there).tolist() if there else [])
    return [None if value is None else next(numbers) for value in values]


def _not_finite(what: str, measured: Measured) -> NotFinite:
    return NotFinite(
        f"{what} at step {measured.step:,} (examples {measured.first_example:,} to {measured.images_seen - 1:,}, "
        f"learning rate {measured.learning_rate:g})."
    )


def read_metrics(records: Path) -> list[dict[str, Any]]:
    """All complete lines, in order; a line cut short by a crash is left out."""
    path = records / FILE
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    measured = []
    for line in lines:
        try:
            measured.append(json.loads(line))
        except ValueError:
            continue
    return measured


def _keep_until(path: Path, step: int) -> float | None:
    kept = [line for line in read_metrics(path.parent) if line["step"] <= step]
    beside = path.with_suffix(".jsonl.new")
    beside.write_text("".join(json.dumps(line) + "\n" for line in kept), encoding="utf-8")
    beside.replace(path)
    smoothed: float | None = None
    for line in kept:
        smoothed = _smooth(smoothed, line["loss"])
    return smoothed


def _smooth(before: float | None, loss: float) -> float:
    return loss if before is None else before + (loss - before) / SMOOTHING_STEPS
