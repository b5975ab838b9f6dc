"""The ASGI application: which path does what."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

from starlette.routing import Route, Router
from starlette.types import ASGIApp, Receive, Scope, Send

from ..errors import RequestError
from ..gateway import Gateway
from . import cache, chat, classify, embeddings, feedback, pages
from .http import Endpoint, Incoming, error_response

GatewayHandler = Callable[[Gateway, Incoming], Awaitable[ASGIApp]]

_ROUTES: tuple[tuple[str, str, GatewayHandler], ...] = (
    ("POST", "/v1/chat/completions", chat.chat_completions),
    ("POST", "/v1/classify", classify.classify),
    ("POST", "/v1/embeddings", embeddings.embeddings),
    ("POST", "/v1/feedback", feedback.feedback),
    ("POST", "/v1/route", chat.route),
    ("DELETE", "/v1/cache", cache.forget),
    ("GET", "/v1/models", pages.list_models),
    ("GET", "/metrics", pages.metrics),
)
# Probes have no key: they tell nothing of requests.
_PUBLIC: tuple[tuple[str, str, GatewayHandler], ...] = (
    ("GET", "/health", pages.health),
    ("GET", "/health/ready", pages.ready),
)


def make_app(gateway: Gateway) -> ASGIApp:
    """Return the proxy over a gateway. Its lifespan loads the models and closes the gateway at the end."""

    @asynccontextmanager
    async def lifespan(_: Any) -> AsyncIterator[None]:
        gateway.start()
        # In the background: the server answers probes at once, and requests wait for the model they need.
        loading = asyncio.create_task(gateway.load_models())
        try:
            yield
        finally:
            loading.cancel()
            await asyncio.gather(loading, return_exceptions=True)
            await gateway.aclose()

    settings = gateway.settings
    routes = [
        Route(path, _Methods({method: Endpoint(partial(handler, gateway), settings, public=public)}))
        for table, public in ((_ROUTES, False), (_PUBLIC, True))
        for method, path, handler in table
    ]
    return Router(routes, redirect_slashes=False, default=_not_found, lifespan=lifespan)


class _Methods:
    """One path's endpoints by method; another method gets 405 in OpenAI's shape."""

    def __init__(self, endpoints: dict[str, Endpoint]) -> None:
        self._endpoints = endpoints

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        endpoint = self._endpoints.get("GET" if scope["method"] == "HEAD" else scope["method"])
        if endpoint is not None:
            await endpoint(scope, receive, send)
            return
        allowed = ", ".join(self._endpoints)
        response = error_response(_HttpError(405, f"Method not allowed. Allowed: {allowed}."))
        response.headers["allow"] = allowed
        await response(scope, receive, send)


class _HttpError(RequestError):
    type = "invalid_request_error"

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


async def _not_found(scope: Scope, receive: Receive, send: Send) -> None:
    response = error_response(_HttpError(404, f"There is no {scope['method']} {scope['path'][:100]}."))
    await response(scope, receive, send)
