"""fp16 that trains nothing is found and ends; steps that are skipped while the scale comes down are not."""

import json
import math
from pathlib import Path

import pytest
import torch

from everstep.errors import NothingTrained
from everstep.records.steps import read_metrics
from everstep.train.metrics import MOST_SKIPPED_STEPS, Measured, Metrics
from everstep.versions import Run


class AlwaysOverflows:
    """One layer's gradients are infinite, whatever the loss is scaled by; from a step on."""

    def __init__(self, first_step: int = 1, last_step: int = 10_000) -> None:
        self.first_step, self.last_step = first_step, last_step

    def __call__(self) -> None:
        import everstep.train.session as session

        original = session.state_of

        def overflowing(*arguments):
            state, origin = original(*arguments)
            parameter = next(state.controlnet.parameters())

            def overflow(gradient):
                return gradient * math.inf if self.first_step <= state.step + 1 <= self.last_step else gradient

            parameter.register_hook(overflow)
            return state, origin

        session.state_of = overflowing


@pytest.fixture
def words(tiny_base: Path, pairs_folder: Path) -> tuple[object, ...]:
    return (
        *("train", "--run", "a", "--base", tiny_base, "--data", pairs_folder, "--compute.precision", "fp16"),
        *("--optim.batch-size", 1, "--sampling.pairs", 0, "--scoring.overhead", 0),
    )


@pytest.mark.fault("fp16 whose gradients overflow at every step")
def test_fp16_that_trains_nothing_ends_with_a_sentence_and_goes_on_in_bf16(start, everstep, words, workplace):
    program = start(*words, "--optim.max-steps", 400, "--versions.every", 1000, prepare=AlwaysOverflows(first_step=3))
    assert program.wait() == 5, program.output
    assert "Nothing is trained in fp16: the gradients of steps 3 to 52 are no numbers" in program.output
    assert "everstep resume " in program.output
    assert "--set compute.precision=bf16" in program.output
    assert "learning_rate" not in program.output
    run = Run.open(workplace / "runs/a")
    lines = read_metrics(run.layout.records)
    assert [line["is_skipped"] for line in lines[:52]] == [False] * 2 + [True] * 50
    assert lines[2]["loss_scale"] == 2 * lines[3]["loss_scale"] == 65536
    events = b"".join(path.read_bytes() for path in (run.layout.records / "tensorboard").iterdir())
    assert b"loss_scale" in events
    ended = everstep("resume", "a", "--set", "compute.precision=bf16", "--set", "optim.max_steps=60")
    assert ended.code == 0, ended.out
    assert "precision fp16 then, bf16 now" in ended.out


def test_steps_that_are_skipped_until_the_scale_has_come_down_end_nothing(start, words, workplace):
    program = start(*words, "--optim.max-steps", 60, prepare=AlwaysOverflows(last_step=49))
    assert program.wait() == 0, program.output
    skipped = [line["is_skipped"] for line in read_metrics(workplace / "runs/a/records")]
    assert skipped == [True] * 49 + [False] * 11


def measured(step: int, scale: float, next_scale: float) -> Measured:
    return Measured(step, step, step - 1, 1e-4, torch.tensor(0.5), None, torch.tensor([scale, next_scale]))


def test_skipped_steps_are_counted_over_a_resume_and_at_a_scale_of_nothing(tmp_path: Path) -> None:
    first = Metrics(tmp_path, 0, print, scales_losses=True)
    for step in range(1, 31):
        first.add(measured(step, 0.0, 0.0))
    first.flush()
    first.close()
    second = Metrics(tmp_path, 30, print, scales_losses=True)
    for step in range(31, MOST_SKIPPED_STEPS):
        second.add(measured(step, 0.0, 0.0))
    second.flush()
    second.add(measured(MOST_SKIPPED_STEPS, 0.0, 0.0))
    with pytest.raises(NothingTrained, match="steps 1 to 50"):
        second.flush()


def test_a_scale_that_rises_or_stays_counts_as_trained(tmp_path: Path) -> None:
    metrics = Metrics(tmp_path, 0, print, scales_losses=True)
    for step in range(1, 200):
        metrics.add(measured(step, 4.0, 2.0 if step % 40 else 8.0 if step % 80 else 4.0))
    metrics.flush()
    metrics.close()
    assert json.loads((tmp_path / "metrics.jsonl").read_text().splitlines()[39])["is_skipped"] is False
