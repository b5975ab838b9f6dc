"""The edge between ASGI and the gateway: bodies in, responses and errors out."""

from __future__ import annotations

import logging
import math
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

import msgspec
from starlette.datastructures import Headers, QueryParams
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ..access.admission import Admission
from ..access.gate import Gate
from ..access.headers import RateHeaders, openai_headers
from ..errors import BodyTooLarge, Forbidden, InvalidRequest, RequestError
from ..settings import Limits
from ..wire import ChatRequest, decode_object
from ..wires.base import openai_error
from .clients import SCOPE_KEY, Client
from .content import check_content
from .drain import Drain

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


class Incoming(msgspec.Struct, frozen=True):
    """One HTTP request at the edge."""

    headers: Headers
    query: QueryParams
    tenant: str | None
    receive: Receive
    limits: Limits
    path_params: Mapping[str, str] = msgspec.field(default_factory=dict)
    access: Admission = msgspec.field(default_factory=Admission)
    drain: Drain = msgspec.field(default_factory=Drain)
    client: Client | None = None

    async def chat_request(self) -> ChatRequest:
        """Read and parse the body as a chat completion.

        Raises:
            RequestError: The body is too large, broken or wrong.
        """
        body = await self.json()
        return ChatRequest.parse(body, tenant=self.tenant_of(body.get("metadata")), headers=self.hints)

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

    async def json(self) -> dict[str, Any]:
        """Read and decode the body, and check that it is within limits.

        Raises:
            RequestError: It is too large, no JSON object, or has too much of something.
        """
        raw = await self.body()
        body = decode_object(raw)
        check_content(body, len(raw), self.limits)
        return body

    async def body(self) -> bytes:
        """Read the body.

        Raises:
            BodyTooLarge: It has more than `limits.max_body_bytes`; what follows is not read.
        """
        announced = self.headers.get("content-length", "0")
        most = self.limits.max_body_bytes
        if announced.isdigit() and int(announced) > most:
            raise self._too_large()
        chunks: list[bytes] = []
        size = 0
        while True:
            message = await self.receive()
            if message["type"] == "http.disconnect":
                raise ClientGone
            chunk = message.get("body", b"")
            size += len(chunk)
            if size > most:
                raise self._too_large()
            chunks.append(chunk)
            if not message.get("more_body", False):
                return b"".join(chunks)

    def _too_large(self) -> BodyTooLarge:
        most = self.limits.max_body_bytes
        return BodyTooLarge(f"The body is larger than {most} bytes ('limits.max_body_bytes').")


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
        drain: Whether the server is about to end.
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
        drain: Drain | None = None,
    ) -> None:
        self._handler = handler
        self._gate = gate
        self._drain = drain or Drain()
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
        limits = self._gate.settings.limits
        try:
            query = QueryParams(scope["query_string"]) if scope["query_string"] else _NO_QUERY
            return await self._handler(
                Incoming(
                    headers, query, tenant, receive, limits, named, access, self._drain, scope.get(SCOPE_KEY)
                )
            )
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


class JsonAnswer:
    """A model's answer in one piece, as an ASGI app; as `json_response`, for what is sent most, in less time.

    Args:
        body: As JSON.
        headers: Their names in lower case; what no client could read of their values is replaced.
    """

    def __init__(self, body: Any, headers: Mapping[str, str]) -> None:
        self._body = msgspec.json.encode(body)
        self._headers = raw_headers(headers)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send it."""
        length = b"%d" % len(self._body)
        headers = [*self._headers, (b"content-length", length), (b"content-type", b"application/json")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": self._body})


def raw_headers(headers: Mapping[str, str]) -> list[tuple[bytes, bytes]]:
    """Return headers that any client can read, as ASGI has them; their names are in lower case."""
    values = "".join(headers.values())
    safe = headers if values.isascii() and values.isprintable() else header_safe(headers)
    return [(name.encode(), value.encode()) for name, value in safe.items()]


def header_safe(headers: Mapping[str, str]) -> dict[str, str]:
    """Return headers that any client can read: printable ASCII, the rest replaced."""
    return {
        name: value
        if value.isascii() and value.isprintable()
        else "".join(char if " " <= char <= "~" else "?" for char in value)
        for name, value in headers.items()
    }
