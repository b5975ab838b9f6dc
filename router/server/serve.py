"""Runs a request of any wire: the gateway answers, and the wire says how the answer is put."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable
from typing import TypeVar

from starlette.types import ASGIApp, Receive, Scope, Send

from ..answer import AnswerStream
from ..errors import RequestError, ServerStopping, StreamBroken
from ..gateway import Gateway
from ..wires.base import UNKNOWN_USAGE, Call
from .clients import SCOPE_KEY, Client
from .drain import Drain
from .http import ClientGone, Incoming, JsonAnswer, raw_headers

log = logging.getLogger("smallfirst.server")

T = TypeVar("T")

# After so long it is seen to whether a client still waits.
UNWATCHED_SECONDS = 0.01

# Bytes of events that wait at most for others that have arrived: to make so many takes about half a millisecond.
MOST_HELD = 4096


async def serve(gateway: Gateway, incoming: Incoming, call: Call) -> ASGIApp:
    """Answer a request, streamed or not."""
    async with incoming.access.admitted(gateway, call.request) as request:
        if request.fields.stream:
            begun = gateway.stream(request)
            stream = await unless_gone(incoming.receive, begun, incoming.drain, incoming.client)
            return EventStream(stream, call, incoming.drain)
        asked = gateway.complete(request)
        answer = await unless_gone(incoming.receive, asked, incoming.drain, incoming.client)
    reply = call.reply(answer)
    await call.settle(answer, reply)
    return JsonAnswer(reply, answer.receipt.headers())


async def unless_gone(
    receive: Receive, work: Awaitable[T], drain: Drain | None = None, client: Client | None = None
) -> T:
    """Await `work`, but cancel it when the client goes away, or when the server ends and its time is over.

    Raises:
        ClientGone: The client went away first.
        ServerStopping: The time is over.
    """
    with _CancelledWhenGone(receive, drain, client):
        return await work


class _CancelledWhenGone:
    """Cancels the body of the `with` on a disconnect, and raises `ClientGone` in its place; or when the server has to
    end now, and raises `ServerStopping`.

    Our own server's connections tell when the client leaves. Of another's (`client` None) a task waits for the message,
    a moment later: most of what is answered at once has no need of one, and a client that left meanwhile is still gone
    then. Entered in a task.
    """

    __slots__ = (
        "_cancels",
        "_client",
        "_drain",
        "_gone",
        "_loop",
        "_receive",
        "_soon",
        "_task",
        "_timer",
        "_watcher",
    )

    def __init__(self, receive: Receive, drain: Drain | None, client: Client | None) -> None:
        self._receive = receive
        self._drain = drain
        self._client = client
        self._timer: asyncio.TimerHandle | None = None
        self._soon: asyncio.Handle | None = None
        self._gone = False
        self._cancels = 0
        self._watcher: asyncio.Task[None] | None = None

    def __enter__(self) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._task = task
        self._loop = task.get_loop()
        if self._client is not None:
            self._client.tell(self._left)
        else:
            self._timer = self._loop.call_later(UNWATCHED_SECONDS, self._begin)
        if self._drain is not None:
            self._drain.enter(self)

    def cut(self) -> None:
        """Cancel the body, as its time is over."""
        self._cancel()

    def _cancel(self) -> None:
        if asyncio.current_task() is self._task:
            # It runs, and may never wait in the body: what comes after that would be cancelled in its place.
            self._soon = self._soon or self._loop.call_soon(self._cancel)
            return
        self._cancels += 1
        self._task.cancel()

    def _begin(self) -> None:
        self._watcher = self._loop.create_task(self._watch())

    async def _watch(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass
        self._left()

    def _left(self) -> None:
        self._gone = True
        self._cancel()

    def __exit__(self, kind: type[BaseException] | None, exc: object, where: object) -> None:
        if self._drain is not None:
            self._drain.leave(self)
        if self._client is not None:
            self._client.forget(self._left)
        for handle in (self._timer, self._soon):
            if handle is not None:
                handle.cancel()
        if self._watcher is not None:
            self._watcher.cancel()
        if not self._cancels:
            return
        # Swallowed only if it was ours: somebody else's must still go through.
        left = [self._task.uncancel() for _ in range(self._cancels)][-1]
        if kind is not None and issubclass(kind, asyncio.CancelledError) and left == 0:
            if self._gone:
                raise ClientGone from None
            raise ServerStopping from None


class EventStream:
    """A streamed answer as server-sent events.

    A failure midway becomes an error event in the wire's own form, and the events that complete an answer do not
    follow, so that no client takes it for complete.
    """

    def __init__(self, stream: AnswerStream, call: Call, drain: Drain | None = None) -> None:
        self._stream = stream
        self._drain = drain
        self._events = call.events(stream.receipt, stream.usage or UNKNOWN_USAGE)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the answer."""
        try:
            await self._send(receive, send, scope.get(SCOPE_KEY))
        except ClientGone:
            pass
        finally:
            await self._stream.aclose()

    async def _send(self, receive: Receive, send: Send, client: Client | None) -> None:
        headers = {
            "content-type": "text/event-stream; charset=utf-8",
            "cache-control": "no-cache",
            "x-accel-buffering": "no",
            **self._stream.receipt.headers(),
        }
        await send({"type": "http.response.start", "status": 200, "headers": raw_headers(headers)})
        feed = self._events.feed
        # What came with one read goes out with one write.
        held = b""
        try:
            with _CancelledWhenGone(receive, self._drain, client):
                async for chunk in self._stream:
                    held += feed(chunk)
                    if held and (len(held) >= MOST_HELD or not self._stream.ready):
                        events, held = held, b""
                        await send({"type": "http.response.body", "body": events, "more_body": True})
                usage = self._stream.usage or UNKNOWN_USAGE
                await self._events.settle(usage)
            last = self._events.end(usage, self._stream.receipt)
        except ClientGone:
            raise
        except RequestError as exc:
            last = self._events.error(exc)
        except Exception as exc:  # the last resort: a bug of ours must not look like a complete answer
            log.error("unexpected %s in a stream", type(exc).__name__)
            last = self._events.error(StreamBroken("An internal error occurred."))
        await send({"type": "http.response.body", "body": held + last, "more_body": False})
