"""A curve of a long training is thinned, and says what the whole file says."""

import json
import math
from pathlib import Path

import pytest

from everstep.watching.curves import MOST_POINTS, loss_curve


def write(folder: Path, steps: list[int]) -> Path:
    lines = [{"step": n, "images_seen": 4 * n, "first_example": 0, "loss": 1 / n, "learning_rate": 1e-5} for n in steps]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


@pytest.mark.parametrize("steps", [1, 7, MOST_POINTS, 5000, 100_000])
def test_as_many_points_as_are_shown_and_each_near_the_losses_around_it(tmp_path: Path, steps: int) -> None:
    curve = loss_curve(write(tmp_path, list(range(1, steps + 1))))
    assert 0 < len(curve["step"]) <= MOST_POINTS
    assert len({len(column) for column in curve.values()}) == 1
    assert curve["step"] == sorted(set(curve["step"]))
    assert curve["step"][-1] > 0.998 * steps
    assert curve["images_seen"] == [4 * step for step in curve["step"]]
    around = zip(curve["step"], curve["loss"], curve["lowest"], curve["highest"], strict=True)
    for step, loss, lowest, highest in around:
        assert lowest <= loss <= highest
        assert math.isclose(lowest, 1 / step)


@pytest.mark.parametrize(("first", "back"), [(50, 20), (60_000, 20_000)])
def test_what_was_trained_before_a_step_came_again_does_not_count(tmp_path: Path, first: int, back: int) -> None:
    steps = [*range(1, first + 1), *range(back, first + first // 2)]
    curve = loss_curve(write(tmp_path, steps))
    assert curve["step"] == sorted(set(curve["step"]))
    assert curve["step"][-1] >= 0.99 * (first + first // 2 - 1)
    assert any(abs(step - back) < first / 20 for step in curve["step"])


def test_lines_that_say_nothing_are_passed_over(tmp_path: Path) -> None:
    write(tmp_path, [1, 2, 3])
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 4, "images_seen": 16, "loss": NaN}\n{"step": 5}\nnull\n[]\n{"step": 6, "ima')
    assert loss_curve(tmp_path)["step"] == [1, 2, 3]


def test_no_file_is_no_curve(tmp_path: Path) -> None:
    assert loss_curve(tmp_path)["step"] == []
    (tmp_path / "metrics.jsonl").mkdir()
    assert loss_curve(tmp_path)["loss"] == []
