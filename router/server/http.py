"""The edge between ASGI and the gateway: bodies in, responses and errors out."""

from __future__ import annotations

import logging
import math
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec
from starlette.datastructures import Headers, QueryParams
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ..access.admission import Admission
from ..access.gate import Gate
from ..access.headers import RateHeaders, openai_headers
from ..errors import BodyTooLarge, Forbidden, InvalidRequest, RequestError
from ..wire import ChatRequest
from ..wires.base import openai_error

log = logging.getLogger("smallfirst.server")

# Request headers that carry hints or are passed on; no other header reaches the gateway.
HINT_HEADERS = (
    "x-session-id",
    "x-smallfirst-cache",
    "x-smallfirst-privacy",
    "x-request-id",
    "x-request-timeout",
    "traceparent",
    "tracestate",
)
_HINTS = {name.encode(): name for name in HINT_HEADERS}
_NO_QUERY = QueryParams()


@dataclass(frozen=True, slots=True)
class Incoming:
    """One HTTP request at the edge."""

    headers: Headers
    query: QueryParams
    tenant: str | None
    receive: Receive
    max_body_bytes: int
    path_params: Mapping[str, str] = field(default_factory=dict)
    access: Admission = field(default_factory=Admission)

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
        # Of one that is given twice, the first counts.
        given = reversed(self.headers.raw)
        return {_HINTS[name]: value.decode("latin-1") for name, value in given if name in _HINTS}

    def only_parameters(self, names: Sequence[str]) -> None:
        """Check the query: a parameter that is misspelt, or given twice, would mean something else than was meant.

        Raises:
            InvalidRequest: It has another parameter, or one of them twice.
        """
        for name in self.query:
            if name not in names:
                raise InvalidRequest(f"Unknown query parameter '{name[:100]}'.", param=name[:100])
            if len(self.query.getlist(name)) > 1:
                raise InvalidRequest(f"The query parameter '{name}' is given twice.", param=name)

    def tenant_of(self, metadata: object) -> str:
        """Return whose request it is: a key decides; without keys the caller may say so.

        `metadata` is as it came: its type is checked where the body is parsed.
        """
        claimed = metadata.get("tenant") if isinstance(metadata, dict) else None
        if self.tenant is not None:
            return self.tenant
        return claimed[:200] if isinstance(claimed, str) and claimed else "default"

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


Handler = Callable[[Incoming], Awaitable[ASGIApp]]
ErrorBody = Callable[[RequestError], dict[str, Any]]


class Endpoint:
    """A handler as an ASGI app: checks the key, runs it, and turns its errors into the wire's error shape.

    Args:
        handler: What it does.
        gate: Knows who may ask, and how much.
        public: Whether no key is needed.
        admin: Whether it concerns all tenants: the key must say `admin`.
        error_body: The wire's error shape.
        rate_headers: What the wire calls what is left of limits.
    """

    def __init__(
        self,
        handler: Handler,
        gate: Gate,
        *,
        public: bool = False,
        admin: bool = False,
        error_body: ErrorBody = openai_error,
        rate_headers: RateHeaders = openai_headers,
    ) -> None:
        self._handler = handler
        self._gate = gate
        self._public = public
        self._admin = admin
        self.error_body = error_body
        self._rate_headers = rate_headers

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        access = Admission()
        try:
            access = self._admission(scope)
        except RequestError as exc:
            response: ASGIApp | None = error_response(exc, self.error_body)
        else:
            response = await self._respond(scope, receive, access)
        if response is not None:
            said = access.headers(self._rate_headers)
            await response(scope, receive, _saying(send, said) if said else send)

    def _admission(self, scope: Scope) -> Admission:
        if self._public:
            return Admission()
        peer = scope.get("client")
        key = self._gate.key_of(Headers(scope=scope), peer[0] if peer else None, method=scope["method"])
        if self._admin and key is not None and not key.rules.admin:
            raise Forbidden(
                "This concerns all tenants, and the key is not one of an administrator (`--admin`)."
            )
        return Admission(self._gate, key)

    async def _respond(self, scope: Scope, receive: Receive, access: Admission) -> ASGIApp | None:
        headers, named = Headers(scope=scope), scope.get("path_params", {})
        tenant = None if access.key is None else access.key.tenant
        limit = self._gate.settings.limits.max_body_bytes
        try:
            query = QueryParams(scope["query_string"]) if scope["query_string"] else _NO_QUERY
            return await self._handler(Incoming(headers, query, tenant, receive, limit, named, access))
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


def _saying(send: Send, headers: Mapping[str, str]) -> Send:
    """Add headers to an answer."""
    raw = [(name.encode(), value.encode()) for name, value in headers.items()]

    async def with_headers(message: Message) -> None:
        if message["type"] == "http.response.start":
            message = {**message, "headers": [*message.get("headers", ()), *raw]}
        await send(message)

    return with_headers


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
        name: value
        if value.isascii() and value.isprintable()
        else "".join(char if " " <= char <= "~" else "?" for char in value)
        for name, value in headers.items()
    }
