"""The double of the disk can fail: a store that leaves out one flush, or flushes too late, is caught by it."""

import os
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from chance import SEED
from cuts import Cut, try_all
from disk import ROOT, Change, Entry, Recorder, Sync
from effects import Effect, Effects
from invariants import opens_with
from memory_of import commit_from_memory
from test_commit import Commit, recorded

from everstep.versions import Run


def without_flushes_of(is_left_out: Callable[[Recorder, int], bool]) -> Callable[[Recorder], list[Change]]:
    """What the store would have done without these flushes."""

    def broken(recorder: Recorder) -> list[Change]:
        return [c for c in recorder.changes if not (isinstance(c, Sync) and is_left_out(recorder, c.node))]

    return broken


def named(recorder: Recorder, name: str) -> int:
    """The node that came under this name."""
    return next(c.node for c in recorder.changes if isinstance(c, Entry) and c.name == name and c.node is not None)


def renamed_before_the_manifest_is_flushed(recorder: Recorder) -> list[Change]:
    """All flushes are made, that of the manifest too late."""
    late = Sync(named(recorder, "manifest.json"))
    changes = [change for change in recorder.changes if change != late]
    appears = next(n for n, change in enumerate(changes) if isinstance(change, Entry) and change.name == "version_2")
    return [*changes[: appears + 1], late, *changes[appears + 1 :]]


BROKEN: dict[str, Callable[[Recorder], Sequence[Change]]] = {
    "no file is flushed": without_flushes_of(lambda recorder, node: node in recorder.before.contents),
    "no folder is flushed": without_flushes_of(lambda recorder, node: node in recorder.before.entries),
    "the run's folder is not flushed": without_flushes_of(lambda recorder, node: node == ROOT),
    "the folder of the version is not flushed": without_flushes_of(
        lambda recorder, node: node == named(recorder, "version_2")
    ),
    "the weights are not flushed": without_flushes_of(
        lambda recorder, node: node == named(recorder, "weights.safetensors")
    ),
    "the manifest is not flushed": without_flushes_of(lambda recorder, node: node == named(recorder, "manifest.json")),
    "the version appears before its manifest is flushed": renamed_before_the_manifest_is_flushed,
}


@pytest.mark.parametrize("made", [Run.commit, commit_from_memory], ids=["from the process", "from the arena"])
@pytest.mark.parametrize("kind", BROKEN)
def test_a_commit_with_one_guard_less_does_not_survive_every_power_cut(
    run: Run, made: Commit, kind: str, memory: Path
) -> None:
    recorder = recorded(run, made)
    changes = BROKEN[kind](recorder)
    assert changes != recorder.changes

    def check(root: Path, cut: Cut) -> None:
        opens_with(root, {0, 1, 2} if cut.done == len(changes) else {0, 1})

    with pytest.raises(AssertionError, match=r"lost|damaged|==") as caught:
        try_all(recorder, memory / "after", check, 2, SEED, changes, first=len(changes) // 2)
    assert "power cut" in "".join(caught.value.__notes__)


def test_all_ways_to_write_are_seen(tmp_path: Path) -> None:
    with Recorder(tmp_path) as recorder:  # compares what it saw with what is there
        (tmp_path / "a").mkdir()
        (tmp_path / "a" / "text").write_text("one\n")
        with (tmp_path / "a" / "text").open("a") as file:
            file.write("two\n")
        descriptor = os.open(tmp_path / "b", os.O_RDWR | os.O_CREAT)
        os.posix_fallocate(descriptor, 0, 100)
        os.pwrite(descriptor, b"xyz", 50)
        os.pwritev(descriptor, [b"1", b"23"], 90)
        os.writev(descriptor, [b"4", b"56"])
        os.ftruncate(descriptor, 95)
        os.close(descriptor)
        os.replace(tmp_path / "b", tmp_path / "a" / "c")
        (tmp_path / "a" / "text").unlink()
        (tmp_path / "a").rename(tmp_path / "d")
    assert recorder.changes


def test_what_goes_past_the_double_is_noticed(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"before")
    with pytest.raises(AssertionError), Recorder(tmp_path):
        go_around(tmp_path / "a")


def go_around(path: Path) -> None:
    descriptor, other = os.open(path, os.O_RDWR), os.memfd_create("other")
    os.pwrite(other, b"after", 0)
    os.sendfile(descriptor, other, 0, 5)
    os.close(descriptor)
    os.close(other)


def test_effects_below_another_folder_are_not_told(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    told: list[Effect] = []
    with Effects(tmp_path / "mine", after=told.append):
        (tmp_path / "mine2").mkdir()
        (tmp_path / "mine" / "a").write_text("x")
    assert [effect.call for effect in told] == ["open", "write"]
