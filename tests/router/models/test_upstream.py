"""What goes to a server and comes from it, over real connections."""

from __future__ import annotations

import asyncio
import gzip
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
from fixtures.faulty_upstream import Call, FaultyUpstream, chunk, completion, healthy, target

from smallfirst.router.errors import ModelUnavailable, StreamBroken, UpstreamError
from smallfirst.router.models.cloud import CloudModel
from smallfirst.router.settings import Timeouts
from smallfirst.router.wire import ChatRequest, ReplyStream

USER = {"role": "user", "content": "Hi"}
LONG = Timeouts(connect=5, first_byte=30, between_bytes=30, total=60)
WHOLE = ChatRequest.parse({"model": "big", "messages": [USER]})
STREAMED = ChatRequest.parse({"model": "big", "messages": [USER], "stream": True})


@pytest.fixture
async def upstream() -> AsyncIterator[FaultyUpstream]:
    made = FaultyUpstream()
    async with made.listening():
        yield made


@pytest.fixture
async def model(upstream: FaultyUpstream) -> AsyncIterator[CloudModel]:
    """A model of the upstream, with one connection and much patience."""
    made = CloudModel(target(upstream, timeouts=LONG))
    yield made
    await made.aclose()


async def text(stream: ReplyStream) -> str:
    chunks = [json.loads(each) async for each in stream]
    return "".join(each["choices"][0]["delta"].get("content") or "" for each in chunks if each["choices"])


async def packed(call: Call, body: bytes) -> bool:
    await call.head(content_type="application/json", content_encoding="gzip", content_length=len(body))
    await call.send(body)
    return True


async def test_packed_answers_are_read(upstream: FaultyUpstream, model: CloudModel) -> None:
    async def packs(call: Call) -> bool:
        return await packed(call, gzip.compress(json.dumps(completion("x" * 10_000)).encode()))

    upstream.fault = packs
    reply = await model.complete(WHOLE)
    assert reply.body["choices"][0]["message"]["content"] == "x" * 10_000


@pytest.mark.parametrize("apart", [False, True], ids=["at once", "later"])
async def test_what_cannot_be_unpacked_is_the_upstreams_fault(
    upstream: FaultyUpstream, model: CloudModel, apart: bool
) -> None:
    body = b"this is no gzip"

    async def packs_nothing(call: Call) -> bool:
        if apart:
            await call.head(
                content_type="application/json", content_encoding="gzip", content_length=len(body)
            )
            await asyncio.sleep(0.05)
            await call.send(body)
            return True
        head = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-encoding: gzip\r\ncontent-length: 15"
        await call.send(head + b"\r\n\r\n" + body)
        return True

    upstream.fault = packs_nothing
    with pytest.raises(UpstreamError, match="cannot be decompressed"):
        await model.complete(WHOLE)


async def test_a_long_body_goes_out_whole(upstream: FaultyUpstream, model: CloudModel) -> None:
    words = "word " * 500_000
    request = ChatRequest.parse({"model": "big", "messages": [{"role": "user", "content": words}]})
    await model.complete(request)
    (call,) = upstream.calls
    assert call.body["messages"][0]["content"] == words
    assert call.headers["content-type"] == "application/json"
    assert int(call.headers["content-length"]) > len(words)


async def test_requests_share_a_connection(upstream: FaultyUpstream, model: CloudModel) -> None:
    await model.complete(WHOLE)
    await text(await model.stream(STREAMED))
    await model.complete(WHOLE)
    assert len({call.writer for call in upstream.calls}) == 1


async def test_a_stream_whose_end_comes_after_its_done_leaves_the_connection_to_the_next(
    upstream: FaultyUpstream, model: CloudModel
) -> None:
    """A new connection for each stream would cost a handshake each."""
    dawdled = asyncio.Event()

    async def dawdles(call: Call) -> bool:
        await call.begin_stream()
        for data in (chunk("Paris", "stop"), b"[DONE]"):
            await call.event(data)
        await asyncio.sleep(0.05)
        dawdled.set()
        return await call.end_stream()

    upstream.fault = dawdles
    assert await text(await model.stream(STREAMED)) == "Paris"
    assert not dawdled.is_set()
    upstream.fault = healthy
    await model.complete(WHOLE)
    assert len({call.writer for call in upstream.calls}) == 1


async def test_a_stream_that_never_ends_after_its_done_loses_its_connection(
    upstream: FaultyUpstream, model: CloudModel
) -> None:
    async def goes_on(call: Call) -> bool:
        await call.begin_stream()
        for data in (chunk("Paris", "stop"), b"[DONE]"):
            await call.event(data)
        while True:
            await asyncio.sleep(0.01)
            await call.event(b"{}")

    upstream.fault = goes_on
    assert await text(await model.stream(STREAMED)) == "Paris"
    upstream.fault = healthy
    await model.complete(WHOLE)
    assert len({call.writer for call in upstream.calls}) == 2


async def hangs_in_a_stream(call: Call) -> bool:
    await call.begin_stream()
    await call.event(chunk("Paris"))
    await asyncio.sleep(60)
    return False


async def test_closing_the_pool_ends_the_streams_that_are_read(
    upstream: FaultyUpstream, model: CloudModel
) -> None:
    upstream.fault = hangs_in_a_stream
    reading = asyncio.create_task(text(await model.stream(STREAMED)))
    await asyncio.sleep(0.05)
    await model.aclose()
    with pytest.raises(StreamBroken):
        await reading


async def test_closing_the_pool_ends_calls_that_wait(upstream: FaultyUpstream, model: CloudModel) -> None:
    async def hangs(call: Call) -> bool:
        await asyncio.sleep(60)
        return False

    upstream.fault = hangs
    asking = asyncio.create_task(model.complete(WHOLE))
    while not upstream.calls:
        await asyncio.sleep(0.01)
    await model.aclose()
    with pytest.raises(ModelUnavailable):
        await asking


async def test_a_reader_that_stops_leaves_no_connection(upstream: FaultyUpstream, model: CloudModel) -> None:
    upstream.fault = hangs_in_a_stream
    for _ in range(3):
        stream = await model.stream(STREAMED)
        async for _ in stream:
            break
        await stream.aclose()
    for _ in range(100):
        if not upstream.open:
            break
        await asyncio.sleep(0.01)
    assert upstream.open == 0


async def test_a_header_of_the_settings_replaces_ours(upstream: FaultyUpstream) -> None:
    fields: dict[str, Any] = {
        "headers": {"Authorization": "Basic abc", "User-Agent": "us"},
        "api_key": "sk-1",
    }
    model = CloudModel(target(upstream, **fields))
    await model.complete(WHOLE)
    await model.aclose()
    (call,) = upstream.calls
    assert (call.headers["authorization"], call.headers["user-agent"]) == ("Basic abc", "us")
