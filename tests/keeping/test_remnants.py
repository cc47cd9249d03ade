"""Memory that lies about is told of: whose it is, what it holds, and how to drop it; never that of a run in use."""

import json
import subprocess
from pathlib import Path

import pytest
from drafts import draft
from memory_of import fill, named_arena

from everstep.keeping.arena import Arena
from everstep.keeping.memory import release
from everstep.keeping.remnants import MOST_TOLD, forgotten, of_run, say_forgotten
from everstep.versions import Run


def holding(run: Run, step: int) -> Arena:
    held = named_arena(run)
    fill(held.slots[0], draft(step), 1)
    return held


def left(run: Run, step: int) -> Path:
    """Memory that nobody uses; returns its folder."""
    held = holding(run, step)
    held.close()
    assert held.path is not None
    return held.path.parent


def other_run(tmp_path: Path, name: str) -> Run:
    return Run.create(tmp_path / "elsewhere" / name, "a: 1\n")


def test_memory_of_the_run_is_told_of_in_use_and_left(run: Run, shared: Path) -> None:
    held = holding(run, 50)
    (found,) = of_run(run, None)
    assert (found.step, found.is_used, found.run) == (50, True, str(run.path))
    held.close()
    (found,) = of_run(run, None)
    assert (found.step, found.is_used) == (50, False)
    assert forgotten(run, None) == []


@pytest.mark.parametrize("fate", ["deleted", "unmounted", "replaced"])
def test_memory_of_another_run_that_is_not_there_is_told_of_with_the_way_to_drop_it(
    run: Run, shared: Path, tmp_path: Path, fate: str
) -> None:
    other = other_run(tmp_path, "b")
    folder = left(other, 50)
    assert forgotten(run, None) == []  # its next start finds it
    other.path.parent.rename(tmp_path / "gone")
    if fate == "unmounted":
        other.path.parent.mkdir()
    elif fate == "replaced":
        other_run(tmp_path, "b")
    said: list[str] = []
    say_forgotten(run, None, said.append)
    assert len(said) == 1
    assert said[0].startswith(f"Memory in {folder} (")
    assert f"holds step 50 of {other.path}, which is not there now." in said[0]
    assert said[0].endswith(f"To drop it: rm -r {folder}")
    subprocess.run(said[0].rpartition(": ")[2].split(), check=True)
    assert forgotten(run, None) == []


def test_memory_of_a_run_in_use_is_never_told_of(run: Run, shared: Path, tmp_path: Path) -> None:
    other = other_run(tmp_path, "b")
    held = holding(other, 50)
    other.path.rename(tmp_path / "gone")
    assert forgotten(run, None) == []
    release(held)


def test_memory_that_cannot_be_read_is_told_of_with_the_reason(run: Run, shared: Path) -> None:
    (shared / "everstep-odd").mkdir()
    (shared / "everstep-odd" / "arena").write_bytes(b"something else" * 1000)
    said: list[str] = []
    say_forgotten(run, None, said.append)
    assert "cannot be read: it is no arena. To drop it: rm -r" in said[0]


def test_what_is_told_at_a_start_stays_short(run: Run, shared: Path, tmp_path: Path) -> None:
    for number in range(MOST_TOLD + 2):
        left(other_run(tmp_path, f"b{number}"), 50)
    (tmp_path / "elsewhere").rename(tmp_path / "gone")
    said: list[str] = []
    say_forgotten(run, None, said.append)
    assert len(said) == MOST_TOLD + 1
    assert said[-1].startswith("And 2 more (")


def test_status_prints_both_and_lists_them_as_json(
    run: Run, shared: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from everstep.cli.status import status_

    run.layout.hparams.write_text("{}\n")
    other = other_run(tmp_path, "b")
    ours, theirs = left(run, 50), left(other, 60)
    other.path.rename(tmp_path / "gone")
    assert status_(str(run.path)) == 0
    printed = capsys.readouterr().out
    assert f"step 50 in {ours}, left: the next start commits it" in printed
    assert f"rm -r {theirs}" in printed
    assert status_(str(run.path), json=True) == 0
    memory = json.loads(capsys.readouterr().out)["memory"]
    assert [(one["path"], one["step"], one["is_of_this_run"], one["is_used"]) for one in memory] == [
        (str(ours), 50, True, False),
        (str(theirs), 60, False, False),
    ]
    assert all(one["size_bytes"] > 0 and one["why_unreadable"] is None for one in memory)
