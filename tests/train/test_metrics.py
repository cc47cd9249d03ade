"""Measured steps reach the disk once it takes them, and what is read back is one line of steps."""

import json
import math
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from disks import fill, remount, small_disk
from everstep.errors import NotFinite
from everstep.records.steps import read_metrics
from everstep.train.boards import tensorboard
from everstep.train.metrics import Measured, Metrics


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    with small_disk(tmp_path / "disk", "size=1m") as folder:
        yield folder


def measured(step: int, loss: float = 0.5) -> Measured:
    return Measured(step, 4 * step, 4 * step - 4, 1e-4, torch.tensor(loss))


def measure(metrics: Metrics, *steps: int) -> None:
    for step in steps:
        metrics.add(measured(step, loss=step / 100))
    metrics.flush()


def steps(records: Path) -> list[int]:
    return [line["step"] for line in read_metrics(records)]


def test_steps_measured_while_the_disk_is_full_are_written_at_the_end(disk: Path) -> None:
    said: list[str] = []
    metrics = Metrics(disk, 0, said.append)
    measure(metrics, 1)
    fill(disk)
    for step in range(2, 400):
        measure(metrics, step)
    (disk / "ballast").unlink()
    metrics.close()
    assert steps(disk) == list(range(1, 400))
    assert (disk / "metrics.jsonl").read_bytes().count(b"\n") == 399
    assert len(said) == 2


def test_a_loss_that_is_no_number_is_found_without_a_disk(disk: Path) -> None:
    metrics = Metrics(disk, 0, lambda sentence: None)
    fill(disk)
    metrics.add(measured(1))
    metrics.add(measured(2, math.nan))
    with pytest.raises(NotFinite, match="loss is nan at step 2"):
        metrics.flush()


def test_a_resume_drops_what_came_after_and_half_a_line(tmp_path: Path) -> None:
    first = Metrics(tmp_path, 0, print)
    measure(first, *range(1, 10))
    first.close()
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 10, "lo')
    second = Metrics(tmp_path, 6, print)
    assert steps(tmp_path) == [1, 2, 3, 4, 5, 6]
    measure(second, 7)
    second.close()
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == [1, 2, 3, 4, 5, 6, 7]


def test_a_resume_whose_disk_is_full_goes_on_below_and_the_later_line_counts(disk: Path) -> None:
    first = Metrics(disk, 0, print)
    measure(first, *range(1, 101))
    first.close()
    fill(disk)
    said: list[str] = []
    second = Metrics(disk, 50, said.append)
    assert "keeps its lines after step 50 ([Errno 28]" in said[0]
    (disk / "ballast").unlink()
    for step in range(51, 60):
        second.add(measured(step, loss=9.0))
    second.flush()
    second.close()
    assert steps(disk) == list(range(1, 60))
    assert [line["loss"] for line in read_metrics(disk)[49:51]] == [0.5, 9.0]
    assert not list(disk.glob(".*"))  # nothing half written is left


def test_records_that_are_read_only_cost_no_start(disk: Path) -> None:
    said: list[str] = []
    remount(disk, "ro")
    metrics = Metrics(disk, 0, said.append, boards=[tensorboard(disk, said.append)])
    measure(metrics, 1, 2)
    metrics.close()
    assert [sentence.split(" failed")[0] for sentence in said[:2]] == ["TensorBoard", "Writing disk/metrics.jsonl"]


def test_tensorboard_on_a_full_disk_hangs_nothing_and_shows_what_came_before_and_after(
    disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    monkeypatch.setattr("everstep.train.boards.RETRY_S", 0.0)
    monkeypatch.setattr("everstep.telling.DEAR", 0)
    said: list[str] = []
    board = tensorboard(disk, said.append)
    board.numbers({"loss": 1.0, "rate": 2.0}, 1)
    fill(disk)
    for step in range(2, 400):
        board.numbers({"loss": 1.0}, step)
    (disk / "ballast").unlink()
    for step in range(400, 403):
        board.numbers({"loss": 1.0}, step)
    fill(disk)
    for step in range(403, 1000):
        board.numbers({"loss": 1.0}, step)
    board.close()
    events = EventAccumulator(str(disk / "tensorboard"))
    events.Reload()
    shown = [event.step for event in events.Scalars("loss")]
    assert shown[0] == 1
    assert set(shown) >= {400, 401, 402}
    assert shown == sorted(set(shown))
    assert [sentence.split(" (")[0] for sentence in said] == [
        "TensorBoard failed",
        "TensorBoard: works again.",
        "TensorBoard failed",
    ]
