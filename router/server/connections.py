"""Connections of clients: how many there are, and how slow a client may be.

uvicorn has a time for idle connections alone: a header or a body that comes a byte at a time, and an answer that nobody
reads, hold a connection for good. Here one timer looks at all connections once in a while, so that a request pays
next to nothing for it.
"""

from __future__ import annotations

import asyncio
import logging
import math
from typing import Any, Literal

from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol
from uvicorn.server import ServerState

from ..errors import HeaderTooLarge, InvalidRequest, RequestError
from ..settings import Limits
from .bounds import SPREAD, Bounds, error_bytes, is_anthropic, is_vital, shed, shed_answer, shed_bytes
from .clients import SCOPE_KEY, Client
from .slow_clients import Watch, Watched

log = logging.getLogger("smallfirst.server")

# Connections beyond the limit that are taken all the same, for probes and scrapes.
SPARE = 16
# Requests that wait on one connection for the answer to the first.
MOST_PIPELINED = 32
# Bytes of a body that are read and dropped after its request was refused, so that the client gets to read why.
DROPPED = 16 * 1024 * 1024
# Files that the process needs beside connections, and how many a request has: its client's and its upstream's.
OTHER_FILES, FILES_EACH = 128, 2


def uvicorn_options(bounds: Bounds) -> dict[str, Any]:
    """Return what uvicorn is to be told, for `uvicorn.run` or `uvicorn.Config`."""
    kind = type("BoundedConnection", (Connection,), {"bounds": bounds})
    return {"http": kind, "ws": "none", "timeout_keep_alive": math.ceil(bounds.limits.keep_alive)}


class Connection(HttpToolsProtocol):
    """One client's connection. Made by `uvicorn_options`, which says by which bounds.

    Attributes:
        bounds: Of all connections.
        phase: What comes next from the client: a header, (more of) a body, or the next request.
        requests: How many headers have begun.
        body_bytes: What came of the body that is on its way.
        resumed: How often the client has read what had been too much to send.
        watched: What was seen of it last.
        peer: Who is at the other end.
    """

    bounds: Bounds

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self.phase: Literal["header", "body", "next"] = "header"
        self.requests = 0
        self.body_bytes = 0
        self.resumed = 0
        self.watched = Watched()
        self.peer = Client()
        self._header_bytes = 0
        self._dropped = 0
        # Whether the app never hears of the request that came last.
        self._refused = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Take the connection, or refuse it where there are too many."""
        super().connection_made(transport)
        bounds, count = self.bounds, len(self.connections)
        if bounds.watch is None:
            bounds.watch = Watch(bounds, self.connections)  # type: ignore[arg-type]
        bounds.watch.start()
        bounds.refuses_early = True
        if count > bounds.limits.max_connections + SPARE:
            bounds.shed["connections"] += 1
            self._answer(503, shed_bytes("connections", 1, anthropic=False), "retry-after: 1\r\n")
        elif count > bounds.limits.max_connections:
            self.app = self._only_vital

    async def _only_vital(self, scope: Any, receive: Any, send: Any) -> None:
        if is_vital(scope["path"]):
            await self.config.loaded_app(scope, receive, send)
            return
        self.bounds.shed["connections"] += 1
        self.cycle.keep_alive = False
        await shed("connections", self.bounds.shed["connections"], scope, send)

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell that the client has left."""
        super().connection_lost(exc)
        self.peer.leave()

    def data_received(self, data: bytes) -> None:
        """Take what came, unless the header gets too long by it."""
        # What came with the header's end is looked at by the app; so this is never less than one reading too late.
        if self.phase == "header":
            self._header_bytes += len(data)
        super().data_received(data)
        most = self.bounds.limits.max_header_bytes
        if self.phase == "header" and self._header_bytes > most:
            self.reject(HeaderTooLarge(f"The header has more than {most} bytes ('limits.max_header_bytes')."))

    def on_message_begin(self) -> None:
        """Note that a header begins."""
        super().on_message_begin()
        self.scope[SCOPE_KEY] = self.peer  # type: ignore[literal-required]
        self.requests += 1
        self.phase = "header"

    def on_headers_complete(self) -> None:
        """Begin to serve."""
        if len(self.pipeline) >= MOST_PIPELINED:
            raise _TooManyRequests
        self.phase = "body"
        self._header_bytes = self.body_bytes = self._dropped = 0
        if self.bounds.refuses() and not self.busy and self._shed():
            return
        self._refused = False
        super().on_headers_complete()
        if self.cycle.scope["method"] != "HEAD":
            self.cycle.transport = _WithHead(self.transport)  # type: ignore[assignment]

    def _shed(self) -> bool:
        """Refuse a request right away, for a fifth of what an app takes; returns whether that could be."""
        path = self.url.decode("latin-1")
        vital = is_vital(path) or self.parser.get_method() == b"HEAD" or self.parser.should_upgrade()
        # Who does not read answers is made to wait by the app; else they would be kept without bound.
        if vital or self.transport.is_closing() or self.flow.write_paused:
            return False
        shed = self.bounds.shed
        shed["queue_delay"] += 1
        self._refused = True
        self.transport.write(shed_answer(1 + shed["queue_delay"] % SPREAD, anthropic=is_anthropic(path)))
        if self.expect_100_continue or not self.parser.should_keep_alive():
            # Nobody knows whether a body will come, which was to wait for our word.
            self.transport.close()
        return True

    def on_body(self, body: bytes) -> None:
        """Take a piece of a body; after the answer it is dropped, and too much of that ends the connection."""
        self.body_bytes += len(body)
        if not self.busy:
            self._dropped += len(body)
            if self._dropped > DROPPED:
                self.transport.abort()
        if not self._refused:
            super().on_body(body)

    def on_message_complete(self) -> None:
        """Note that the request is whole."""
        self.phase = "next"
        if not self._refused:
            super().on_message_complete()

    def resume_writing(self) -> None:
        """Go on: the client has read."""
        self.resumed += 1
        super().resume_writing()

    def send_400_response(self, msg: str) -> None:
        """Refuse what is no HTTP."""
        self.reject(InvalidRequest("The request is not valid HTTP.", code="invalid_http"))

    @property
    def busy(self) -> bool:
        """Whether a request is being answered."""
        return self.cycle is not None and not self.cycle.response_complete

    def reject(self, exc: RequestError) -> None:
        """Answer with an error and close. Where another answer is still to come, or has begun, just close."""
        path = str(self.scope.get("path", "")) if self.scope else ""
        self._answer(exc.status, error_bytes(exc, path))

    def _answer(self, status: int, body: bytes, more: str = "") -> None:
        if self.transport.is_closing():
            return
        begun = self.busy if self.phase != "body" else self._refused or self.cycle.response_started
        # Another's answer is due first, for which this one would be taken.
        begun = begun or bool(self.pipeline)
        if begun:
            self.transport.abort()
            return
        if self.phase == "body":
            # What waits for the body learns that no more comes.
            self.cycle.disconnected = True
            self.cycle.message_event.set()
        head = f"content-type: application/json\r\ncontent-length: {len(body)}\r\nconnection: close\r\n{more}\r\n"
        self.transport.write(STATUS_LINE[status] + head.encode() + body)
        self.transport.close()


class _WithHead:
    """What one answer writes to: its head goes out with the first piece of its body where that follows at once.

    Apart they are two packets, and the client is woken twice: a tenth of what a short stream takes of the processor.
    """

    __slots__ = ("_head", "_transport")

    def __init__(self, transport: asyncio.Transport) -> None:
        self._transport = transport
        # None: it has not come; empty: it is sent.
        self._head: bytes | None = None

    def write(self, data: bytes) -> None:
        """Send some of the answer."""
        if self._head is None:
            self._head = data
            asyncio.get_running_loop().call_soon(self._send_head)
        elif self._head:
            head, self._head = self._head, b""
            self._transport.write(head + data)
        else:
            self._transport.write(data)

    def close(self) -> None:
        """Close the connection once all is sent."""
        self._send_head()
        self._transport.close()

    def is_closing(self) -> bool:
        """Whether the connection is closed, or about to be."""
        return self._transport.is_closing()

    def _send_head(self) -> None:
        if self._head and not self._transport.is_closing():
            head, self._head = self._head, b""
            self._transport.write(head)


class _TooManyRequests(Exception):
    """Too many requests wait on one connection; the parser makes an error of its own of it."""


def allow_files(limits: Limits) -> None:
    """Let the process open as many files as its connections need, as far as it may; warns where that is not enough."""
    try:
        import resource
    except ImportError:  # Windows has no such limit
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = limits.max_connections + FILES_EACH * limits.max_in_flight + OTHER_FILES
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return
    allowed = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    if allowed > soft:
        resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, hard))
    if allowed < wanted:
        log.warning(
            "the process may open %d files, and 'limits' ask for %d: raise its limit (ulimit -n), or lower "
            "'limits.max_connections'",
            allowed,
            wanted,
        )
