"""Copies that are made beside training are the state of their step, however long they take: all of it, with the real
fused AdamW, its moments and its counters."""

import json
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from everstep.versions import Run, verify
from law import UNSEEN
from program import Program

STEPS = 8
SETTINGS = (
    *("--optim.max-steps", STEPS, "--versions.every", 2, "--optim.batch-size", 2, "--optim.ema-decay", 0.9),
    *("--optim.learning-rate", 1e-3, *UNSEEN, "--keeper.snapshots", "off", "--keep.everything"),
)
Start = Callable[..., Program]


class SlowCopies:
    """A copy beside training stops in the middle, again and again, for longer than a step takes."""

    EVERY, PAUSE_S = 400, 0.3

    def __call__(self) -> None:
        import numpy as np

        real, count = np.copyto, 0

        def slow(*given: Any, **named: Any) -> None:
            nonlocal count
            if threading.current_thread() is not threading.main_thread():
                count += 1
                if count % self.EVERY == 0:
                    print(f"paused {count}", flush=True)
                    time.sleep(self.PAUSE_S)
            real(*given, **named)

        np.copyto = slow


def digests_by_step(run: Path) -> dict[int, dict[str, Any]]:
    versions = Run.open(run).versions()
    assert all(verify(version) == [] for version in versions)
    return {version.step: json.loads((version.path / "digests.json").read_text()) for version in versions}


@pytest.mark.fault("steps that would be taken while a copy is made")
def test_a_copy_that_takes_long_is_of_one_step(
    start: Start, tiny_base: Path, pairs_folder: Path, workplace: Path
) -> None:
    words = ("--base", tiny_base, "--data", pairs_folder, *SETTINGS, "--keeper.copying")
    slow = start("train", "--run", "slow", *words, "background", prepare=SlowCopies())
    assert slow.wait(60) == 0, slow.output
    waiting = start("train", "--run", "waiting", *words, "blocking")
    assert waiting.wait(120) == 0, waiting.output
    assert slow.output.count("paused") > 2, "no copy was slowed; are copies made in another way now?"
    assert "refused" not in slow.output
    found, expected = (digests_by_step(workplace / "runs" / run) for run in ("slow", "waiting"))
    both = sorted(found.keys() & expected.keys())  # where the disk is far behind, a version may come a step later
    assert len(both) > 2
    for step in both:
        assert found[step] == expected[step]
    kept = [name for named in expected[STEPS].values() for name in named]
    assert any(name.endswith("step") for name in kept), "the optimizer's counters are kept"
