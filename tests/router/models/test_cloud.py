"""The cloud model against a real HTTP server, well-behaved and not."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from fixtures import loopback_cloud as lc
from fixtures.loopback_cloud import LoopbackCloud
from pydantic import SecretStr

from smallfirst.router.errors import ModelError, ModelTimeout, ModelUnavailable, StreamBroken, UpstreamError
from smallfirst.router.models.cloud import CloudModel
from smallfirst.router.settings import CloudModelSettings, Retries, Timeouts
from smallfirst.router.wire import ChatRequest, Reply, ReplyStream, Usage

MakeModel = Callable[..., CloudModel]
USER = {"role": "user", "content": "Hi"}
FAST = Timeouts(connect=2, first_byte=0.2, between_bytes=0.2, total=1)


@pytest.fixture
async def make(cloud: LoopbackCloud) -> AsyncIterator[MakeModel]:
    """Makes models of the loopback cloud; waits between tries are recorded and not waited."""
    models: list[CloudModel] = []

    def make_model(*, waits: list[float] | None = None, **fields: Any) -> CloudModel:
        async def sleep(seconds: float) -> None:
            if waits is not None:
                waits.append(seconds)

        given = {"name": "big", "kind": "openai", "base_url": cloud.base_url, "api_key": SecretStr("sk-1")}
        model = CloudModel(CloudModelSettings(**{**given, **fields}), sleep=sleep, jitter=lambda: 0.5)
        models.append(model)
        return model

    yield make_model
    for model in models:
        await model.aclose()


def request(headers: dict[str, str] | None = None, **fields: Any) -> ChatRequest:
    return ChatRequest.parse({"model": "auto", "messages": [USER], **fields}, headers=headers)


async def read(stream: ReplyStream) -> list[dict[str, Any]]:
    return [json.loads(chunk) async for chunk in stream]


def text(chunks: list[dict[str, Any]]) -> str:
    return "".join(choice["delta"].get("content") or "" for chunk in chunks for choice in chunk["choices"])


async def test_a_reply_comes_back_with_usage_and_our_name_for_the_model(
    cloud: LoopbackCloud, make: MakeModel
) -> None:
    cloud.extra = {"system_fingerprint": "fp"}
    reply = await make(model="upstream-name").complete(request())
    assert isinstance(reply, Reply)
    assert reply.body["choices"][0]["message"]["content"] == "Paris is the answer."
    assert reply.body["model"] == "big"
    assert reply.body["system_fingerprint"] == "fp"
    assert reply.usage == Usage(input_tokens=20, output_tokens=5, cached_tokens=8)
    assert cloud.requests[0].body["model"] == "upstream-name"


async def test_the_body_goes_out_as_it_came_in(cloud: LoopbackCloud, make: MakeModel) -> None:
    await make().complete(request(verbosity="low", temperature=0.1, metadata={"agent": "a", "team": "t"}))
    expected = {
        "messages": [USER],
        "model": "big",
        "verbosity": "low",
        "temperature": 0.1,
        "metadata": {"team": "t"},
    }
    assert cloud.requests[0].body == expected
    assert cloud.requests[0].path == "/v1/chat/completions"


async def test_only_named_headers_go_out_and_the_key_is_ours(cloud: LoopbackCloud, make: MakeModel) -> None:
    headers = {
        "authorization": "Bearer caller",
        "cookie": "c=1",
        "traceparent": "00-1-2-01",
        "x-request-id": "r1",
    }
    await make(headers={"x-org": SecretStr("o")}).complete(request(headers))
    sent = cloud.requests[0].headers
    assert sent["authorization"] == "Bearer sk-1"
    assert (sent["traceparent"], sent["x-request-id"], sent["x-org"]) == ("00-1-2-01", "r1", "o")
    assert "cookie" not in sent


@pytest.mark.parametrize(
    "odd", ["\u00e9", "a\x7f", "a" * 30_000], ids=["not ASCII", "a control character", "long"]
)
async def test_a_header_that_a_server_may_not_take_stays_here(
    cloud: LoopbackCloud, make: MakeModel, odd: str
) -> None:
    """A caller could make every call of his fail by one, and the model seem to be down for others."""
    await make().complete(request({"x-request-id": odd, "tracestate": odd, "traceparent": "00-1-2-01"}))
    sent = cloud.requests[0].headers
    assert sent["traceparent"] == "00-1-2-01"
    assert not {"x-request-id", "tracestate"} & sent.keys()


async def test_a_stream_carries_the_text_and_the_usage(cloud: LoopbackCloud, make: MakeModel) -> None:
    chunks = await read(await make().stream(request(stream=True)))
    assert text(chunks) == "Paris is the answer."
    assert chunks[-1]["usage"] == lc.USAGE
    assert {chunk["model"] for chunk in chunks} == {"big"}
    assert cloud.requests[0].body["stream_options"] == {"include_usage": True}


async def test_chunks_that_need_no_change_are_passed_on_byte_for_byte(
    cloud: LoopbackCloud, make: MakeModel
) -> None:
    odd = b'{ "model" : "big", "choices":[{"index":0,"delta":{"content":"x"},"finish_reason":"stop"}], "new": 1.0 }'
    cloud.enqueue(lc.events(b"data: " + odd + b"\n\n", lc.DONE))
    assert [chunk async for chunk in await make().stream(request(stream=True))] == [odd]


async def test_tool_calls_pass_through(cloud: LoopbackCloud, make: MakeModel) -> None:
    tool = {"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}
    reply = await make().complete(request(tools=[tool], tool_choice="required"))
    assert reply.body["choices"][0]["message"]["tool_calls"][0]["function"]["name"] == "weather"


@pytest.mark.parametrize("code", [429, 500, 502, 503])
async def test_passing_faults_are_tried_again(cloud: LoopbackCloud, make: MakeModel, code: int) -> None:
    waits: list[float] = []
    cloud.enqueue(lc.status(code), lc.status(code))
    reply = await make(waits=waits).complete(request())
    assert reply.retries == 2
    assert waits == [0.125, 0.25]


async def test_lost_connections_are_tried_again_also_in_streams(
    cloud: LoopbackCloud, make: MakeModel
) -> None:
    cloud.enqueue(lc.hang_up(), lc.events(end=False))
    stream = await make().stream(request(stream=True))
    assert stream.retries == 2
    assert text(await read(stream)) == "Paris is the answer."


async def test_retry_after_is_waited_for(cloud: LoopbackCloud, make: MakeModel) -> None:
    waits: list[float] = []
    cloud.enqueue(lc.status(429, retry_after="3"))
    await make(waits=waits).complete(request())
    assert waits == [3.0]


async def test_a_long_retry_after_is_passed_on_and_not_waited_for(
    cloud: LoopbackCloud, make: MakeModel
) -> None:
    cloud.enqueue(lc.status(429, retry_after="60"))
    with pytest.raises(UpstreamError) as caught:
        await make().complete(request())
    assert (caught.value.status, caught.value.retry_after, len(cloud.requests)) == (429, 60.0, 1)


async def test_retries_are_bounded(cloud: LoopbackCloud, make: MakeModel) -> None:
    cloud.enqueue(*[lc.status(503)] * 5)
    with pytest.raises(UpstreamError):
        await make(retries=Retries(max=1)).complete(request())
    assert len(cloud.requests) == 2


@pytest.mark.parametrize("streamed", [False, True])
async def test_an_upstream_error_keeps_its_status_and_its_body(
    cloud: LoopbackCloud, make: MakeModel, streamed: bool
) -> None:
    error = {"message": "too hot", "type": "invalid_request_error", "param": "temperature", "code": "bad"}
    cloud.enqueue(lc.status(400, error))
    model = make()
    with pytest.raises(UpstreamError) as caught:
        await (model.stream(request(stream=True)) if streamed else model.complete(request()))
    assert (caught.value.status, caught.value.body()) == (400, {"error": error})


@pytest.mark.parametrize("depth", [5, 500, 900])
async def test_an_upstream_error_keeps_its_status_however_deep_it_is(
    cloud: LoopbackCloud, make: MakeModel, depth: int
) -> None:
    nested = b"[" * depth + b"]" * depth
    cloud.enqueue(lc.raw(b'{"error": {"message": "too hot", "param": %s}}' % nested, code=400))
    with pytest.raises(UpstreamError) as caught:
        await make().complete(request())
    assert caught.value.status == 400
    assert json.dumps(caught.value.body())


async def test_a_refused_key_does_not_read_as_if_it_were_the_callers(
    cloud: LoopbackCloud, make: MakeModel
) -> None:
    cloud.enqueue(lc.status(401, {"message": "Incorrect API key provided: sk-1"}))
    with pytest.raises(UpstreamError) as caught:
        await make().complete(request())
    error = caught.value.body()["error"]
    assert (caught.value.status, error["code"]) == (401, "upstream_authentication")
    assert "sk-1" not in error["message"]


@pytest.mark.parametrize(
    "body", [b"", b"{", b"[]", b'{"choices": []}', b'{"choices": null}', b"\xff", b"<html>down</html>"]
)
async def test_a_reply_that_is_none_is_the_upstreams_fault(
    cloud: LoopbackCloud, make: MakeModel, body: bytes
) -> None:
    cloud.enqueue(*[lc.raw(body)] * 3)
    with pytest.raises(UpstreamError) as caught:
        await make().complete(request())
    assert caught.value.status == 502
    assert "html" not in caught.value.message


async def test_an_error_page_is_reported_without_its_text(cloud: LoopbackCloud, make: MakeModel) -> None:
    cloud.enqueue(*[lc.raw(b"<html>secret</html>", code=503, content_type="text/html")] * 3)
    with pytest.raises(UpstreamError) as caught:
        await make().complete(request())
    assert caught.value.body()["error"]["message"] == "The upstream of model 'big' answered 503."


async def test_a_whole_reply_to_a_stream_request_is_the_upstreams_fault(
    cloud: LoopbackCloud, make: MakeModel
) -> None:
    cloud.enqueue(*[lc.raw(b"{}")] * 3)
    with pytest.raises(UpstreamError, match="did not stream") as caught:
        await make().stream(request(stream=True))
    # It had the prompt each time, and answered with no error.
    assert (caught.value.retries, caught.value.billed_tries) == (2, 3)


@pytest.mark.parametrize(("body", "billed"), [(None, 0), (b"{", 1)], ids=["an error", "a broken answer"])
async def test_time_that_ends_while_a_retry_is_waited_for_costs_no_further_try(
    cloud: LoopbackCloud, body: bytes | None, billed: int
) -> None:
    cloud.enqueue(lc.status(500) if body is None else lc.raw(body))
    waits = Retries(max=1, base_delay=60, max_delay=60)
    times = Timeouts(total=1)
    settings = CloudModelSettings(
        name="big", kind="openai", base_url=cloud.base_url, retries=waits, timeouts=times
    )
    model = CloudModel(settings, jitter=lambda: 1.0)
    with pytest.raises(ModelTimeout, match=r"'timeouts\.total'") as caught:
        await model.complete(request())
    await model.aclose()
    assert (caught.value.retries, caught.value.billed_tries) == (0, billed)
    assert len(cloud.requests) == 1


async def test_nobody_listening_is_unavailable(make: MakeModel) -> None:
    with pytest.raises(ModelUnavailable) as caught:
        await make(base_url="http://127.0.0.1:9/v1").complete(request())
    assert caught.value.code == "upstream_unreachable"


@pytest.mark.parametrize(
    ("behaviour", "phase"),
    [(lc.hang(), "first_byte"), (lc.trickle(0.15), "total"), (lc.trickle(0.5), "first_byte")],
)
async def test_a_slow_reply_times_out_naming_the_phase(
    cloud: LoopbackCloud, make: MakeModel, behaviour: lc.Behaviour, phase: str
) -> None:
    cloud.enqueue(behaviour)
    with pytest.raises(ModelTimeout, match=phase):
        await make(timeouts=FAST).complete(request())
    assert await asyncio.to_thread(cloud.disconnected.wait, 5)


async def test_a_stream_that_does_not_begin_times_out(cloud: LoopbackCloud, make: MakeModel) -> None:
    cloud.enqueue(lc.hang(after=0))
    with pytest.raises(ModelTimeout, match="first_byte"):
        await make(timeouts=FAST).stream(request(stream=True))


DELTA = (
    b'data: {"model": "big", "choices": [{"index": 0, "delta": {"content": "x"}, "finish_reason": null}]}\n\n'
)
LAST = b'data: {"model": "big", "choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}\n\n'


@pytest.mark.parametrize(
    ("behaviour", "error"),
    [
        (lc.hang(after=2), ModelTimeout),
        (lc.cut(after=2), StreamBroken),
        (lc.events(DELTA, b"data: {broken\n\n"), StreamBroken),
        (lc.events(DELTA, b'data: {"error": {"message": "overloaded"}}\n\n'), StreamBroken),
        (lc.events(DELTA), StreamBroken),
    ],
)
async def test_a_stream_that_fails_midway_never_looks_complete(
    cloud: LoopbackCloud, make: MakeModel, behaviour: lc.Behaviour, error: type[ModelError]
) -> None:
    cloud.enqueue(behaviour)
    stream = await make(timeouts=FAST).stream(request(stream=True))
    with pytest.raises(error):
        await read(stream)
    assert len(cloud.requests) == 1


async def test_a_missing_done_after_the_finish_reason_is_tolerated(
    cloud: LoopbackCloud, make: MakeModel
) -> None:
    cloud.enqueue(lc.events(DELTA, LAST))
    assert text(await read(await make().stream(request(stream=True)))) == "x"


@pytest.mark.parametrize("read_first", [True, False])
async def test_closing_a_stream_hangs_up_on_the_upstream(
    cloud: LoopbackCloud, make: MakeModel, read_first: bool
) -> None:
    cloud.enqueue(lc.hang(after=2))
    stream = await make().stream(request(stream=True))
    if read_first:
        await anext(aiter(stream))
    await stream.aclose()
    await stream.aclose()
    assert await asyncio.to_thread(cloud.disconnected.wait, 5)


async def test_cancelling_a_call_hangs_up_on_the_upstream(cloud: LoopbackCloud, make: MakeModel) -> None:
    cloud.enqueue(lc.hang())
    call = asyncio.create_task(make().complete(request()))
    while not cloud.requests:
        await asyncio.sleep(0.01)
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    assert await asyncio.to_thread(cloud.disconnected.wait, 5)


def test_one_model_serves_several_event_loops_in_turn(cloud: LoopbackCloud) -> None:
    model = CloudModel(CloudModelSettings(name="big", kind="openai", base_url=cloud.base_url))

    async def once() -> str:
        reply = await model.complete(request())
        await model.aclose()
        return str(reply.body["model"])

    assert [asyncio.run(once()), asyncio.run(once())] == ["big", "big"]
