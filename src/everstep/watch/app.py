"""The page's server: answers with what the disk says, and does what buttons ask. Knows nothing of training."""

import json
import threading
from collections.abc import AsyncIterator, Callable, Iterable
from functools import lru_cache
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
from everstep.watch.actions import act
from everstep.watch.guard import Guard
from everstep.watch.looking import Looking
from everstep.watch.pictures import drawing, picture
from everstep.watch.remembered import RememberedRun
from everstep.watch.report import PAGE
from everstep.watch.views import card, log_of, version_of, whole

KINDS = {".html": "text/html", ".js": "text/javascript", ".css": "text/css", ".svg": "image/svg+xml"}
FOR_EVER = {"cache-control": "private, max-age=31536000, immutable"}
NOT_KEPT = {"cache-control": "no-store"}
LONGEST_BODY = 10_000  # bytes


def make_app(folder: Path, names: Iterable[str] = (), token: str | None = None) -> ASGIApp:
    """
    Args:
        folder: of runs, or one run.
        names, token: as Guard has them.
    """
    looking = Looking(folder)
    threading.Thread(target=looking.warm, daemon=True).start()  # while the browser is opened
    watched = Watched(looking)
    routes = [
        Route("/", _page("index.html")),
        Route("/page/{name}", _static),
        Route("/api/runs", watched.all_runs),
        Route("/api/runs/{run}", watched.answer("whole", whole)),
        Route("/api/runs/{run}/now", watched.answer("now", card)),
        Route("/api/runs/{run}/log", watched.answer("log", log_of)),
        Route("/api/runs/{run}/versions/{number:int}", watched.version),
        Route("/api/runs/{run}/do/{button}", watched.do, methods=["POST"]),
        Route("/pictures/{run}/{number:int}/{row}/{pair:int}", watched.picture),
        Route("/events", watched.events),
    ]
    return Guard(Starlette(routes=routes, exception_handlers={KeyError: _gone, EverstepError: _refused}), names, token)


class Watched:
    """Answers about the runs of a folder."""

    def __init__(self, looking: Looking) -> None:
        self._looking = looking
        # By the time of the drawing too: a version that is scored again is drawn anew.
        self._cut = lru_cache(maxsize=2048)(lambda path, drawn, row, pair: picture(path, row, pair))

    def _run(self, request: Request) -> RememberedRun:
        return self._looking.run(request.path_params["run"])

    def all_runs(self, request: Request) -> Response:
        cards = [self._looking.once("card", run, card) for run in self._looking.runs()]
        return JSONResponse({"folder": str(self._looking.folder), "runs": cards}, headers=NOT_KEPT)

    def answer(self, kind: str, ask: Callable[[RememberedRun], Any]) -> Callable[[Request], Response]:
        """An endpoint; what it answers is made once for all who ask at the same time."""

        def as_json(run: RememberedRun) -> bytes:
            return bytes(JSONResponse(ask(run)).body)

        def answered(request: Request) -> Response:
            body = self._looking.once(kind, self._run(request), as_json)
            return Response(body, media_type="application/json", headers=NOT_KEPT)

        return answered

    def version(self, request: Request) -> Response:
        return JSONResponse(version_of(self._run(request), request.path_params["number"]), headers=NOT_KEPT)

    def picture(self, request: Request) -> Response:
        """`?drawn=` names this very drawing, so that it never changes."""
        given = request.path_params
        path = sheet_path(self._run(request), given["number"])
        try:
            drawn = drawing(path)
        except OSError:
            return Response(status_code=404)
        content = self._cut(path, drawn, given["row"], given["pair"])
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
            return JSONResponse({"error": "A button sends a short JSON object."}, 400, NOT_KEPT)
        run = await run_in_threadpool(self._run, request)
        done = await run_in_threadpool(act, request.path_params["button"], run, given)
        return JSONResponse(done.as_json(), headers=NOT_KEPT)

    async def events(self, request: Request) -> Response:
        """What changes, as server-sent events."""
        return StreamingResponse(self._told(), media_type="text/event-stream", headers=NOT_KEPT)

    async def _told(self) -> AsyncIterator[str]:
        yield "retry: 1000\n\n"
        async for changed in self._looking.changes():
            if changed is None:
                yield ": nothing\n\n"
            else:
                yield f"data: {changed}\n\n"


def _gone(request: Request, error: Exception) -> Response:
    return JSONResponse({"error": "There is no such run any more."}, 404, NOT_KEPT)


def _refused(request: Request, error: Exception) -> Response:
    return JSONResponse({"error": str(error)}, 409, NOT_KEPT)


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
