"""The ASGI application: which path does what."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

from starlette.routing import Route, Router
from starlette.types import ASGIApp, Receive, Scope, Send

from ..access.gate import Gate
from ..access.headers import anthropic_headers, openai_headers
from ..errors import RequestError
from ..gateway import Gateway
from ..settings import Settings
from ..wires.base import openai_error
from ..wires.messages import error_body as anthropic_error
from ..wires.response_store import ResponseStore
from .access_log import AccessLog
from .bounds import Bounded, Bounds
from .dashboard import Dashboard
from .drain import Drain
from .family import Family
from .http import Endpoint, Incoming, error_response, json_response
from .openapi import Operation, document
from .operations import operations
from .reload import Reload, Reloading, listen_for_hangup
from .responses import open_store


def make_app(
    gateway: Gateway,
    *,
    read_settings: Callable[[], Settings] | None = None,
    settled: Callable[[], None] = lambda: None,
    drain: Drain | None = None,
    family: Family | None = None,
) -> Bounded:
    """Return the proxy over a gateway. Its lifespan loads the models and closes the gateway at the end.

    Args:
        gateway: Serves until the settings are read again.
        read_settings: Reads them again, on SIGHUP and `POST /admin/reload`; may block. Default: never.
        settled: Called when the models are loaded, and when a gateway that was replaced is gone; see `memory`.
        drain: Says when the server is about to end, and ends what is under way; see `graceful`.
        family: Other processes that serve beside this one.
    """
    store = (None if family is None else family.responses) or open_store(gateway.settings)
    gate = Gate(gateway.settings, limiter=None if family is None else family.limiter)
    dashboard = Dashboard(gate, secret=None if family is None else family.secret)
    bounds = Bounds(gateway.settings.limits)
    gateway.access, gateway.load = gate.health, bounds.load

    def follow(settings: Settings) -> None:
        gate.follow(settings)
        bounds.follow(settings.limits)

    served = Reloading(
        gateway,
        partial(_app_over, store, gate, dashboard, drain or Drain(), family),
        read_settings,
        follow=follow,
        retired=settled,
    )

    async def load() -> None:
        await gateway.load_models()
        settled()

    @asynccontextmanager
    async def lifespan(_: Any) -> AsyncIterator[None]:
        gateway.start()
        gate.start()
        bounds.start()
        # In the background: the server answers probes at once, and requests wait for the model they need.
        loading = asyncio.create_task(load())
        alone = read_settings is not None and family is None
        stop_listening = listen_for_hangup(served) if alone else None
        if family is not None:
            family.serves(served)
        try:
            yield
        finally:
            bounds.stop()
            loading.cancel()
            await asyncio.gather(loading, return_exceptions=True)
            await store.aclose()
            await served.aclose()
            await gate.aclose()
            if stop_listening is not None:
                # Last: a SIGHUP that nobody listens to ends the process, before the ledger is written.
                stop_listening()

    return Bounded(_Server(AccessLog(served), Router([], lifespan=lifespan)), bounds)


def _app_over(
    store: ResponseStore,
    gate: Gate,
    dashboard: Dashboard,
    drain: Drain,
    family: Family | None,
    gateway: Gateway,
    reload: Reload,
) -> ASGIApp:
    """Return the app over one gateway."""
    table = operations(store, reload, family)
    described = document(table)

    async def openapi(_: Gateway, incoming: Incoming) -> ASGIApp:
        return json_response(described)

    by_path: dict[str, dict[str, Endpoint]] = {}
    for operation in (
        *table,
        Operation("GET", "/openapi.json", openapi, "This document", "Object", public=True),
    ):
        endpoint = Endpoint(
            partial(operation.handler, gateway),
            gate,
            public=operation.public or operation.admin_key,
            admin=operation.admin,
            error_body=operation.error_body,
            rate_headers=anthropic_headers if operation.error_body is anthropic_error else openai_headers,
            drain=drain,
        )
        by_path.setdefault(operation.path, {})[operation.method] = endpoint
    paths = {path: _Methods(path, endpoints) for path, endpoints in by_path.items()}
    routes = [Route(path, methods) for path, methods in paths.items()]
    router = Router([*routes, *dashboard.over(gateway)], redirect_slashes=False, default=_not_found)
    return _Paths({path: methods for path, methods in paths.items() if "{" not in path}, router)


class _Server:
    """Serves requests by one app, and begins and ends by the lifespan of another."""

    def __init__(self, app: ASGIApp, lifespan: ASGIApp) -> None:
        self._app = app
        self._lifespan = lifespan

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        app = self._lifespan if scope["type"] == "lifespan" else self._app
        await app(scope, receive, send)


class _Paths:
    """Looks up paths that have no parameters; all else is the router's.

    Args:
        fixed: By path.
        others: A router that has these, too: for an app that is mounted below another one's path.
    """

    def __init__(self, fixed: Mapping[str, _Methods], others: ASGIApp) -> None:
        self._fixed = fixed
        self._others = others

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        found = None if scope.get("root_path") else self._fixed.get(scope["path"])
        if found is None:
            await self._others(scope, receive, send)
            return
        scope["endpoint"] = found
        await found(scope, receive, send)


class _Methods:
    """One path's endpoints by method; another method gets 405 in the wire's error shape."""

    def __init__(self, path: str, endpoints: dict[str, Endpoint]) -> None:
        self.path = path
        self._endpoints = endpoints

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        endpoint = self._endpoints.get("GET" if scope["method"] == "HEAD" else scope["method"])
        if endpoint is not None:
            await endpoint(scope, receive, send)
            return
        allowed = ", ".join(self._endpoints)
        error_body = next(iter(self._endpoints.values())).error_body
        response = error_response(_HttpError(405, f"Method not allowed. Allowed: {allowed}."), error_body)
        response.headers["allow"] = allowed
        await response(scope, receive, send)


class _HttpError(RequestError):
    type = "invalid_request_error"

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


async def _not_found(scope: Scope, receive: Receive, send: Send) -> None:
    error_body = anthropic_error if scope["path"].startswith("/v1/messages/") else openai_error
    exc = _HttpError(404, f"There is no {scope['method']} {scope['path'][:100]}.")
    response = error_response(exc, error_body)
    await response(scope, receive, send)
