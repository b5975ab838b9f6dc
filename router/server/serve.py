"""Runs a request of any wire: the gateway answers, and the wire says how the answer is put."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable
from typing import TypeVar

from starlette.types import ASGIApp, Receive, Scope, Send

from ..answer import AnswerStream
from ..errors import RequestError, StreamBroken
from ..gateway import Gateway
from ..wires.base import UNKNOWN_USAGE, Call
from .http import ClientGone, Incoming, header_safe, json_response

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
            return EventStream(await unless_gone(incoming.receive, gateway.stream(request)), call)
        answer = await unless_gone(incoming.receive, gateway.complete(request))
    reply = call.reply(answer)
    await call.settle(answer, reply)
    return json_response(reply, headers=header_safe(answer.receipt.headers()))


async def unless_gone(receive: Receive, work: Awaitable[T]) -> T:
    """Await `work`, but cancel it when the client goes away.

    Raises:
        ClientGone: The client went away first.
    """
    with _CancelledWhenGone(receive):
        return await work


class _CancelledWhenGone:
    """Cancels the body of the `with` on a disconnect, and raises `ClientGone` in its place.

    The watching begins a moment later: most of what is answered at once has no need of a task of its own, and a client
    that left meanwhile is still gone then. Entered in a task.
    """

    __slots__ = ("_gone", "_loop", "_receive", "_task", "_timer", "_watcher")

    def __init__(self, receive: Receive) -> None:
        self._receive = receive
        self._gone = False
        self._watcher: asyncio.Task[None] | None = None

    def __enter__(self) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._task = task
        self._loop = asyncio.get_running_loop()
        self._timer = self._loop.call_later(UNWATCHED_SECONDS, self._begin)

    def _begin(self) -> None:
        self._watcher = self._loop.create_task(self._watch())

    async def _watch(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass
        self._gone = True
        self._task.cancel()

    def __exit__(self, kind: type[BaseException] | None, exc: object, where: object) -> None:
        self._timer.cancel()
        if self._watcher is not None:
            self._watcher.cancel()
        # Swallowed only if it was ours: a shutdown must still go through.
        cancelled = kind is not None and issubclass(kind, asyncio.CancelledError)
        if cancelled and self._gone and self._task.uncancel() == 0:
            raise ClientGone from None


class EventStream:
    """A streamed answer as server-sent events.

    A failure midway becomes an error event in the wire's own form, and the events that complete an answer do not
    follow, so that no client takes it for complete.
    """

    def __init__(self, stream: AnswerStream, call: Call) -> None:
        self._stream = stream
        self._events = call.events(stream.receipt, stream.usage or UNKNOWN_USAGE)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the answer."""
        try:
            with _CancelledWhenGone(receive):
                await self._send(send)
        except ClientGone:
            pass
        finally:
            await self._stream.aclose()

    async def _send(self, send: Send) -> None:
        headers = {
            "content-type": "text/event-stream; charset=utf-8",
            "cache-control": "no-cache",
            "x-accel-buffering": "no",
            **header_safe(self._stream.receipt.headers()),
        }
        raw = [(name.encode(), value.encode()) for name, value in headers.items()]
        await send({"type": "http.response.start", "status": 200, "headers": raw})
        feed = self._events.feed
        # What came with one read goes out with one write.
        held = b""
        try:
            async for chunk in self._stream:
                held += feed(chunk)
                if held and (len(held) >= MOST_HELD or not self._stream.ready):
                    events, held = held, b""
                    await send({"type": "http.response.body", "body": events, "more_body": True})
            usage = self._stream.usage or UNKNOWN_USAGE
            await self._events.settle(usage)
            last = self._events.end(usage, self._stream.receipt)
        except RequestError as exc:
            last = self._events.error(exc)
        except Exception as exc:  # the last resort: a bug of ours must not look like a complete answer
            log.error("unexpected %s in a stream", type(exc).__name__)
            last = self._events.error(StreamBroken("An internal error occurred."))
        await send({"type": "http.response.body", "body": held + last, "more_body": False})
