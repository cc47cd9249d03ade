"""A plain loop that is kept: in processes of its own, which are killed; beside its keeper, and under it."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest
from loops import (
    ALL_MADE,
    LOOP,
    STEPS,
    Running,
    Start,
    both,
    children,
    content,
    everstep,
    is_alive,
    latest,
    memory_of,
    once,
    run_through,
    script,
    starting,
    undisturbed,
    wait_until_gone,
)

from behind import knows_sessions, niceness_of_session
from everstep.priority import NICENESS
from everstep.versions import Run, verify

AT_20 = ALL_MADE.replace("(20, 40)", "(20,)")
mostly_beside = pytest.mark.parametrize("way", ["beside", pytest.param("under", marks=pytest.mark.slow)])


straight = pytest.fixture(scope="module")(undisturbed)
start = pytest.fixture(starting)


def assert_whole(folder: Path, straight: dict[str, object]) -> None:
    """The law, and that nothing is left of the way there."""
    run = Run(folder / "runs/own")
    assert latest(folder).step == STEPS
    assert latest(folder).reason == "final"
    assert content(latest(folder)) == straight
    assert [fault for version in run.versions() for fault in verify(version)] == []
    assert run.holder() is None
    assert memory_of(run.path) == []


@mostly_beside
def test_a_loop_that_ends_says_so_and_leaves_nothing_behind(
    tmp_path: Path, way: str, straight: dict[str, object]
) -> None:
    out = run_through(script(tmp_path, first=ALL_MADE), way)
    assert_whole(tmp_path, straight)
    assert [version.step for version in Run(tmp_path / "runs/own").versions()] == [0, 20, 40, STEPS]
    assert [version.reason for version in Run(tmp_path / "runs/own").versions()] == [
        "start",
        "interval",
        "interval",
        "final",
    ]
    again = run_through(script(tmp_path), way)
    assert f"Resumed from version_3 (step {STEPS})" in again
    assert f"ended final {STEPS}" in again
    assert "Traceback" not in out + again


@both
@pytest.mark.fault("kill -9 of a loop of somebody's own")
def test_a_loop_killed_at_some_moment_goes_on_bit_for_bit(
    tmp_path: Path, way: str, straight: dict[str, object], start: Start
) -> None:
    running = start(script(tmp_path), way, pause_s=0.02)
    running.wait_for_step(25)
    keeper, trainer = running.keeper, running.trainer
    running.kill(trainer)
    running.wait()
    wait_until_gone(keeper)
    assert 0 < latest(tmp_path).step < STEPS
    run_through(script(tmp_path), way)
    assert_whole(tmp_path, straight)


@knows_sessions
def test_a_keeper_beside_its_loop_stands_behind_it(tmp_path: Path, start: Start) -> None:
    running = start(script(tmp_path), "beside", pause_s=0.02)
    running.wait_for_step(2)
    assert niceness_of_session(running.keeper) == NICENESS
    assert niceness_of_session(running.trainer) < NICENESS


@mostly_beside
@pytest.mark.fault("kill -9 of a loop of somebody's own")
def test_a_snapshot_at_every_step_loses_no_step_at_all(
    tmp_path: Path, way: str, straight: dict[str, object], start: Start
) -> None:
    path = script(tmp_path, within=once(33, "os.kill(os.getpid(), signal.SIGKILL)"))
    running = start(path, way, pause_s=0.01)
    running.wait_for_step(20)
    keeper = running.keeper
    assert running.wait() == (3 if way == "under" else -signal.SIGKILL)
    wait_until_gone(keeper)  # it does not outlive its program for long
    assert (latest(tmp_path).step, latest(tmp_path).reason) == (33, "rescue")
    assert "was rescued from memory" in running.out
    run_through(path, way)
    assert_whole(tmp_path, straight)


@pytest.mark.fault("kill -9 of a loop of somebody's own")
def test_under_a_keeper_it_is_started_again_by_itself(tmp_path: Path, straight: dict[str, object]) -> None:
    path = script(tmp_path, within=once(33, "os.kill(os.getpid(), signal.SIGKILL)"))
    out = run_through(path, "under", flags=("--restarts", "1"))
    assert "Starting the trainer again, 1 of 1 times." in out
    assert_whole(tmp_path, straight)


@both
@pytest.mark.fault("kill -9 of the keeper of a loop of somebody's own")
def test_a_loop_whose_keeper_dies_saves_alone_and_ends(
    tmp_path: Path, way: str, straight: dict[str, object], start: Start
) -> None:
    # It stays in its step until it is told to go on, so that what holds meanwhile can be looked at.
    path = script(tmp_path, within=once(33, "[time.sleep(0.01) for _ in iter(lambda: os.path.exists('go'), True)]"))
    running = start(path, way)
    running.wait_for(lambda: (tmp_path / "once").exists())
    trainer = running.trainer
    running.kill(running.keeper)
    refused = everstep(tmp_path, "keep", "--", *_words(path))
    assert refused.returncode in (1, 2)
    assert f"still being written by process {trainer}" in refused.stderr + refused.stdout
    (tmp_path / "go").touch()
    wait_until_gone(trainer)
    assert "The keeper is gone: saving without it, then ending." in running.out
    assert "ended rescue 34" in running.out
    assert "Traceback" not in running.out
    assert latest(tmp_path).step == 34
    assert Run(tmp_path / "runs/own").holder() is None
    run_through(script(tmp_path), way)
    assert_whole(tmp_path, straight)


def _words(path: Path) -> list[str]:
    return [sys.executable, str(path), str(STEPS), "0"]


@mostly_beside
def test_a_second_program_is_refused_and_told_who_the_first_is(tmp_path: Path, way: str, start: Start) -> None:
    path = script(tmp_path)
    first = start(path, way, pause_s=1)
    first.wait_for_step(1)
    second = subprocess.run(_words(path), cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert second.returncode == 1
    last = second.stderr.strip()
    assert "UserError: Run own is being written by process" in last
    assert f"its trainer is process {first.trainer}" in last


@both
@pytest.mark.fault("SIGTERM to a loop of somebody's own")
def test_a_signal_to_the_program_ends_it_after_its_step(
    tmp_path: Path, way: str, straight: dict[str, object], start: Start
) -> None:
    running = start(script(tmp_path), way, pause_s=0.02)
    running.wait_for_step(5)
    running.kill(running.trainer, signal.SIGTERM)
    assert running.wait() == (3 if way == "under" else 0)
    assert "SIGTERM: finishing this step and committing it." in running.out
    assert f"ended signal {latest(tmp_path).step}" in running.out
    assert latest(tmp_path).reason in ("signal", "interval")  # one may have been due at the very step
    run_through(script(tmp_path), way)
    assert_whole(tmp_path, straight)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_to_its_keeper_is_passed_on_in_words(
    tmp_path: Path, number: signal.Signals, straight: dict[str, object], start: Start
) -> None:
    running = start(script(tmp_path), "under", pause_s=0.02)
    running.wait_for_step(5)
    running.kill(running.process.pid, number)
    assert running.wait() == 3
    assert latest(tmp_path).reason in ("signal", "interval")  # one may have been due at the very step
    run_through(script(tmp_path), "under")
    assert_whole(tmp_path, straight)


def test_a_signal_before_the_loop_has_begun_ends_the_command_too(tmp_path: Path, start: Start) -> None:
    path = script(tmp_path)
    path.write_text("import time; open('began', 'w'); time.sleep(60)\n" + path.read_text())
    running = start(path, "under")
    running.wait_for(lambda: (tmp_path / "began").exists())
    command = children(running.process.pid)[0]
    running.kill(running.process.pid, signal.SIGTERM)
    assert running.wait() == 3
    assert not is_alive(command)


# --- interrupted, as in a notebook -----------------------------------------------------------------------------

NOTEBOOK = """
try:
    with everstep_keep as kept:
        for step in kept.steps(steps):
            train(kept, step)
except KeyboardInterrupt:
    print("interrupted after", kept.step, kept.ended, flush=True)
again = everstep.keep("own", network, optimizer, others={"schedule": schedule}, tensors={"average": average},
                      images_per_step=2, every=20)
with again as kept:
    for step in kept.steps(steps):
        train(kept, step)
print("ended", kept.ended, kept.step, flush=True)
"""


@pytest.mark.fault("Ctrl-C in a loop of somebody's own")
def test_an_interrupt_within_a_step_waits_for_its_end_and_reaches_the_user(
    tmp_path: Path, straight: dict[str, object]
) -> None:
    interrupted = once(33, "os.kill(os.getpid(), signal.SIGINT)")
    out = run_through(script(tmp_path, NOTEBOOK, interrupted, AT_20))
    assert "interrupted after 34 signal" in out
    assert "Resumed from version_2 (step 34)" in out  # the very same objects are gone on with
    assert_whole(tmp_path, straight)


@pytest.mark.fault("Ctrl-C in a loop of somebody's own")
def test_a_second_interrupt_leaves_at_once_and_the_newest_whole_state_is_kept(
    tmp_path: Path, straight: dict[str, object]
) -> None:
    twice = once(33, "[(os.kill(os.getpid(), signal.SIGINT), time.sleep(0.7)) for _ in range(2)]")
    out = run_through(script(tmp_path, NOTEBOOK, twice, AT_20))
    assert "interrupted after 33" in out
    assert "Resumed from version_2 (step 33)" in out
    assert_whole(tmp_path, straight)


@pytest.mark.fault("Ctrl-C in a loop of somebody's own")
def test_an_interrupt_between_steps_loses_nothing(tmp_path: Path, straight: dict[str, object]) -> None:
    between = NOTEBOOK.replace(
        "    with everstep_keep", "    stepped = everstep.Kept.stepped\n    with everstep_keep", 1
    )
    between = between.replace(
        "        for step",
        "        def interrupted(kept):\n"
        "            stepped(kept)\n"
        "            kept.step == 33 and os.kill(os.getpid(), signal.SIGINT)\n"
        "        everstep.Kept.stepped = interrupted\n"
        "        for step",
        1,
    )
    out = run_through(script(tmp_path, between.replace("again = ", "everstep.Kept.stepped = stepped\nagain = ")))
    assert "interrupted after 34 signal" in out
    assert_whole(tmp_path, straight)


@mostly_beside
@pytest.mark.fault("an exception in a loop of somebody's own")
def test_an_error_in_the_body_reaches_the_user_and_the_newest_whole_state_is_kept(
    tmp_path: Path, way: str, straight: dict[str, object], start: Start
) -> None:
    path = script(tmp_path, within=once(33, "raise ValueError('mine')"))
    running = start(path, way)
    assert running.wait() == 1
    assert "ValueError: mine" in running.out
    assert (latest(tmp_path).step, latest(tmp_path).reason) == (33, "rescue")
    run_through(path, way)
    assert_whole(tmp_path, straight)


def test_a_loop_that_is_left_by_break_keeps_its_newest_whole_state(tmp_path: Path, straight: dict[str, object]) -> None:
    path = script(tmp_path, LOOP.replace("train(kept, step)", "train(kept, step)\n        if step == 32: break"))
    run_through(path)
    assert latest(tmp_path).step == 32  # the step that was left is none
    assert everstep(tmp_path, "status", "own").stdout.splitlines()[0].split() == ["state", "stopped"]
    run_through(script(tmp_path))
    assert_whole(tmp_path, straight)


def test_workers_that_outlive_the_loop_hold_neither_its_run_nor_its_keeper(tmp_path: Path) -> None:
    waiting = "[time.sleep(0.1) for _ in iter(lambda: os.getppid() == program, False)]"  # as long as the program lives
    forked = f"program = os.getpid()\n    if step == 3 and os.fork() == 0: {waiting}; os._exit(0)"
    out = run_through(
        script(
            tmp_path,
            LOOP
            + LOOP.replace(
                "everstep_keep",
                'everstep.keep("own", network, optimizer, others={"schedule": schedule}, tensors={"average": average})',
            ),
            forked,
        )
    )
    assert out.count(f"ended final {STEPS}") == 2


@pytest.mark.fault("kill -9 of a loop of somebody's own")
def test_workers_that_outlive_a_killed_loop_do_not_hold_its_run(tmp_path: Path, straight: dict[str, object]) -> None:
    forks = "if step == 3 and not os.path.exists('once') and os.fork() == 0:\n        "
    forks += "[time.sleep(0.1) for _ in iter(lambda: os.path.exists('done'), True)]; os._exit(0)"
    path = script(tmp_path, within=forks + once(33, "os.kill(os.getpid(), signal.SIGKILL)"))
    killed = Running(path, "beside", pause_s=0.02)
    killed.wait_for_step(1)
    keeper = killed.keeper
    assert killed.wait() == -signal.SIGKILL
    wait_until_gone(keeper)
    try:
        assert "Resumed from" in run_through(path)
    finally:
        (tmp_path / "done").touch()
    assert_whole(tmp_path, straight)
