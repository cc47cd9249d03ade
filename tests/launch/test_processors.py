"""A container's limit on processor time decides on the number of threads, unless a person did."""

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from everstep.launch import processors
from everstep.launch.processors import SETTINGS, allowed_processors, limit_threads
from everstep.versions import Run
from law import UNSEEN
from program import Ended


@pytest.fixture(autouse=True)
def _nothing_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in SETTINGS:
        monkeypatch.setenv(name, "")  # so that what is set here is taken back at the end
        monkeypatch.delenv(name)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(64)))


def groups(folder: Path, mine: str, limits: dict[str, str]) -> tuple[Path, Path]:
    """A tree of control groups and what the kernel says of ours."""
    root = folder / "cgroup"
    for name, text in limits.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text + "\n")
    (folder / "mine").write_text(mine)
    return root, folder / "mine"


def test_the_least_limit_on_the_way_to_the_root_holds(tmp_path: Path) -> None:
    limits = {"a/cpu.max": "200000 100000", "a/b/cpu.max": "max 100000", "c/cpu.max": "1000 100000"}
    assert allowed_processors(*groups(tmp_path, "0::/a/b\n", limits)) == 2


def test_no_limit_is_none(tmp_path: Path) -> None:
    assert allowed_processors(*groups(tmp_path, "0::/a\n", {"a/cpu.max": "max 100000"})) is None
    assert allowed_processors(tmp_path, tmp_path / "there is none") is None


def test_limits_of_the_first_version_are_read(tmp_path: Path) -> None:
    quota = {"cpu,cpuacct/x/cpu.cfs_quota_us": "150000", "cpu,cpuacct/x/cpu.cfs_period_us": "100000"}
    free = {"cpu,cpuacct/cpu.cfs_quota_us": "-1", "cpu,cpuacct/cpu.cfs_period_us": "100000"}
    mine = "4:memory:/y\n3:cpuset:/z\n1:cpu,cpuacct:/x\n0::/\n"
    assert allowed_processors(*groups(tmp_path, mine, quota | free)) == 1.5


def test_in_a_container_the_name_may_be_the_hosts(tmp_path: Path) -> None:
    root, mine = groups(tmp_path, "0::/docker/0123\n", {"cpu.max": "400000 100000"})
    assert allowed_processors(root, mine) == 4


@pytest.mark.parametrize(("allowed", "threads"), [(2.5, "2"), (0.5, "1"), (63.9, "63")])
def test_a_limit_gives_fewer_threads_and_says_so(allowed: float, threads: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processors, "allowed_processors", lambda: allowed)
    said = limit_threads(0)
    assert said == f"The time of {allowed:g} of 64 processors is allowed here: {threads} threads (compute.threads)."
    assert os.environ["OMP_NUM_THREADS"] == threads


@pytest.mark.parametrize("allowed", [None, 64.0, 100.0])
def test_without_a_limit_nothing_is_changed(allowed: float | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processors, "allowed_processors", lambda: allowed)
    assert limit_threads(0) is None
    assert "OMP_NUM_THREADS" not in os.environ


@pytest.mark.parametrize("name", SETTINGS)
def test_a_persons_own_number_stands(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processors, "allowed_processors", lambda: 2.0)
    assert limit_threads(8) is None
    monkeypatch.setenv(name, "16")
    assert limit_threads(0) is None
    assert os.environ.get("OMP_NUM_THREADS") == ("16" if name == "OMP_NUM_THREADS" else None)


def test_a_resume_with_another_number_of_threads_says_so(
    tiny_base: Path, pairs_folder: Path, everstep: Callable[..., Ended], workplace: Path
) -> None:
    words = ("--base", tiny_base, "--data", pairs_folder, "--compute.threads", 1, *UNSEEN)
    assert everstep("train", "--run", "a", "--optim.max-steps", 2, *words).code == 0
    version = Run.open(workplace / "runs/a").find("latest")
    assert json.loads((version.path / "training/state.json").read_text())["threads"] == 1
    assert version.manifest["machine"]["waiting"]
    ended = everstep("resume", "a", "--set", "compute.threads=2", "--set", "optim.max_steps=3")
    assert ended.code == 0
    assert "so not bit for bit the same: 1 threads then, 2 now" in ended.out
