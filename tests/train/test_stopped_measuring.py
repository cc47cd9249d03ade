"""Whoever asks to stop does not wait for what can be measured later."""

import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from everstep.versions import Run
from program import Program

LONG = ("--sampling.steps", 900, "--sampling.pairs", 3, "--scoring.overhead", 0)  # drawn alone
SHORT = ("--sampling.steps", 90, "--sampling.pairs", 2, "--scoring.patience", 9)


@pytest.fixture
def words(tiny_base: Path, pairs_folder: Path) -> tuple[object, ...]:
    return ("train", "--run", "a", "--base", tiny_base, "--data", pairs_folder, "--optim.batch-size", 2)


@pytest.mark.fault("SIGTERM while pictures of a version are drawn, {ranks} ranks")
@pytest.mark.parametrize("ranks", [1, 2])
def test_a_stop_ends_what_is_being_measured_and_says_how_it_is_made_up_for(
    ranks: int,
    words: tuple[object, ...],
    start: Callable[..., Program],
    workplace: Path,
) -> None:
    program = start(*words, *LONG, "--ranks", ranks)
    program.wait_for(lambda: "version_0: step 0" in program.output)
    program.signal(signal.SIGTERM)
    assert program.wait() == 3, program.output
    run = Run.open(workplace / "runs/a")
    assert "version_0 was not measured, since somebody asked to stop; everstep score " in program.output
    assert "failed" not in program.output
    assert not (run.layout.samples / "version_0.json").exists()
    last = run.versions()[-1]
    if last.number > 0:
        assert f"{last.name} was not measured, since somebody asked to stop" in program.output


@pytest.mark.fault("SIGTERM while a version is measured that decides how long is trained")
def test_where_scores_end_the_training_a_stop_waits_for_them(
    words: tuple[object, ...], start: Callable[..., Program], workplace: Path
) -> None:
    program = start(*words, *SHORT)
    program.wait_for(lambda: "version_0: step 0" in program.output)
    program.signal(signal.SIGTERM)
    assert program.wait() == 3, program.output
    assert "somebody asked to stop" not in program.output
    assert (workplace / "runs/a/records/samples/version_0.json").exists()
