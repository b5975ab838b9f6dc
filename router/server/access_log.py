"""One line in the log for every HTTP request."""

from __future__ import annotations

import logging
import time

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ..telemetry.logs import accessed, accesses

# As nginx says that the client left before there was an answer.
CLIENT_LEFT = 499


class AccessLog:
    """Logs what an app was asked over HTTP: method, path, status, time. Costs nothing where nobody reads it."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a request."""
        if scope["type"] != "http" or not accesses.isEnabledFor(logging.INFO):
            await self._app(scope, receive, send)
            return
        begun = time.perf_counter()
        status, request_id = CLIENT_LEFT, None

        async def note(message: Message) -> None:
            nonlocal status, request_id
            if message["type"] == "http.response.start":
                status = message["status"]
                named = (value for name, value in message["headers"] if name == b"x-smallfirst-request-id")
                request_id = next(named, None)
            await send(message)

        try:
            await self._app(scope, receive, note)
        finally:
            # The path of the table, not the one that was asked for: callers may put anything into that.
            path = getattr(scope.get("endpoint"), "path", "(none)")
            identity = None if request_id is None else request_id.decode("latin-1")
            accessed(scope["method"], path, status, seconds=time.perf_counter() - begun, request_id=identity)
