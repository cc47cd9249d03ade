"""everstep.watch in a real notebook's kernel: the page in a frame, and a line that follows the training."""

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from drafts import draft

import everstep
from everstep.errors import UserError
from everstep.versions import LiveStatus, Run, write_live

manager = pytest.importorskip("jupyter_client.manager", reason="needs ipykernel")


@pytest.fixture
def cell(workplace: Path) -> Iterator[Callable[..., list[dict[str, Any]]]]:
    """Run a cell, and hear what a notebook's page would be sent until that is enough."""
    kernel, client = manager.start_new_kernel(cwd=str(workplace))

    def run(code: str, is_enough: Callable[[list[dict[str, Any]]], bool]) -> list[dict[str, Any]]:
        client.execute(code)
        said: list[dict[str, Any]] = []
        until = time.monotonic() + 60
        while not is_enough(said):
            assert time.monotonic() < until, said
            said.append(client.get_iopub_msg(timeout=60))
            assert said[-1]["msg_type"] != "error", said[-1]["content"]["traceback"]
        return said

    yield run
    client.stop_channels()
    kernel.shutdown_kernel(now=True)


def shown(said: list[dict[str, Any]], kind: str) -> list[str]:
    return [one["content"]["data"]["text/html"] for one in said if one["msg_type"] == kind]


def test_a_run_is_seen_and_followed_from_a_cell(cell: Callable[..., Any], workplace: Path) -> None:
    run = Run.create(workplace / "runs/a<b>", "lr: 1\n")
    run.tell_best_score("")
    facts = {"images_seen": 8, "images_per_second": 2.0, "loss": 0.1, "last_version": None}
    more = {"state": "running", "max_steps": 9, "next_version_step": None, "snapshot_step": 2}
    with run.lock("test"):
        run.commit(draft(1))
        write_live(run.layout, LiveStatus.now(step=2, **more, **facts))
        said = cell(
            "import everstep\neverstep.watch('runs/a<b>')", lambda heard: len(shown(heard, "display_data")) == 2
        )
        line, page = shown(said, "display_data")
        assert "a&lt;b&gt;: running, step 2 of 9, 2.0 images/s" in line
        assert page.startswith('<iframe title="a&lt;b&gt;')
        assert "version_1" not in page
        run.commit(draft(3))
        write_live(run.layout, LiveStatus.now(step=3, **more, **facts))
        later = cell("1", lambda heard: any("version_1" in one for one in shown(heard, "update_display_data")))
    assert any("step 3 of 9" in one for one in shown(later, "update_display_data"))
    ended = cell(
        "1", lambda heard: any("step 3" in o and "running" not in o for o in shown(heard, "update_display_data"))
    )
    assert ended


def test_elsewhere_it_is_a_line_and_what_is_no_run_is_said(workplace: Path) -> None:
    run = Run.create(workplace / "runs/a", "lr: 1\n")
    run.tell_best_score("")
    assert repr(everstep.watch("a")).startswith("a: empty, step 0")
    assert "no version yet" in everstep.watch(run.path).page()
    with pytest.raises(UserError, match="b"):
        everstep.watch("b")
