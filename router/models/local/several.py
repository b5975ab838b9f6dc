"""Several answers to one prompt (`n`): asked one by one, and put together. The engine makes them in one batch."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any, Final

import msgspec

from ...confidence import Confidence
from ...money.usage import Meter
from ...wire import ChatRequest, Reply, ReplyStream, Usage

Whole = Callable[[ChatRequest], Awaitable[Reply]]

# How freely several answers are drawn where the caller does not say how freely: at 0 they would all be the same.
TEMPERATURE: Final = 0.7
_NO_OTHER_LIMIT: Final = {"max_completion_tokens": None}


def requests_of(request: ChatRequest) -> list[ChatRequest]:
    """Return a request for each of the answers that one asks for; with a seed, each gets a seed of its own."""
    fields = request.fields
    temperature = TEMPERATURE if fields.temperature is None else fields.temperature
    own: dict[str, Any] = {"n": 1, "temperature": temperature}
    seeds = [{} if fields.seed is None else {"seed": fields.seed + at} for at in range(fields.n or 1)]
    asked = [ChatRequest.of(request, {**own, **seed}, stream=None) for seed in seeds]
    return [_metered(each, reads=False) for each in asked]


async def complete(read: Whole, one: Whole, request: ChatRequest) -> Reply:
    """Return all answers as one.

    Args:
        read: Answers a request that stands for all of them: it may be turned away where there is no room.
        one: Answers a request for one of them.
        request: For several.

    Raises:
        RequestError: One of them failed; the others are stopped.
    """
    cached = await _read_prompt(read, request)
    asked = [asyncio.ensure_future(one(each)) for each in requests_of(request)]
    try:
        replies = await asyncio.gather(*asked)
    finally:
        for task in asked:
            task.cancel()
        await asyncio.gather(*asked, return_exceptions=True)
    usage = _usage([reply.usage or Usage() for reply in replies], cached)
    choices = [reply.body["choices"][0] | {"index": at} for at, reply in enumerate(replies)]
    body = replies[0].body | {"choices": choices, "usage": usage.to_wire()}
    confidence = _least([reply.confidence for reply in replies])
    return Reply(body, usage, confidence=confidence, cut=any(reply.cut for reply in replies))


async def stream(
    read: Whole, one: Callable[[ChatRequest], Awaitable[ReplyStream]], request: ChatRequest
) -> ReplyStream:
    """Start all answers, as one stream.

    Args:
        read: As for `complete`.
        one: Starts the answer to a request for one of them.
        request: For several.

    Raises:
        RequestError: One of them was not accepted; the others are stopped.
    """
    cached = await _read_prompt(read, request)
    begun: list[ReplyStream] = []
    try:
        for each in requests_of(request):
            begun.append(await one(each))
    except BaseException:
        for started in begun:
            await started.aclose()
        raise
    return SeveralStream(begun, cached)


async def _read_prompt(read: Whole, request: ChatRequest) -> int:
    """Have the prompt read once, so that all answers begin with what is kept of it; begun at once, each would read it.

    Returns how many of its tokens had been kept before.
    """
    short = ChatRequest.of(request, {"n": 1, "max_tokens": 1, **_NO_OTHER_LIMIT}, stream=False)
    reply = await read(_metered(short, reads=True))
    return reply.usage.cached_tokens if reply.usage is not None else 0


def _metered(request: ChatRequest, *, reads: bool) -> ChatRequest:
    """Return a part of a request for several, with a meter that counts the prompt for the one that `reads` it alone."""
    return request if request.meter is None else replace(request, meter=_Part(request.meter, reads=reads))


class _Part(Meter):
    """Tells a meter what a part took: all that it computed, and of tokens either the prompt's or the answer's.

    Args:
        whole: Of all parts.
        reads: Whether it reads the prompt for the others; the token that it makes for that is no answer's.
    """

    def __init__(self, whole: Meter, *, reads: bool) -> None:
        super().__init__()
        self._whole = whole
        self._reads = reads

    def add(self, cpu_seconds: float, *, prompt: int = 0, cached: int = 0, output: int = 0) -> None:
        """Pass on what was used since the last report."""
        if self._reads:
            self._whole.add(cpu_seconds, prompt=prompt, cached=cached)
        else:
            self._whole.add(cpu_seconds, output=output)


class SeveralStream(ReplyStream):
    """Several streams of one choice each as one of several; the usage of all comes last.

    Args:
        streams: They tell their confidence.
        cached: How many of the prompt's tokens had been kept before.
    """

    tells_confidence = True

    def __init__(self, streams: Sequence[ReplyStream], cached: int) -> None:
        super().__init__(self)
        self._streams = streams
        self._cached = cached
        self._iterators = [aiter(stream) for stream in streams]
        self._waiting: dict[asyncio.Future[bytes], int] | None = None
        self._ready: list[bytes] = []
        self._base: dict[str, Any] = {}
        self._usages: list[Usage] = []
        self._closed = False

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        if self._waiting is None:
            self._waiting = {}
            for at in range(len(self._streams)):
                self._wait(at, self._waiting)
        while not self._ready:
            if self._closed or not self._waiting:
                raise StopAsyncIteration
            done, _ = await asyncio.wait(self._waiting, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                self._take(task, self._waiting)
            if not self._waiting and self._usages:
                self._ready.append(self._last())
        return self._ready.pop(0)

    async def aclose(self) -> None:
        """Free the engine at the next step."""
        self._closed = True
        self._ready.clear()
        for stream in self._streams:
            await stream.aclose()
        if self._waiting:
            for task in self._waiting:
                task.cancel()
            # Their failures, should several have failed at once, are taken note of here.
            await asyncio.gather(*self._waiting, return_exceptions=True)
            self._waiting.clear()

    def _wait(self, at: int, waiting: dict[asyncio.Future[bytes], int]) -> None:
        waiting[asyncio.ensure_future(_following(self._iterators[at]))] = at

    def _take(self, task: asyncio.Future[bytes], waiting: dict[asyncio.Future[bytes], int]) -> None:
        at = waiting.pop(task)
        chunk = task.result()
        self.confidence = _least([stream.confidence for stream in self._streams])
        self.cut = any(stream.cut for stream in self._streams)
        if not chunk:
            return
        self._wait(at, waiting)
        body = msgspec.json.decode(chunk)
        # One id for all of them: the first that came.
        self._base = self._base or {key: body[key] for key in body if key not in ("choices", "usage")}
        usage = Usage.from_wire(body.get("usage"))
        if usage is not None:
            self._usages.append(usage)
        choices = [choice | {"index": at} for choice in body["choices"]]
        if choices:
            self._ready.append(msgspec.json.encode(self._base | {"choices": choices}))

    def _last(self) -> bytes:
        usage = _usage(self._usages, self._cached).to_wire()
        return msgspec.json.encode(self._base | {"choices": [], "usage": usage})


async def _following(chunks: AsyncIterator[bytes]) -> bytes:
    """Return the next chunk; empty at the end."""
    with suppress(StopAsyncIteration):
        return await anext(chunks)
    return b""


def _usage(usages: Sequence[Usage], cached: int) -> Usage:
    """Return what all answers took; the prompt counts once, as OpenAI counts it."""
    return Usage(
        input_tokens=max(usage.input_tokens for usage in usages),
        output_tokens=sum(usage.output_tokens for usage in usages),
        cached_tokens=cached,
    )


def _least(known: Sequence[Confidence | None]) -> Confidence | None:
    """Return the confidence of the answer that is least sure; None where one tells none (yet)."""
    told = [each for each in known if each is not None]
    if not told or len(told) < len(known):
        return None
    least = min(told, key=lambda each: each.value)
    return Confidence(least.mean_logprob, least.min_logprob, least.min_margin, min(c.tokens for c in told))
