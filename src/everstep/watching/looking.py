"""The runs of a folder as a server sees them: looked at once for all who watch, told when something changed."""

import asyncio
import contextlib
import os
import threading
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from starlette.concurrency import run_in_threadpool

from everstep.errors import EverstepError
from everstep.records.scores import FILE as SCORES
from everstep.records.steps import FILE as METRICS
from everstep.watching.remembered import RememberedRun
from everstep.watching.sending import encoded, sent
from everstep.watching.views import card, folders_below

LOOK_S = 0.25  # between two looks at the disk, as long as somebody watches
NOTES_EVERY = 4  # looks: notes and scores of versions are files of their own
NOTES_SHARE = 0.01  # of one core, that looking at thousands of them may take
TELL_S = 0.9  # between two tellings of where a run stands
WARMED = 3  # of the newest runs
KEPT_S = 0.5  # an answer serves all who ask within this time


@dataclass(frozen=True, slots=True)
class Mark:
    """By which changes of a run are seen."""

    going: tuple[int, ...]  # where it is, which changes all the time while it trains
    made: tuple[int, ...]  # versions, pictures, scores
    noted: int  # labels and pins


Marks = dict[str, Mark]  # by run


@dataclass(slots=True)
class _Kept:
    began: float = 0.0
    at: float = 0.0
    answer: Any = None
    lock: threading.Lock = field(default_factory=threading.Lock)


class Looking:
    """What was read of runs is remembered, and answers serve whoever asks at the same time."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._runs: dict[Path, RememberedRun] = {}
        self._lock = threading.Lock()
        self._answers: dict[tuple[str, str], _Kept] = {}
        self._listeners = set[asyncio.Queue[str]]()
        self._told_at: dict[str, float] = {}
        self._changed_at: dict[str, float] = {}
        self._watching: asyncio.Task[None] | None = None

    def runs(self) -> list[RememberedRun]:
        """The newest first."""
        folders = folders_below(self.folder)
        with self._lock:
            known = self._runs
            self._runs = {folder: known.get(folder) or RememberedRun(folder.absolute()) for folder in folders}
            return list(self._runs.values())

    def run(self, name: str) -> RememberedRun:
        """By its name among those that are there. Raises: KeyError if there is none."""
        with self._lock:
            known = next((run for run in self._runs.values() if run.name == name), None)
        if known is not None and known.path.is_dir():
            return known
        found = [run for run in self.runs() if run.name == name]
        if not found:
            raise KeyError(name)
        return found[0]

    def once(self, kind: str, run: RememberedRun, ask: Callable[[RememberedRun], Any]) -> Any:
        """Its answer, or one that is a moment old: fifty who watch cost no more than one. Never one from before a
        change that was told.
        """
        kept = self._answers.setdefault((kind, str(run.path)), _Kept())
        with kept.lock:
            began = time.monotonic()
            if began - kept.at > KEPT_S or kept.began < self._changed_at.get(run.name, 0.0):
                kept.answer, kept.began, kept.at = ask(run), began, time.monotonic()
            return kept.answer

    def has_changed(self, run: RememberedRun) -> None:
        """What was answered of it before is not what is there any more."""
        self._changed_at[run.name] = time.monotonic()

    def whole(self, run: RememberedRun) -> bytes:
        """All of it, as it is sent. Raises: EverstepError."""
        return bytes(self.once("whole", run, sent))

    def warm(self) -> None:
        """Read what whoever opens the page will ask for; who asks meanwhile gets the same answer."""
        with contextlib.suppress(EverstepError, OSError):
            for run in self.runs()[:WARMED]:
                self.whole(run)

    # --- what changes ----------------------------------------------------------------------------------------

    async def changes(self) -> AsyncIterator[str | None]:
        """What changed, as JSON: run, and "now" with where it stands, or "all". None now and then, to notice an end."""
        queue = asyncio.Queue[str](maxsize=1000)
        self._listeners.add(queue)
        if self._watching is None or self._watching.done():
            self._watching = asyncio.create_task(self._watch())
        try:
            while True:
                try:
                    yield await asyncio.wait_for(queue.get(), 5.0)
                except TimeoutError:
                    yield None
        finally:
            self._listeners.discard(queue)

    async def _watch(self) -> None:
        """As long as anybody listens."""
        looks, seen = 0, await run_in_threadpool(self._marks, {}, True)
        while self._listeners:
            await asyncio.sleep(LOOK_S)
            looks += 1
            try:
                found = await run_in_threadpool(self._marks, seen, looks % NOTES_EVERY == 0)
            except (EverstepError, OSError):  # a disk that does not answer now; it is asked again
                continue
            for name in sorted({*seen, *found}):
                was, now = seen.get(name), found.get(name)
                if was == now:
                    continue
                if was is None or now is None or (was.made, was.noted) != (now.made, now.noted):
                    self._changed_at[name] = time.monotonic()
                    self._tell(name, "all")
                elif time.monotonic() - self._told_at.get(name, 0.0) > TELL_S:
                    self._told_at[name] = time.monotonic()
                    self._tell(name, "now", await run_in_threadpool(self._card, name))
                else:
                    found[name] = was  # what changes all the time is told once a second
            seen = found

    def _card(self, name: str) -> Any:
        with contextlib.suppress(KeyError, EverstepError):
            return card(self.run(name))

    def _tell(self, name: str, what: str, told: Any = None) -> None:
        change = encoded({"run": name, "what": what, "told": told}).decode()
        for queue in self._listeners:
            with contextlib.suppress(asyncio.QueueFull):  # one who does not listen is told again
                queue.put_nowait(change)

    def _marks(self, before: Marks, with_notes: bool) -> Marks:
        marks = {}
        for run in self.runs():
            layout, known = run.layout, before.get(run.name)
            holder = run.holder()  # one who is killed writes nothing any more
            going = (*_stamps(layout.live, layout.records / METRICS), 0 if holder is None else holder.pid)
            made = _stamps(layout.root, layout.trash, layout.samples, layout.records / SCORES)
            if with_notes or known is None:
                noted = run.once("noted", object(), partial(_newest_note, layout.records), share=NOTES_SHARE)
            else:
                noted = known.noted
            marks[run.name] = Mark(going, made, noted)
        return marks


def _stamps(*paths: Path) -> tuple[int, ...]:
    """Move whenever one of them is written; a file that is not there does not."""
    stamps = []
    for path in paths:
        try:
            stamps.append(path.stat().st_mtime_ns)
        except OSError:
            stamps.append(0)
    return tuple(stamps)


def _newest_note(records: Path) -> int:
    """When a version was labelled, pinned or scored last."""
    newest = 0
    with contextlib.suppress(OSError), os.scandir(records) as entries:
        for entry in entries:
            if entry.name.startswith("version_"):
                with contextlib.suppress(OSError):
                    newest = max(newest, entry.stat().st_mtime_ns)
    return newest
