"""Who may ask the page: this machine alone, or who has the token; and nobody through a page of somebody else's.

A browser sends what any site tells it to, to this machine too. So the name that was asked for has to be one of ours
(against names that are made to point here), and what changes something has to come from our own page.
"""

import hmac
import secrets
from collections.abc import Iterable
from http.cookies import SimpleCookie
from urllib.parse import parse_qs, urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import PlainTextResponse, RedirectResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

LOOPBACK = ("127.0.0.1", "localhost", "::1")
COOKIE = "everstep"
MARK = "x-everstep"  # a header that only scripts of the same origin may set
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
HEADERS = {
    "content-security-policy": POLICY,
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
}


def new_token() -> str:
    return secrets.token_urlsafe(24)


class Guard:
    """Stands before the app."""

    def __init__(self, app: ASGIApp, names: Iterable[str] = (), token: str | None = None) -> None:
        """
        Args:
            names: by which this machine may be asked for, besides those that mean itself.
            token: without which nothing is answered; None where only this machine can ask.
        """
        self._app, self._names, self._token = app, {*LOOPBACK, *names}, token

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)

        async def guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(HEADERS)
            await send(message)

        refusal = self._refusal(scope, headers)
        if refusal is None and self._brings_token(scope):
            answer = RedirectResponse(scope["path"], 303)  # the token leaves the address, where others could read it
            answer.set_cookie(COOKIE, str(self._token), httponly=True, samesite="strict")
            await answer(scope, receive, guarded)
        elif refusal is None:
            await self._app(scope, receive, guarded)
        else:
            await PlainTextResponse(refusal[1], refusal[0])(scope, receive, guarded)

    def _refusal(self, scope: Scope, headers: Headers) -> tuple[int, str] | None:
        name = _name(headers.get("host", ""))
        if name not in self._names:
            return 421, f"This page is not called {name[:80]}. Open it as it was told where it was started."
        if self._token is not None and not self._brings_token(scope) and not self._has_cookie(headers):
            return 403, "The address needs its token: ?token=..., as it was told where the page was started."
        if scope["method"] not in ("GET", "HEAD"):
            origin = headers.get("origin")
            is_ours = origin is None or urlsplit(origin).netloc == headers.get("host", "")
            if headers.get(MARK) != "1" or not is_ours or headers.get("sec-fetch-site", "same-origin") != "same-origin":
                return 403, "Only this page's own buttons change anything."
        return None

    def _brings_token(self, scope: Scope) -> bool:
        given = parse_qs(scope["query_string"].decode("latin-1")).get("token", [""])[0]
        return self._token is not None and hmac.compare_digest(given.encode(), self._token.encode())

    def _has_cookie(self, headers: Headers) -> bool:
        held = SimpleCookie(headers.get("cookie", "")).get(COOKIE)
        return held is not None and hmac.compare_digest(held.value.encode(), str(self._token).encode())


def _name(host: str) -> str:
    """Without its port."""
    try:
        return urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return ""
