"""Who watches is told what changes, soon, and never shown what was before it."""

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from drafts import draft

from everstep.versions import LiveStatus, Run, write_annotation, write_live
from everstep.watching.looking import Looking
from everstep.watching.views import whole


async def next_of(changes: AsyncIterator[str | None]) -> dict[str, Any]:
    """Raises: AssertionError where nothing changes for some seconds."""
    changed = await asyncio.wait_for(anext(changes), 20)
    assert changed is not None
    return dict(json.loads(changed))


def test_commits_labels_and_steps_are_told(run: Run) -> None:
    looking = Looking(run.path.parent)

    def shown() -> list[int]:
        told = looking.once("whole", looking.run(run.name), whole)
        return [row["version"] for row in told["versions"]]

    async def watch() -> None:
        changes = looking.changes()
        waiting = asyncio.ensure_future(next_of(changes))
        await asyncio.sleep(1.0)  # it has looked for the first time
        assert shown() == [0, 1, 2]
        run.commit(draft(30))
        assert (await waiting)["what"] == "all"
        assert shown() == [0, 1, 2, 3]  # though the last answer is not half a second old
        write_annotation(run.layout, 3, labels=("good",))
        assert (await next_of(changes))["what"] == "all"
        facts = {"images_seen": 9, "images_per_second": None, "loss": 0.5, "last_version": None}
        more = {"state": "running", "max_steps": 40, "next_version_step": None, "snapshot_step": 2}
        with run.lock("test"):
            for step in range(33, 43):  # the lock, too, is a change
                write_live(run.layout, LiveStatus.now(step=step, **more, **facts))
                told = await next_of(changes)
                if told["what"] == "now":
                    break
        assert told["told"]["step"] == step
        await changes.aclose()  # type: ignore[attr-defined]

    asyncio.run(watch())


def test_runs_that_come_and_go_are_told(run: Run) -> None:
    looking = Looking(run.path.parent)

    async def watch() -> None:
        changes = looking.changes()
        waiting = asyncio.ensure_future(next_of(changes))
        await asyncio.sleep(1.0)
        Run.create(run.path.parent / "another", "lr: 1\n")
        assert await waiting == {"run": "another", "what": "all", "told": None}
        await changes.aclose()  # type: ignore[attr-defined]

    asyncio.run(watch())
    assert {one.name for one in looking.runs()} == {run.name, "another"}


def test_nobody_who_watches_costs_nothing(run: Run) -> None:
    looking = Looking(run.path.parent)

    async def watch() -> bool:
        changes = looking.changes()
        waiting = asyncio.ensure_future(next_of(changes))
        await asyncio.sleep(0.6)
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
        await changes.aclose()  # type: ignore[attr-defined]
        await asyncio.sleep(0.6)
        task = looking._watching
        return task is not None and task.done()

    assert asyncio.run(watch())


def test_a_name_that_is_not_there_is_no_run(run: Run, tmp_path: Path) -> None:
    looking = Looking(tmp_path / "nothing")
    assert looking.runs() == []
