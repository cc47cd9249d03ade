"""The page's server: answers with what the disk says, and does what buttons ask. Knows nothing of training."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Callable, Iterable
from functools import lru_cache
from importlib.resources import files
from pathlib import Path
from typing import Any

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route
from starlette.types import ASGIApp

from everstep.errors import EverstepError
from everstep.records.sheets import sheet_path
from everstep.versions import Run
from everstep.watch.actions import act
from everstep.watch.guard import Guard
from everstep.watch.pictures import picture
from everstep.watch.views import card, log_of, runs_below, version_of, whole

PAGE = Path(str(files("everstep"))) / "watch" / "page"
KINDS = {".html": "text/html", ".js": "text/javascript", ".css": "text/css", ".svg": "image/svg+xml"}
LOOK_S = 0.5  # between two looks at the disk, as long as somebody watches
FOR_EVER = {"cache-control": "private, max-age=31536000, immutable"}
NOT_KEPT = {"cache-control": "no-store"}
LONGEST_BODY = 10_000  # bytes


def make_app(folder: Path, names: Iterable[str] = (), token: str | None = None) -> ASGIApp:
    """
    Args:
        folder: of runs, or one run.
        names, token: as Guard has them.
    """
    watched = Watched(folder)
    routes = [
        Route("/", _page("index.html")),
        Route("/page/{name}", _static),
        Route("/api/runs", watched.answer(watched.all_runs)),
        Route("/api/runs/{run}", watched.answer(lambda request: whole(watched.run(request)))),
        Route("/api/runs/{run}/log", watched.answer(lambda request: log_of(watched.run(request)))),
        Route("/api/runs/{run}/versions/{number:int}", watched.answer(watched.version)),
        Route("/api/runs/{run}/do/{button}", watched.do, methods=["POST"]),
        Route("/pictures/{run}/{number:int}/{row}/{pair:int}", watched.picture),
        Route("/events", watched.events),
    ]
    return Guard(Starlette(routes=routes), names, token)


class Watched:
    """The runs of a folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        # By the time of the drawing too: a version that is scored again is drawn anew.
        self._cut = lru_cache(maxsize=2048)(lambda path, drawn, row, pair: picture(path, row, pair))

    def run(self, request: Request) -> Run:
        """By its name among those that are there. Raises: KeyError if there is none."""
        name = request.path_params["run"]
        return next(run for run in runs_below(self._folder) if run.name == name)

    def all_runs(self, request: Request) -> dict[str, Any]:
        return {"folder": str(self._folder), "runs": [card(run) for run in runs_below(self._folder)]}

    def version(self, request: Request) -> dict[str, Any]:
        return version_of(self.run(request), request.path_params["number"])

    def answer(self, ask: Callable[[Request], Any]) -> Callable[[Request], Response]:
        def answered(request: Request) -> Response:
            try:
                return JSONResponse(ask(request), headers=NOT_KEPT)
            except StopIteration:
                return JSONResponse({"error": "There is no such run any more."}, 404, NOT_KEPT)
            except EverstepError as error:
                return JSONResponse({"error": str(error)}, 409, NOT_KEPT)

        return answered

    def picture(self, request: Request) -> Response:
        """`?drawn=` names this very drawing, so that it never changes."""
        given = request.path_params
        try:
            path = sheet_path(self.run(request), given["number"])
            drawn = f"{path.stat().st_mtime_ns:x}"
            content = self._cut(path, drawn, given["row"], given["pair"])
        except (StopIteration, EverstepError, OSError):
            return Response(status_code=404)
        headers = FOR_EVER if request.query_params.get("drawn") == drawn else NOT_KEPT
        return Response(content, media_type="image/webp", headers=headers)

    async def do(self, request: Request) -> Response:
        """A button."""
        body = await request.body()
        try:
            given = json.loads(body or b"{}") if len(body) <= LONGEST_BODY else None
        except ValueError:
            given = None
        if not isinstance(given, dict):
            return JSONResponse({"error": "A button sends a short JSON object."}, 400)
        try:
            run = await run_in_threadpool(self.run, request)
            done = await run_in_threadpool(act, request.path_params["button"], run, given)
        except (StopIteration, RuntimeError):
            return JSONResponse({"error": "There is no such run any more."}, 404)
        except EverstepError as error:
            return JSONResponse({"error": str(error)}, 409)
        return JSONResponse(done.as_json())

    # --- what changes ----------------------------------------------------------------------------------------

    async def events(self, request: Request) -> Response:
        """Names of runs, as they change: server-sent events."""
        return StreamingResponse(self._told(), media_type="text/event-stream", headers=NOT_KEPT)

    async def _told(self) -> AsyncIterator[str]:
        seen = await run_in_threadpool(self._marks)
        yield "retry: 1000\n\n"
        while True:
            await asyncio.sleep(LOOK_S)
            now = await run_in_threadpool(self._marks)
            changed = sorted(name for name in {*seen, *now} if seen.get(name) != now.get(name))
            seen = now
            yield "".join(f"data: {json.dumps(name)}\n\n" for name in changed) or ": nothing\n\n"

    def _marks(self) -> dict[str, tuple[int, ...]]:
        return {run.name: _mark(run) for run in runs_below(self._folder)}


def _mark(run: Run) -> tuple[int, ...]:
    """Moves whenever something is written that the page shows."""
    layout, times = run.layout, []
    for path in (layout.root, layout.records, layout.live, layout.samples, layout.records / "metrics.jsonl"):
        with contextlib.suppress(OSError):
            times.append(path.stat().st_mtime_ns)
    return tuple(times)


def _static(request: Request) -> Response:
    name = request.path_params["name"]
    return _page(name)(request) if name in {path.name for path in PAGE.iterdir()} else Response(status_code=404)


def _page(name: str) -> Callable[[Request], Response]:
    def answered(request: Request) -> Response:
        path = PAGE / name
        return Response(
            path.read_bytes(), media_type=KINDS.get(path.suffix, "text/plain"), headers={"cache-control": "no-cache"}
        )

    return answered
