"""`/dashboard`: the report as a page that is kept up to date, behind a sign-in where keys are configured."""

from __future__ import annotations

import hashlib
import logging
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from datetime import UTC, datetime
from urllib.parse import parse_qsl

import msgspec
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response, StreamingResponse
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from ..access.gate import Gate
from ..dashboard import RANGES, Feed, Figures, View, figures_of
from ..dashboard.view import PARAMETERS
from ..errors import (
    AuthenticationFailed,
    Forbidden,
    InvalidRequest,
    LedgerError,
    LedgerUnavailable,
    RequestError,
)
from ..gateway import Gateway
from ..ledger.live import LiveReports
from ..ledger.page import failed, pages, sections
from ..ledger.report import GROUPS
from ..ledger.store import NothingRecorded
from ..pages import Pages
from .http import error_response, json_response
from .visitors import COOKIE, LOGIN, Door, Visitor

log = logging.getLogger("smallfirst.server")

PAGE = "/dashboard"
# A stream of updates ends after so many seconds and the browser asks again: a key that was revoked, settings that were
# read again and a server that stops (it waits for `server.grace`) need then no word of their own.
STREAM_SECONDS = 8.0
_RETRY_MS = 300
_MOST_FORM_BYTES = 4096
_HERE = "<!-- figures -->"

Handler = Callable[[Request], Awaitable[Response]]
Sections = dict[str, str]


class Dashboard:
    """The dashboard of one server.

    Args:
        gate: Knows who may look.
        secret: Of the processes that serve together; None: there is but one.
    """

    def __init__(self, gate: Gate, *, secret: bytes | None = None) -> None:
        self._door = Door(gate, secret=secret)
        self._pages = pages("smallfirst.router.dashboard")

    def over(self, gateway: Gateway) -> list[Route]:
        """Return the routes that show one gateway's ledger."""
        rooms = _Rooms(gateway, self._door, self._pages)
        handlers: tuple[tuple[str, str, Handler], ...] = (
            ("GET", PAGE, rooms.page),
            ("GET", f"{PAGE}/events", rooms.events),
            ("GET", f"{PAGE}/figures", rooms.figures),
            ("POST", LOGIN, rooms.login),
            ("POST", f"{PAGE}/logout", rooms.logout),
        )
        return [Route(path, _Endpoint(path, method, handler)) for method, path, handler in handlers]


class _Rooms:
    """What is behind the paths, over one gateway."""

    def __init__(self, gateway: Gateway, door: Door, made: Pages) -> None:
        self._gateway = gateway
        self._door = door
        self._pages = made
        self._maker = pages("smallfirst.router.ledger")
        self._reports = LiveReports(gateway.ledger.store)
        stamp = lambda: gateway.ledger.health().written  # noqa: E731
        self._sections: Feed[View, Sections] = Feed(self._made, stamp=stamp, idle=self._reports.forget)
        self._figures: Feed[str | None, Figures] = Feed(self._counted, stamp=stamp, idle=self._reports.forget)

    async def page(self, request: Request) -> Response:
        """Show the page. Its head is sent before the figures are made, so that there is something to see at once."""
        try:
            visitor = await self._door.visitor(request)
        except AuthenticationFailed as exc:
            tried = "authorization" in request.headers or "x-api-key" in request.headers
            return self._sign_in(str(exc) if tried else "", 401)
        view = _view(request, visitor)
        nonce = secrets.token_urlsafe(16)
        whole = self._pages.render(
            "dashboard.html",
            title="smallfirst dashboard",
            nonce=nonce,
            view=view,
            visitor=visitor,
            ranges=RANGES,
            groups=[name for name in GROUPS if visitor.tenant is None or name != "tenant"],
            prices=self._gateway.prices.source,
        )
        return StreamingResponse(self._chunks(whole, view), headers=_headers(nonce), media_type="text/html")

    async def _chunks(self, whole: str, view: View) -> AsyncIterator[str]:
        head, tail = whole.split(_HERE)
        yield head
        shown = await self._sections.now(view)
        seen = f'<i hidden id="seen" data-seen="{_version(shown)}"></i>'
        yield "\n".join(shown.values()) + seen + tail

    async def events(self, request: Request) -> Response:
        """Send what changes, as server-sent events; the page asks again when the stream ends."""
        visitor = await self._door.visitor(request)
        view = _view(request, visitor, "seen")
        seen = request.headers.get("last-event-id") or request.query_params.get("seen", "")
        self._sections.enter()
        return _Seated(self._changes(view, seen), self._sections.leave)

    async def _changes(self, view: View, seen: str) -> AsyncIterator[bytes]:
        yield f"retry: {_RETRY_MS}\n\n".encode()
        async for shown in self._sections.follow(view, STREAM_SECONDS):
            if shown is None or (version := _version(shown)) == seen:
                yield b": nothing changed\n\n"
                continue
            yield _event(shown, version, seen)
            seen = version

    async def figures(self, request: Request) -> Response:
        """Return the figures of `smallfirst top`."""
        visitor = await self._door.visitor(request)
        try:
            found = await self._figures.now(visitor.tenant or request.query_params.get("tenant") or None)
        except LedgerError as exc:
            raise LedgerUnavailable("There are no figures: the ledger cannot be read now.") from exc
        return json_response(found, headers={"cache-control": "no-store"})

    async def login(self, request: Request) -> Response:
        """Take a key, and give a cookie for it."""
        _from_here(request)
        given = (await _form(request)).get("key", "").strip()
        try:
            value = await self._door.sign_in(given)
        except AuthenticationFailed as exc:
            return self._sign_in(str(exc), 401)
        response = RedirectResponse(PAGE, 303)
        secure = request.url.scheme == "https"
        response.set_cookie(
            COOKIE,
            value,
            max_age=self._door.lifetime,
            path=PAGE,
            httponly=True,
            samesite="strict",
            secure=secure,
        )
        return response

    async def logout(self, request: Request) -> Response:
        """Take the cookie away."""
        _from_here(request)
        response = RedirectResponse(PAGE, 303)
        response.delete_cookie(COOKIE, path=PAGE)
        return response

    def _sign_in(self, said: str, status: int) -> Response:
        nonce = secrets.token_urlsafe(16)
        shown = self._pages.render("login.html", title="smallfirst: sign in", nonce=nonce, said=said)
        return Response(shown, status, headers=_headers(nonce), media_type="text/html")

    def _made(self, view: View) -> Sections:
        """Make the sections of a view; runs in a thread."""
        try:
            report = self._reports.make(
                since=view.since(datetime.now(UTC)),
                until=None,
                by=(view.by,),
                prices=self._gateway.prices.source,
                tenant=view.tenant,
            )
        except NothingRecorded:
            report = None
        except LedgerError as exc:
            log.error("the dashboard cannot read the ledger: %s", exc)
            return {name: str(html) for name, html in failed(self._maker).items()}
        port = self._gateway.settings.server.port
        return {name: str(html) for name, html in sections(report, maker=self._maker, port=port).items()}

    def _counted(self, tenant: str | None) -> Figures:
        return figures_of(self._reports, datetime.now(UTC), tenant)


class _Seated(StreamingResponse):
    """A stream that gives its viewer's place back at its end, however that comes."""

    def __init__(self, content: AsyncIterator[bytes], leave: Callable[[], None]) -> None:
        headers = {
            "cache-control": "no-store",
            "x-accel-buffering": "no",
            "x-content-type-options": "nosniff",
        }
        super().__init__(content, headers=headers, media_type="text/event-stream")
        self._leave = leave

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._leave()


class _Endpoint:
    """A handler as an ASGI app; errors are JSON, as everywhere else."""

    def __init__(self, path: str, method: str, handler: Handler) -> None:
        # By this name the access log knows it.
        self.path = path
        self._method = method
        self._handler = handler

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive)
        allowed = ("GET", "HEAD") if self._method == "GET" else (self._method,)
        if request.method not in allowed:
            response: Response = error_response(_NotAllowed(f"Method not allowed. Allowed: {self._method}."))
            response.headers["allow"] = self._method
        else:
            try:
                response = await self._handler(request)
            except RequestError as exc:
                response = error_response(exc)
        await response(scope, receive, send)


class _NotAllowed(RequestError):
    status, type = 405, "invalid_request_error"


def _view(request: Request, visitor: Visitor, *more: str) -> View:
    for name in request.query_params:
        if name not in (*PARAMETERS, *more):
            raise InvalidRequest(f"Unknown query parameter '{name[:100]}'.", param=name[:100])
    return View.of(request.query_params, visitor.tenant)


def _version(shown: Mapping[str, str]) -> str:
    """Return what tells which sections a page shows, in the order of the page: a name and a digest each."""
    digests = (hashlib.blake2b(html.encode(), digest_size=6).hexdigest() for html in shown.values())
    return ",".join(f"{name}.{digest}" for name, digest in zip(shown, digests, strict=True))


def _event(shown: Mapping[str, str], version: str, seen: str) -> bytes:
    """Return the sections that a page does not show yet; all of them, and `whole`, where it shows others.

    Args:
        shown: What it should show.
        version: Of these.
        seen: The version that the page shows; it comes from the browser, so it may be anything.
    """
    now, before = (dict.fromkeys(text.split(",")) for text in (version, seen))
    whole = [part.partition(".")[0] for part in now] != [part.partition(".")[0] for part in before]
    changed = {
        name: html
        for (name, html), part in zip(shown.items(), now, strict=True)
        if whole or part not in before
    }
    said = {"at": f"{datetime.now(UTC):%H:%M:%S}", "whole": whole, "sections": changed}
    return b"id: " + version.encode() + b"\ndata: " + msgspec.json.encode(said) + b"\n\n"


def _headers(nonce: str) -> dict[str, str]:
    """Return what keeps a page to itself: nothing from elsewhere, no script but its own, in no other page's frame."""
    policy = (
        f"default-src 'none'; script-src 'nonce-{nonce}'; style-src 'nonce-{nonce}'; connect-src 'self'; "
        "img-src data:; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    )
    return {
        "content-security-policy": policy,
        "cache-control": "no-store",
        "cross-origin-opener-policy": "same-origin",
        "referrer-policy": "same-origin",
        "x-content-type-options": "nosniff",
        "x-frame-options": "DENY",
    }


def _from_here(request: Request) -> None:
    """Check that a form is one of ours: browsers say so.

    Raises:
        Forbidden: Another site sent it.
    """
    if request.headers.get("sec-fetch-site", "none") not in ("same-origin", "none"):
        raise Forbidden("The form is of another site.")


async def _form(request: Request) -> dict[str, str]:
    """Read a short form.

    Raises:
        InvalidRequest: It is too long, or no form.
    """
    body = b""
    async for chunk in request.stream():
        body += chunk
        if len(body) > _MOST_FORM_BYTES:
            raise InvalidRequest("The form is too long.")
    try:
        return dict(parse_qsl(body.decode(), max_num_fields=5))
    except ValueError as exc:
        raise InvalidRequest("This is no form.") from exc
