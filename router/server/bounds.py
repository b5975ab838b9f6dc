"""Refuses what is more than the process can do, before it costs anything: the outermost part of the server."""

from __future__ import annotations

import logging
import time
from collections import Counter
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

import msgspec
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ..errors import HeaderTooLarge, Overloaded, RequestError, UnsupportedEncoding
from ..settings import Limits
from ..wires.base import openai_error
from ..wires.messages import error_body as anthropic_error
from .shedding import LoopDelay, Shedder

if TYPE_CHECKING:
    from .slow_clients import Watch

log = logging.getLogger("smallfirst.server")

# Probes, scrapes and the operator come through always.
_VITAL = ("/health", "/metrics", "/admin/")
_ANTHROPIC = "/v1/messages"

# Fewer requests than this are no load: a delay is then somebody else's doing, and refusing would not help.
FEW = 8
# Who is refused shall not come back with all the others: so many different times, in whole seconds.
SPREAD = 4
# A body of at most so many bytes counts as announced; of a larger one, what has come.
SMALL_BODY = 64 * 1024
# Seconds between two lines in the log that say how many were refused.
SAID = 10.0

# Why somebody is refused, as metrics have it.
SHED_REASONS = ("queue_delay", "in_flight", "held_bytes", "connections")
CUT_REASONS = ("header", "body", "reader")
_BUSY = {
    "queue_delay": "The gateway has more to do than it can; try again.",
    "in_flight": "The gateway answers as many requests as it may ('limits.max_in_flight'); try again.",
    "held_bytes": "The gateway holds as many bodies as it may ('limits.max_held_bytes'); try again.",
    "connections": "The gateway has as many connections as it may ('limits.max_connections'); try again.",
}


@dataclass(frozen=True, slots=True)
class Load:
    """What a server's process has to do.

    Attributes:
        in_flight: Requests that are being answered.
        held_bytes: Of their bodies.
        connections: Of clients; None where nobody has counted any.
        delay: Seconds that work waits in the queue.
        share: Of requests, refused for that.
        shed: Requests refused so far, by reason.
        cut: Slow clients cut off so far, by what they were slow with.
    """

    in_flight: int
    held_bytes: int
    connections: int | None
    delay: float
    share: float
    shed: dict[str, int]
    cut: dict[str, int]


class Bounds:
    """What the process has to do, and how much that may be. Belongs to one event loop once it is started.

    Args:
        limits: Others may follow while it serves.
    """

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.shedder = Shedder(limits.max_queue_delay)
        self.in_flight = 0
        self.held_bytes = 0
        # Of the connections, once there is one; these then ask `refuses`.
        self.watch: Watch | None = None
        self.refuses_early = False
        self.shed: Counter[str] = Counter(dict.fromkeys(SHED_REASONS, 0))
        self.cut: Counter[str] = Counter(dict.fromkeys(CUT_REASONS, 0))
        self._loop_delay = LoopDelay(self._saw)
        self._said = (0.0, 0)

    def start(self) -> None:
        """Begin to look at the queue. Needs a running event loop."""
        self._loop_delay.start()

    def stop(self) -> None:
        """Look no more."""
        self._loop_delay.stop()

    def follow(self, limits: Limits) -> None:
        """Go on with other limits."""
        self.limits = limits
        self.shedder.target = limits.max_queue_delay

    @property
    def room(self) -> int:
        """Bytes of bodies that may be held at once: one of any allowed size is."""
        return max(self.limits.max_held_bytes, self.limits.max_body_bytes)

    def load(self) -> Load:
        """Return what the process has to do now."""
        count = None if self.watch is None else self.watch.count
        shedder, held = self.shedder, self.held_bytes
        return Load(
            self.in_flight, held, count, shedder.delay, shedder.share, dict(self.shed), dict(self.cut)
        )

    def overload(self, size: int) -> str | None:
        """Return why a request cannot be taken on, or None where it can.

        Args:
            size: Bytes of its body, as announced.
        """
        limits = self.limits
        if self.in_flight >= limits.max_in_flight:
            return "in_flight"
        # One that is too large by itself is told so.
        if self.held_bytes + size > self.room and size <= limits.max_body_bytes:
            return "held_bytes"
        if self.in_flight >= FEW and self._loop_delay.last:
            shedder = self.shedder
            too_late = shedder.is_too_late(time.monotonic() - self._loop_delay.last)
            if too_late or (shedder.share and not self.refuses_early and shedder.refuses()):
                return "queue_delay"
        return None

    def refuses(self) -> bool:
        """Whether a request that just came is to be refused for the queue, before anything is made of it."""
        return bool(self.shedder.share) and self.in_flight >= FEW and self.shedder.refuses()

    def _saw(self, delay: float, elapsed: float) -> None:
        self.shedder.saw(delay, elapsed)
        at, before = self._said
        refused = sum(self.shed.values())
        if refused > before and time.monotonic() - at >= SAID:
            self._said = time.monotonic(), refused
            extra = {"refused": refused - before, "in_flight": self.in_flight, "delay_s": round(delay, 3)}
            log.warning("overloaded: requests are refused", extra=extra)


class Bounded:
    """An ASGI app that takes requests on for another one, within `bounds`."""

    def __init__(self, app: ASGIApp, bounds: Bounds) -> None:
        self.bounds = bounds
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a request, or refuse it before its body is read."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        bounds = self.bounds
        size, refused = _head(scope, bounds.limits)
        if refused is not None:
            await refuse(refused, scope, send)
            return
        why = bounds.overload(size or 0)
        if why is not None and not is_vital(scope["path"]):
            bounds.shed[why] += 1
            await shed(why, bounds.shed[why], scope, send)
            return
        held = _Held(bounds, receive) if size is None or size > SMALL_BODY else None
        bounds.in_flight += 1
        bounds.held_bytes += size if held is None and size else 0
        try:
            await self._app(scope, receive if held is None else held.receive, send)
        finally:
            bounds.in_flight -= 1
            bounds.held_bytes -= size or 0 if held is None else held.size


class _Held:
    """Counts the bytes of a body as they come."""

    def __init__(self, bounds: Bounds, receive: Receive) -> None:
        self.size = 0
        self._bounds = bounds
        self._receive = receive

    async def receive(self) -> Message:
        """Return the next message.

        Raises:
            Overloaded: There is no room for it.
        """
        message = await self._receive()
        body = message.get("body")
        if body:
            bounds = self._bounds
            if bounds.held_bytes + len(body) > bounds.room:
                bounds.shed["held_bytes"] += 1
                raise Overloaded(_BUSY["held_bytes"], retry_after=1)
            self.size += len(body)
            bounds.held_bytes += len(body)
        return message


def is_vital(path: str) -> bool:
    """Whether a path is always served."""
    return path.startswith(_VITAL)


def is_anthropic(path: str) -> bool:
    """Whether errors on a path have Anthropic's shape."""
    return path.startswith(_ANTHROPIC)


def _head(scope: Scope, limits: Limits) -> tuple[int | None, RequestError | None]:
    """Return the size of the body (None: not announced), and what is wrong with the header."""
    headers = scope["headers"]
    size: int | None = 0
    total = len(scope["path"]) + len(scope["query_string"])
    for name, value in headers:
        total += len(name) + len(value)
        if name == b"content-length":
            size = int(value) if value.isdigit() else None
        elif name == b"transfer-encoding":
            size = None
        elif name == b"content-encoding" and value.lower() != b"identity":
            what = "A compressed body is not understood ('content-encoding'); send it as it is."
            return None, UnsupportedEncoding(what, param="content-encoding")
    if total > limits.max_header_bytes:
        what = f"The header has more than {limits.max_header_bytes} bytes ('limits.max_header_bytes')."
        return None, HeaderTooLarge(what)
    if len(headers) > limits.max_headers:
        what = f"There are more than {limits.max_headers} headers ('limits.max_headers')."
        return None, HeaderTooLarge(what)
    return size, None


async def refuse(exc: RequestError, scope: Scope, send: Send) -> None:
    """Answer with an error in the wire's shape. The connection goes on: what is left of the body is not kept."""
    body = error_bytes(exc, scope["path"])
    headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": exc.status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


async def shed(why: str, count: int, scope: Scope, send: Send) -> None:
    """Answer 503 in the wire's shape.

    Args:
        why: One of `SHED_REASONS`.
        count: How many were refused for it: tells this one when to come back.
        scope: The request.
        send: Takes the answer.
    """
    for message in _shed_messages(why, 1 + count % SPREAD, anthropic=is_anthropic(scope["path"])):
        await send(message)


@cache
def _shed_messages(why: str, retry_after: int, *, anthropic: bool) -> tuple[Message, Message]:
    body = shed_bytes(why, retry_after, anthropic=anthropic)
    headers = [
        (b"content-type", b"application/json"),
        (b"content-length", b"%d" % len(body)),
        (b"retry-after", b"%d" % retry_after),
    ]
    return (
        {"type": "http.response.start", "status": 503, "headers": headers},
        {"type": "http.response.body", "body": body},
    )


@cache
def shed_answer(retry_after: int, *, anthropic: bool) -> bytes:
    """Return the whole answer, as it goes over the wire, to who is refused for the queue."""
    body = shed_bytes("queue_delay", retry_after, anthropic=anthropic)
    head = (
        "HTTP/1.1 503 Service Unavailable\r\ncontent-type: application/json\r\n"
        f"content-length: {len(body)}\r\nretry-after: {retry_after}\r\n\r\n"
    )
    return head.encode() + body


def shed_bytes(why: str, retry_after: int, *, anthropic: bool) -> bytes:
    """Return the body that says why nothing more is taken on."""
    exc = Overloaded(_BUSY[why], retry_after=retry_after)
    return msgspec.json.encode((anthropic_error if anthropic else openai_error)(exc))


def error_bytes(exc: RequestError, path: str) -> bytes:
    """Return an error's body in the shape of a path's wire."""
    shape = anthropic_error if is_anthropic(path) else openai_error
    return msgspec.json.encode(shape(exc))
