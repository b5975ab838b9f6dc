"""Runs a request of any wire: the gateway answers, and the wire says how the answer is put."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Awaitable
from typing import TypeVar

from starlette.types import ASGIApp, Receive, Scope, Send

from ..answer import AnswerStream
from ..errors import RequestError, StreamBroken
from ..gateway import Gateway
from ..wires.base import UNKNOWN_USAGE, Call
from .http import ClientGone, Incoming, header_safe, json_response

log = logging.getLogger("smallfirst.server")

T = TypeVar("T")


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
    async with _cancelled_when_gone(receive):
        return await work


@contextlib.asynccontextmanager
async def _cancelled_when_gone(receive: Receive) -> AsyncIterator[None]:
    """Cancel the body of the `async with` on a disconnect, and raise `ClientGone` in its place."""
    current = asyncio.current_task()
    assert current is not None
    gone = False

    async def watch() -> None:
        nonlocal gone
        while (await receive())["type"] != "http.disconnect":
            pass
        gone = True
        current.cancel()

    watcher = asyncio.get_running_loop().create_task(watch())
    try:
        yield
    except asyncio.CancelledError:
        # Swallowed only if it was ours: a shutdown must still go through.
        if gone and current.uncancel() == 0:
            raise ClientGone from None
        raise
    finally:
        watcher.cancel()


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
            async with _cancelled_when_gone(receive):
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
        try:
            async for chunk in self._stream:
                events = feed(chunk)
                if events:
                    await send({"type": "http.response.body", "body": events, "more_body": True})
            usage = self._stream.usage or UNKNOWN_USAGE
            await self._events.settle(usage)
            last = self._events.end(usage, self._stream.receipt)
        except RequestError as exc:
            last = self._events.error(exc)
        except Exception as exc:  # the last resort: a bug of ours must not look like a complete answer
            log.error("unexpected %s in a stream", type(exc).__name__)
            last = self._events.error(StreamBroken("An internal error occurred."))
        await send({"type": "http.response.body", "body": last, "more_body": False})
