"""N steps straight are the same as k steps, an end of any kind, and N - k steps: bit for bit."""

import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from everstep.config.load import read_hparams
from everstep.versions import Run, read_requests
from law import SCORED, SETTINGS, STEPS, KillAfter, outcome
from program import Ended, Program

INTERRUPT = pytest.param(signal.SIGINT, marks=pytest.mark.slow)  # handled as SIGTERM is


@pytest.mark.fault("{number} at steps 7, 19 and 31")
@pytest.mark.parametrize("number", [signal.SIGTERM, INTERRUPT, signal.SIGKILL])
def test_stops_at_7_19_and_31_change_nothing(
    number: signal.Signals,
    straight: object,
    tiny_base: Path,
    pairs_folder: Path,
    start: Callable[..., Program],
    workplace: Path,
) -> None:
    words = ("train", "--run", "a", "--base", tiny_base, "--data", pairs_folder, *SETTINGS)
    for step in (7, 19, 31):
        program = start(*words, prepare=KillAfter(step, number))
        assert program.wait() == 3, program.output
        assert "Go on: everstep resume" in program.output
        last = Run.open(workplace / "runs/a").find("latest")
        if number == signal.SIGKILL:
            assert last.reason in ("rescue", "interval", "start")
            assert last.step <= step
        else:
            assert last.step == step
    program = start(*words)
    assert program.wait() == 0, program.output
    assert "not restored: nothing" in program.output
    assert outcome(workplace / "runs/a") == straight


def test_the_settings_written_before_the_first_step_repeat_the_run(
    straight: object, tiny_base: Path, pairs_folder: Path, start: Callable[..., Program], workplace: Path
) -> None:
    program = start(
        "train",
        "--run",
        "a",
        "--base",
        tiny_base,
        "--data",
        pairs_folder,
        *SETTINGS,
        prepare=KillAfter(1, signal.SIGKILL),
    )
    program.wait()
    assert start("train", "--config", "runs/a/hparams.yaml", "--run", "b").wait() == 0
    assert outcome(workplace / "runs/b") == straight


def test_scores_change_nothing_that_is_trained(
    straight: object, tiny_base: Path, pairs_folder: Path, start: Callable[..., Program], workplace: Path
) -> None:
    words = ("train", "--run", "a", "--base", tiny_base, "--data", pairs_folder, *SCORED, "--sampling.pairs", 0)
    assert start(*words, prepare=KillAfter(19, signal.SIGKILL)).wait() == 3
    program = start(*words)
    assert program.wait() == 0, program.output
    assert "control gain" in program.output
    assert outcome(workplace / "runs/a") == straight


def test_every_example_is_trained_once_in_an_epoch_and_held_out_ones_never(straight: object) -> None:
    _, metrics, _ = straight  # type: ignore[misc]
    assert [line["first_example"] for line in metrics] == [4 * step for step in range(STEPS)]


def test_stop_from_another_shell_commits_and_ends(
    tiny_base: Path, pairs_folder: Path, start: Callable[..., Program], everstep: Callable[..., Ended], workplace: Path
) -> None:
    many = ("--optim.max-steps", 100_000)
    program = start("train", "--run", "a", "--base", tiny_base, "--data", pairs_folder, "--sampling.pairs", 0, *many)
    program.wait_for(lambda: (workplace / "runs/a/records/live.json").exists())
    ended = everstep("stop", "a")
    assert ended.code == 0, ended.out
    assert program.wait() == 3
    run = Run.open(workplace / "runs/a")
    assert run.find("latest").reason == "asked"
    assert f"({run.find('latest').step:,})" in ended.out or f"step {run.find('latest').step:,}" in ended.out
    assert program.output.count("Stopped at step") == 1
    assert [request.kind for request in read_requests(run.layout)] == ["stop"]  # forgotten at the next start


def test_an_interval_that_is_found_by_the_clock_changes_nothing_of_what_is_trained(
    straight: object, tiny_base: Path, pairs_folder: Path, start: Callable[..., Program], workplace: Path
) -> None:
    words = ("train", "--run", "a", "--base", tiny_base, "--data", pairs_folder, *SETTINGS)
    assert start(*words, prepare=KillAfter(19, signal.SIGKILL)).wait() == 3
    program = start("resume", "a", "--set", "versions.every=auto")
    assert program.wait() == 0, program.output
    assert "versions as often as costs least" in program.output
    assert read_hparams(workplace / "runs/a/hparams.yaml").versions.every.is_auto
    assert outcome(workplace / "runs/a") == straight
