"""The edge between ASGI and the gateway: bodies in, responses and errors out."""

from __future__ import annotations

import hashlib
import hmac
import logging
import math
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import msgspec
from starlette.datastructures import Headers, QueryParams
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from ..errors import AuthenticationFailed, BodyTooLarge, RequestError
from ..settings import Settings
from ..wire import ChatRequest
from ..wires.base import openai_error

log = logging.getLogger("smallfirst.server")

# Request headers that carry hints or are passed on; no other header reaches the gateway.
HINT_HEADERS = (
    "x-session-id",
    "x-smallfirst-cache",
    "x-smallfirst-privacy",
    "x-request-id",
    "traceparent",
    "tracestate",
)


@dataclass(frozen=True, slots=True)
class Incoming:
    """One HTTP request at the edge."""

    headers: Headers
    query: QueryParams
    tenant: str | None
    receive: Receive
    max_body_bytes: int
    path_params: Mapping[str, str] = field(default_factory=dict)

    async def chat_request(self) -> ChatRequest:
        """Read and parse the body as a chat completion.

        Raises:
            RequestError: The body is too large, broken or wrong.
        """
        request = ChatRequest.parse(await self.body(), headers=self.hints)
        return request.with_tenant(self.tenant_of(request.body.get("metadata")))

    @property
    def hints(self) -> dict[str, str]:
        """The headers that carry hints."""
        return {name: self.headers[name] for name in HINT_HEADERS if name in self.headers}

    def tenant_of(self, metadata: object) -> str:
        """Return whose request it is: a key decides; without keys the caller may say so.

        `metadata` is as it came: its type is checked where the body is parsed.
        """
        claimed = metadata.get("tenant") if isinstance(metadata, dict) else None
        return self.tenant or (claimed[:200] if isinstance(claimed, str) and claimed else "default")

    async def body(self) -> bytes:
        """Read the body.

        Raises:
            BodyTooLarge: It has more than `max_body_bytes`; what follows is not read.
        """
        announced = self.headers.get("content-length", "0")
        if announced.isdigit() and int(announced) > self.max_body_bytes:
            raise self._too_large()
        chunks: list[bytes] = []
        size = 0
        while True:
            message = await self.receive()
            if message["type"] == "http.disconnect":
                raise ClientGone
            chunk = message.get("body", b"")
            size += len(chunk)
            if size > self.max_body_bytes:
                raise self._too_large()
            chunks.append(chunk)
            if not message.get("more_body", False):
                return b"".join(chunks)

    def _too_large(self) -> BodyTooLarge:
        return BodyTooLarge(f"The body is larger than {self.max_body_bytes} bytes ('limits.max_body_bytes').")


class ClientGone(Exception):
    """The client closed the connection; nobody waits for an answer."""


class Keys:
    """Knows which key belongs to which tenant. Holds hashes only."""

    def __init__(self, settings: Settings) -> None:
        self._tenants = [(_digest(key.key.get_secret_value()), key.tenant) for key in settings.server.keys]

    def tenant(self, headers: Headers) -> str | None:
        """Return the caller's tenant, or None where no keys are configured.

        Raises:
            AuthenticationFailed: No key, or one that is not known.
        """
        if not self._tenants:
            return None
        scheme, _, token = headers.get("authorization", "").partition(" ")
        if scheme.lower() != "bearer" or not token:
            token = headers.get("x-api-key", "")
        if not token:
            raise AuthenticationFailed(
                "No API key was given. Send it as 'Authorization: Bearer KEY' or 'x-api-key: KEY'."
            )
        given = _digest(token.strip())
        # Every key is compared, and in constant time: neither order nor prefix shows in the answer's time.
        matches = [tenant for known, tenant in self._tenants if hmac.compare_digest(known, given)]
        if not matches:
            raise AuthenticationFailed("The API key is not known to this gateway.")
        return matches[0]


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode(errors="surrogateescape")).digest()


Handler = Callable[[Incoming], Awaitable[ASGIApp]]
ErrorBody = Callable[[RequestError], dict[str, Any]]


class Endpoint:
    """A handler as an ASGI app: checks the key, runs it, and turns its errors into the wire's error shape.

    Args:
        handler: What it does.
        settings: Keys and limits.
        public: Whether no key is needed.
        error_body: The wire's error shape.
    """

    def __init__(
        self,
        handler: Handler,
        settings: Settings,
        *,
        public: bool = False,
        error_body: ErrorBody = openai_error,
    ) -> None:
        self._handler = handler
        self._keys = Keys(settings)
        self._public = public
        self.error_body = error_body
        self._max_body_bytes = settings.limits.max_body_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        response = await self._respond(scope, receive)
        if response is not None:
            await response(scope, receive, send)

    async def _respond(self, scope: Scope, receive: Receive) -> ASGIApp | None:
        headers, named = Headers(scope=scope), scope.get("path_params", {})
        try:
            tenant = None if self._public else self._keys.tenant(headers)
            query = QueryParams(scope["query_string"])
            incoming = Incoming(headers, query, tenant, receive, self._max_body_bytes, named)
            return await self._handler(incoming)
        except RequestError as exc:
            return error_response(exc, self.error_body)
        except ClientGone:
            return None
        except (
            Exception
        ) as exc:  # the last resort: a bug of ours; the caller still gets the wire's error shape
            log.error("unexpected %s", type(exc).__name__, exc_info=_without_values(exc))
            internal = RequestError("An internal error occurred.", code="internal_error")
            return error_response(internal, self.error_body)


def _without_values(exc: Exception) -> tuple[type[Exception], Exception, Any]:
    """Keep the traceback and drop the message, which may quote the request."""
    return RuntimeError, RuntimeError(type(exc).__name__), exc.__traceback__


def json_response(body: Any, *, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """Return a JSON response."""
    return Response(msgspec.json.encode(body), status, headers=headers, media_type="application/json")


def error_response(exc: RequestError, error_body: ErrorBody = openai_error) -> Response:
    """Return an error in a wire's shape, with `Retry-After` where it is known."""
    headers = {}
    if exc.retry_after is not None:
        headers["retry-after"] = str(math.ceil(exc.retry_after))
    return json_response(error_body(exc), status=exc.status, headers=headers)


def header_safe(headers: Mapping[str, str]) -> dict[str, str]:
    """Return headers that any client can read: printable ASCII, the rest replaced."""
    return {
        name: "".join(char if " " <= char <= "~" else "?" for char in value)
        for name, value in headers.items()
    }
