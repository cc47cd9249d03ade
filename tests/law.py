"""The training that the resume law is tried on, and all that the law speaks of."""

import json
import os
import signal
from pathlib import Path

from everstep.records.steps import read_metrics
from everstep.versions import Run, verify

STEPS = 40
SCORED = (
    *("--optim.max-steps", STEPS, "--optim.batch-size", 2, "--optim.accumulation-steps", 2, "--optim.seed", 7),
    *("--optim.learning-rate", 1e-3, "--optim.schedule", "cosine", "--optim.warmup-steps", 5),
    *("--optim.ema-decay", 0.9, "--data.crop", "random", "--data.flip-probability", 0.5),
    *("--versions.every", 10),
)
# Nothing is drawn or scored: that takes as long as a small training does, and changes nothing of it.
UNSEEN = ("--sampling.pairs", 0, "--scoring.overhead", 0)
SETTINGS = (*SCORED, *UNSEEN)


def outcome(run: Path, steps: int = STEPS) -> tuple[dict[str, object], list[dict[str, object]], dict[str, object]]:
    """All that the law speaks of: tensors by digest; losses, rates and examples of every step; the counters."""
    last = Run.open(run).find("latest")
    assert last.step == steps
    assert verify(last) == []
    state = json.loads((last.path / "training/state.json").read_text())
    return json.loads((last.path / "digests.json").read_text()), read_metrics(run / "records"), state


def kill_after(step: int, number: signal.Signals) -> None:
    """Let the process end itself by a signal right after a step: the moment is exact."""
    from everstep.train.loop import Loop

    original = Loop._step

    def stepped(self: Loop) -> None:
        original(self)
        if self.state.step == step:
            os.kill(os.getpid(), number)

    Loop._step = stepped  # type: ignore[method-assign]


class KillAfter:
    """Can be sent to another process."""

    def __init__(self, step: int, number: signal.Signals) -> None:
        self.step, self.number = step, number

    def __call__(self) -> None:
        kill_after(self.step, self.number)
