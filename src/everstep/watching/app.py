"""The page's server: answers with what the disk says, and does what buttons ask. Knows nothing of training."""

import json
import threading
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route
from starlette.types import ASGIApp

from everstep.errors import EverstepError, UserError
from everstep.records.sheets import sheet_path
from everstep.records.tried import list_tried, tried_picture
from everstep.watching.actions import act
from everstep.watching.guard import Guard
from everstep.watching.looking import Looking
from everstep.watching.pictures import as_address, drawing, pictures_on, sheet_of
from everstep.watching.remembered import RememberedRun
from everstep.watching.report import PAGE
from everstep.watching.sending import encoded
from everstep.watching.trying import LARGEST_CONDITION, Asked, Studio, is_trained_beside
from everstep.watching.views import card, log_of, version_of

KINDS = {".html": "text/html", ".js": "text/javascript", ".css": "text/css", ".svg": "image/svg+xml"}
FOR_EVER = {"cache-control": "private, max-age=31536000, immutable"}
NOT_KEPT = {"cache-control": "no-store"}
LONGEST_BODY = 10_000  # bytes
CUT = 200  # sheets whose pictures are at hand, of some hundred kilobytes each


class Told(JSONResponse):
    """As our scripts read it."""

    def render(self, content: Any) -> bytes:
        return encoded(content)


class NotAsked(UserError):
    """What was sent is no question at all."""


def make_app(folder: Path, names: Iterable[str] = (), token: str | None = None) -> ASGIApp:
    """
    Args:
        folder: of runs, or one run.
        names, token: as Guard has them.
    """
    looking = Looking(folder)
    threading.Thread(target=looking.warm, daemon=True).start()  # while the browser is opened
    watched = Watched(looking)
    pages = Pages()
    routes = [
        Route("/", pages.first),
        Route("/page/{name}", pages.named),
        Route("/api/runs", watched.all_runs),
        Route("/api/runs/{run}", watched.whole),
        Route("/api/runs/{run}/now", watched.answer("now", card)),
        Route("/api/runs/{run}/log", watched.answer("log", log_of)),
        Route("/api/runs/{run}/versions/{number:int}", watched.version),
        Route("/api/runs/{run}/do/{button}", watched.do, methods=["POST"]),
        Route("/api/runs/{run}/try", watched.draw, methods=["POST"]),
        Route("/api/runs/{run}/keep", watched.keep, methods=["POST"]),
        Route("/api/runs/{run}/tried", watched.answer("tried", list_tried)),
        Route("/tried/{run}/{name}", watched.tried),
        Route("/tried/{run}/{name}/{number:int}", watched.tried),
        Route("/api/runs/{run}/pictures/{number:int}", watched.pictures),
        Route("/events", watched.events),
    ]
    handlers: Any = {KeyError: _gone, EverstepError: _refused}
    return Guard(Starlette(routes=routes, exception_handlers=handlers, lifespan=watched.lifespan), names, token)


class Watched:
    """Answers about the runs of a folder."""

    def __init__(self, looking: Looking) -> None:
        self._looking, self._studio = looking, Studio()
        # By the time of the drawing too: a version that is scored again is drawn anew.
        self._cut = lru_cache(maxsize=CUT)(_cut)

    @asynccontextmanager
    async def lifespan(self, app: Starlette) -> AsyncIterator[None]:
        """What was started to draw ends with the server."""
        yield
        self._studio.close()

    def _run(self, request: Request) -> RememberedRun:
        return self._looking.run(request.path_params["run"])

    def all_runs(self, request: Request) -> Response:
        cards = [self._looking.once("card", run, card) for run in self._looking.runs()]
        return Told({"folder": str(self._looking.folder), "runs": cards}, headers=NOT_KEPT)

    def answer(self, kind: str, ask: Callable[[RememberedRun], Any]) -> Callable[[Request], Response]:
        """An endpoint; what it answers is made once for all who ask at the same time."""

        def as_json(run: RememberedRun) -> bytes:
            return encoded(ask(run))

        def answered(request: Request) -> Response:
            body = self._looking.once(kind, self._run(request), as_json)
            return Response(body, media_type="application/json", headers=NOT_KEPT)

        return answered

    def whole(self, request: Request) -> Response:
        return Response(self._looking.whole(self._run(request)), media_type="application/json", headers=NOT_KEPT)

    def version(self, request: Request) -> Response:
        return Told(version_of(self._run(request), request.path_params["number"]), headers=NOT_KEPT)

    def pictures(self, request: Request) -> Response:
        """Of a version's sheet, by row. `?drawn=` names this very drawing, so that it never changes."""
        run = self._run(request)
        version = run.find(str(request.path_params["number"]))
        facts = sheet_of(run, version)
        if facts is None:
            return Response(status_code=404)
        drawn = drawing(sheet_path(run, version.number))
        body = self._cut(sheet_path(run, version.number), drawn, len(facts.captions))
        headers = FOR_EVER if request.query_params.get("drawn") == drawn else NOT_KEPT
        return Response(body, media_type="application/json", headers=headers)

    async def do(self, request: Request) -> Response:
        """A button."""
        given = await _given(request, LONGEST_BODY)
        run = await run_in_threadpool(self._run, request)
        done = await run_in_threadpool(act, request.path_params["button"], run, given)
        self._looking.has_changed(run)
        return Told(done.as_json(), headers=NOT_KEPT)

    async def draw(self, request: Request) -> Response:
        """A line of JSON for whatever comes of it, as it comes."""
        given = await _given(request, 2 * LARGEST_CONDITION)
        run = await run_in_threadpool(self._run, request)
        asked = await run_in_threadpool(Asked, run, given)
        is_beside = await run_in_threadpool(is_trained_beside, self._looking.runs())
        told = (encoded(fact) + b"\n" for fact in self._studio.draw(asked, is_beside))
        return StreamingResponse(told, media_type="application/x-ndjson", headers=NOT_KEPT)

    async def keep(self, request: Request) -> Response:
        """What was drawn, as a record."""
        given = await _given(request, LONGEST_BODY)
        run = await run_in_threadpool(self._run, request)
        kept = await run_in_threadpool(self._studio.keep, run, given.get("name"))
        self._looking.has_changed(run)
        return Told({"command": f"kept in {kept}", "code": 0, "said": ""}, headers=NOT_KEPT)

    def tried(self, request: Request) -> Response:
        """A picture of such a record."""
        content = tried_picture(self._run(request), request.path_params["name"], request.path_params.get("number"))
        if content is None:
            return Response(status_code=404)
        return Response(content, media_type="image/png", headers=FOR_EVER)

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


async def _given(request: Request, most_bytes: int) -> dict[str, Any]:
    """The JSON object that was sent. Raises: NotAsked."""
    length = request.headers.get("content-length", "")
    body = await request.body() if length.isdigit() and int(length) <= most_bytes else b""
    try:
        given = json.loads(body or "null")
    except ValueError:
        given = None
    if not isinstance(given, dict):
        raise NotAsked(f"What is asked is a JSON object of at most {most_bytes:,} bytes.")
    return given


def _cut(sheet: Path, drawn: str, pairs: int) -> bytes:
    found = pictures_on(sheet, pairs)
    return encoded({row: [as_address(picture) for picture in pictures] for row, pictures in found.items()})


def _gone(request: Request, error: Exception) -> Response:
    return Told({"error": "There is no such run any more."}, 404, NOT_KEPT)


def _refused(request: Request, error: Exception) -> Response:
    return Told({"error": str(error)}, 400 if isinstance(error, NotAsked) else 409, NOT_KEPT)


class Pages:
    """The page's own files, read once: answered without a thread and without the disk."""

    def __init__(self) -> None:
        self._files = {path.name: path.read_bytes() for path in PAGE.iterdir() if path.suffix in KINDS}

    async def first(self, request: Request) -> Response:
        return self._answer("index.html")

    async def named(self, request: Request) -> Response:
        name = request.path_params["name"]
        return self._answer(name) if name in self._files else Response(status_code=404)

    def _answer(self, name: str) -> Response:
        kind = KINDS[Path(name).suffix]
        return Response(self._files[name], media_type=kind, headers={"cache-control": "no-cache"})
