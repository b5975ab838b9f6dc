"""`/v1/chat/completions` and `/v1/route`."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import logging
from collections.abc import AsyncIterator, Awaitable
from typing import Any, TypeVar

import msgspec
from starlette.types import ASGIApp, Receive, Scope, Send

from ..answer import AnswerStream
from ..errors import RequestError, StreamBroken
from ..gateway import Gateway
from .http import ClientGone, Incoming, header_safe, json_response

log = logging.getLogger("smallfirst.server")

T = TypeVar("T")


async def chat_completions(gateway: Gateway, incoming: Incoming) -> ASGIApp:
    """Answer a chat completion, streamed or not."""
    request = await incoming.chat_request()
    if request.fields.stream:
        stream = await unless_gone(incoming.receive, gateway.stream(request))
        return EventStream(stream)
    answer = await unless_gone(incoming.receive, gateway.complete(request))
    return json_response(answer.body, headers=header_safe(answer.receipt.headers()))


async def route(gateway: Gateway, incoming: Incoming) -> ASGIApp:
    """Return the decision for a chat completion body; nothing is run."""
    decision = gateway.route(await incoming.chat_request())
    return json_response(decision_body(decision))


def decision_body(decision: Any) -> dict[str, Any]:
    """Return a decision as JSON: the model, the plan, why, and the scores."""
    first = decision.attempts[0]
    return {
        "model": first.model,
        "route": first.tier,
        "mode": decision.mode,
        "reason": decision.reason,
        "reason_code": decision.code,
        "policy": decision.policy,
        "attempts": [dataclasses.asdict(attempt) for attempt in decision.attempts],
        "score": dataclasses.asdict(decision.score) if decision.score else None,
    }


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

    A failure midway becomes an error event in OpenAI's shape and the stream ends without `[DONE]`, so that no client
    takes it for complete.
    """

    def __init__(self, stream: AnswerStream) -> None:
        self._stream = stream

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
        try:
            async for chunk in self._stream:
                await send(_event(chunk))
            last = b"data: [DONE]\n\n"
        except RequestError as exc:
            last = b"data: " + msgspec.json.encode(exc.body()) + b"\n\n"
        except Exception as exc:  # the last resort: a bug of ours must not look like a complete answer
            log.error("unexpected %s in a stream", type(exc).__name__)
            last = (
                b"data: " + msgspec.json.encode(StreamBroken("An internal error occurred.").body()) + b"\n\n"
            )
        await send({"type": "http.response.body", "body": last, "more_body": False})


def _event(chunk: bytes) -> dict[str, Any]:
    return {"type": "http.response.body", "body": b"data: " + chunk + b"\n\n", "more_body": True}
