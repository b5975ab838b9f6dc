"""The way of a request with the real local model and a loopback cloud."""

import asyncio
import json
import sqlite3
from pathlib import Path
from typing import Any

import pytest
from fixtures import loopback_cloud as lc
from fixtures.loopback_cloud import LoopbackCloud
from fixtures.serving import CLOUD, EASY, HARD, LOCAL, MakeGateway

from smallfirst.router.answer import AnswerStream
from smallfirst.router.errors import (
    CannotServe,
    InvalidRequest,
    ModelNotFound,
    RequestError,
    StreamBroken,
    UpstreamError,
)
from smallfirst.router.gateway import Gateway
from smallfirst.router.settings import CacheSettings

# What the loopback cloud reports (20 in, 8 of them cached, 5 out) at gpt-4.1's prices: $2, $0.50 and $8 a million.
CLOUD_COST = (12 * 2 + 8 * 0.5 + 5 * 8) / 1e6


def entries(gateway: Gateway) -> list[dict[str, Any]]:
    """What the ledger holds, oldest first."""
    gateway.ledger.flush()
    with sqlite3.connect(gateway.ledger.path) as connection:
        connection.row_factory = sqlite3.Row
        found = [dict(row) for row in connection.execute("SELECT * FROM entries ORDER BY started_at")]
    connection.close()
    return found


async def settled(gateway: Gateway) -> None:
    """Wait until what goes on in the background is done."""
    assert gateway.reuse is not None
    await gateway.reuse.settled()


async def text_of(stream: AnswerStream) -> str:
    chunks = [json.loads(chunk) async for chunk in stream]
    return "".join(choice["delta"].get("content") or "" for chunk in chunks for choice in chunk["choices"])


# --- routing ------------------------------------------------------------------------------------------------------


async def test_an_easy_question_stays_local(make_gateway: MakeGateway, cloud: LoopbackCloud) -> None:
    gateway = make_gateway()
    answer = await gateway.complete(EASY)
    assert "Paris" in answer.text
    assert (answer.receipt.route, answer.receipt.model, answer.body["model"]) == ("local", LOCAL, LOCAL)
    assert answer.receipt.cost_usd == 0
    assert answer.receipt.saved_usd is not None
    assert answer.receipt.saved_usd > 0
    assert cloud.requests == []


async def test_a_hard_question_goes_to_the_cloud(make_gateway: MakeGateway, cloud: LoopbackCloud) -> None:
    answer = await make_gateway().complete(HARD)
    assert answer.text == "Paris is the answer."
    assert (answer.receipt.route, answer.receipt.model) == ("cloud", CLOUD)
    assert answer.receipt.cost_usd == pytest.approx(CLOUD_COST)
    assert answer.receipt.saved_usd == pytest.approx(0)
    assert cloud.requests[0].headers["authorization"] == "Bearer sk-cloud"


@pytest.mark.parametrize(("prompt", "route"), [(EASY, "local"), (HARD, "cloud")])
async def test_streams_take_the_same_way(make_gateway: MakeGateway, prompt: str, route: str) -> None:
    stream = await make_gateway().stream(prompt)
    assert stream.receipt.route == route
    assert "Paris" in await text_of(stream)
    assert stream.receipt.cost_usd is not None


async def test_a_named_model_is_asked_without_routing(make_gateway: MakeGateway) -> None:
    gateway = make_gateway()
    assert (await gateway.complete(EASY, model=CLOUD)).receipt.route == "cloud"
    assert (await gateway.complete(HARD, model=LOCAL, max_tokens=5)).receipt.route == "local"


async def test_an_unknown_model_is_not_found(make_gateway: MakeGateway) -> None:
    with pytest.raises(ModelNotFound, match="auto/balanced"):
        await make_gateway().complete(EASY, model="gpt-9")


async def test_without_a_cloud_the_local_model_answers_and_says_so(
    make_gateway: MakeGateway, make_settings: Any
) -> None:
    settings = make_settings()
    settings = settings.model_copy(update={"models": settings.models[:1]})
    answer = await make_gateway(settings).complete(HARD, max_tokens=5)
    assert answer.receipt.route == "local"
    assert "no cloud model is configured" in answer.receipt.reason


async def test_when_the_cloud_fails_the_local_model_answers_and_says_so(
    make_gateway: MakeGateway, cloud: LoopbackCloud
) -> None:
    cloud.enqueue(lc.status(503))
    gateway = make_gateway()
    answer = await gateway.complete(HARD, max_tokens=5)
    assert (answer.receipt.route, answer.receipt.attempts) == ("local", 2)
    assert answer.receipt.reason == f"{CLOUD} failed (c); {LOCAL} answers instead"
    assert [attempt["outcome"] for attempt in json.loads(entries(gateway)[0]["attempts"])] == ["error", "ok"]


async def test_a_stream_falls_back_before_its_first_chunk(
    make_gateway: MakeGateway, cloud: LoopbackCloud
) -> None:
    cloud.enqueue(lc.status(503))
    stream = await make_gateway().stream(HARD, max_tokens=5)
    assert (stream.receipt.route, stream.receipt.attempts) == ("local", 2)
    assert await text_of(stream)


async def test_a_cloud_that_keeps_failing_is_not_asked_for_a_while(
    make_gateway: MakeGateway, cloud: LoopbackCloud
) -> None:
    cloud.enqueue(*[lc.status(500)] * 3)
    gateway = make_gateway(cache=CacheSettings(enabled=False))
    for _ in range(4):
        answer = await gateway.complete(HARD, max_tokens=3)
    assert len(cloud.requests) == 3
    assert "the cloud is down" in answer.receipt.reason


async def test_an_answer_given_in_the_clouds_place_is_not_kept(
    make_gateway: MakeGateway, cloud: LoopbackCloud
) -> None:
    cloud.enqueue(lc.status(503))
    gateway = make_gateway()
    assert (await gateway.complete(HARD, max_tokens=3)).receipt.route == "local"
    assert (await gateway.complete(HARD, max_tokens=3)).receipt.route == "cloud"


async def test_what_the_cloud_finds_wrong_is_not_tried_elsewhere(
    make_gateway: MakeGateway, cloud: LoopbackCloud
) -> None:
    cloud.enqueue(
        lc.status(400, {"message": "bad logit_bias", "type": "t", "param": "logit_bias", "code": "x"})
    )
    with pytest.raises(UpstreamError) as caught:
        await make_gateway().complete(HARD)
    assert (caught.value.status, caught.value.body()["error"]["param"]) == (400, "logit_bias")


async def test_when_everything_fails_the_first_error_is_reported(
    make_gateway: MakeGateway, cloud: LoopbackCloud
) -> None:
    cloud.enqueue(lc.status(429, retry_after="7"))
    with pytest.raises(UpstreamError) as caught:
        await make_gateway(local=False).complete(HARD)
    assert (caught.value.status, caught.value.retry_after) == (429, 7)


# --- privacy and capabilities -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "fields", [{"metadata": {"privacy": "local"}}, {"model": "auto/private"}, {"model": "auto/offline"}]
)
async def test_what_is_private_never_reaches_the_cloud(
    make_gateway: MakeGateway, cloud: LoopbackCloud, fields: dict[str, Any]
) -> None:
    answer = await make_gateway().complete(HARD, max_tokens=3, **fields)
    assert answer.receipt.route == "local"
    assert cloud.requests == []


async def test_what_is_private_and_beyond_the_local_model_is_refused(
    make_gateway: MakeGateway, cloud: LoopbackCloud
) -> None:
    parts = [{"type": "image_url", "image_url": {"url": "data:image/png;base64,AA=="}}]
    with pytest.raises(CannotServe) as caught:
        await make_gateway().complete(
            {"messages": [{"role": "user", "content": parts}]}, model="auto/private"
        )
    assert caught.value.code == "privacy_local_only"
    assert cloud.requests == []


async def test_images_go_to_the_cloud_untouched(make_gateway: MakeGateway, cloud: LoopbackCloud) -> None:
    parts = [
        {"type": "text", "text": "What is this?"},
        {"type": "image_url", "image_url": {"url": "data:,x", "detail": "low"}},
    ]
    answer = await make_gateway().complete({"messages": [{"role": "user", "content": parts}]})
    assert answer.receipt.route == "cloud"
    assert cloud.requests[0].body["messages"][0]["content"] == parts


async def test_what_is_too_long_for_every_model_is_refused(make_gateway: MakeGateway) -> None:
    gateway = make_gateway(cloud_fields={"context_tokens": 8000})
    with pytest.raises(CannotServe) as caught:
        await gateway.complete("many words " * 8000)
    assert (caught.value.code, caught.value.param) == ("context_length_exceeded", "messages")


async def test_local_tool_calls_come_back_as_tool_calls(make_gateway: MakeGateway) -> None:
    tool = {
        "type": "function",
        "function": {
            "name": "get_weather",
            "parameters": {
                "type": "object",
                "properties": {"city": {"type": "string"}},
                "required": ["city"],
            },
        },
    }
    answer = await make_gateway().complete(
        "What is the weather in Paris?",
        model=LOCAL,
        tools=[tool],
        tool_choice="required",
        parallel_tool_calls=False,
        max_tokens=80,
    )
    call = answer.message["tool_calls"][0]["function"]
    assert call["name"] == "get_weather"
    assert set(json.loads(call["arguments"])) == {"city"}


# --- ledger -------------------------------------------------------------------------------------------------------


async def test_every_request_is_one_entry_without_its_text(make_gateway: MakeGateway, tmp_path: Path) -> None:
    gateway = make_gateway()
    hints = {"agent": "triage", "session": "s1", "step": 2, "tags": ["x"], "tenant": "acme"}
    answer = await gateway.complete(HARD, metadata=hints)
    (entry,) = entries(gateway)
    assert entry["request_id"] == answer.receipt.request_id
    expected = {
        "tenant": "acme",
        "agent": "triage",
        "session": "s1",
        "step": "2",
        "tags": '["x"]',
        "requested_model": "auto",
        "policy": "balanced",
        "route": "cloud",
        "model": CLOUD,
        "input_tokens": 20,
        "cached_tokens": 8,
        "output_tokens": 5,
        "usage_estimated": 0,
        "baseline_model": CLOUD,
        "cache": "miss",
        "status": "ok",
        "http_status": 200,
        "stream": 0,
    }
    assert {name: entry[name] for name in expected} == expected
    assert entry["cost_usd"] == entry["baseline_cost_usd"] == pytest.approx(CLOUD_COST)
    assert set(json.loads(entry["scores"])) == {LOCAL, CLOUD}
    files = b"".join(path.read_bytes() for path in tmp_path.glob("ledger.db*"))
    assert b"bakery" not in files
    assert b"Paris" not in files


async def test_an_unknown_price_is_unknown_and_not_zero(make_gateway: MakeGateway) -> None:
    gateway = make_gateway(cloud_fields={"name": "in-no-list"}, local=False)
    answer = await gateway.complete(HARD)
    assert (answer.receipt.cost_usd, answer.receipt.saved_usd) == (None, None)
    assert entries(gateway)[0]["cost_usd"] is None


async def test_missing_usage_is_estimated_and_marked(make_gateway: MakeGateway, cloud: LoopbackCloud) -> None:
    cloud.usage = None
    gateway = make_gateway()
    await gateway.complete(HARD)
    await text_of(await gateway.stream(HARD, cache={"no-cache": True}))
    for entry in entries(gateway):
        assert entry["usage_estimated"] == 1
        assert 80 < entry["input_tokens"] < 300
        assert 3 <= entry["output_tokens"] <= 10
        assert entry["cost_usd"] > 0


async def test_a_stream_left_early_is_booked_as_cancelled_with_an_estimate(
    make_gateway: MakeGateway, cloud: LoopbackCloud
) -> None:
    cloud.enqueue(lc.hang(after=3))
    gateway = make_gateway()
    async with await gateway.stream(HARD) as stream:
        await anext(aiter(stream))
    assert await asyncio.to_thread(cloud.disconnected.wait, 5)
    (entry,) = entries(gateway)
    assert (entry["status"], entry["http_status"], entry["usage_estimated"]) == ("cancelled", 499, 1)
    assert entry["cost_usd"] > 0


async def test_an_unread_stream_is_booked_too(make_gateway: MakeGateway, cloud: LoopbackCloud) -> None:
    gateway = make_gateway()
    for prompt in (EASY, HARD):
        stream = await gateway.stream(prompt)
        await stream.aclose()
        await stream.aclose()
    assert [entry["status"] for entry in entries(gateway)] == ["cancelled", "cancelled"]


async def test_a_stream_that_breaks_is_an_error_and_never_complete(
    make_gateway: MakeGateway, cloud: LoopbackCloud
) -> None:
    cloud.enqueue(lc.cut(after=2))
    gateway = make_gateway()
    stream = await gateway.stream(HARD)
    with pytest.raises(StreamBroken):
        await text_of(stream)
    await settled(gateway)
    assert entries(gateway)[0]["status"] == "error"
    assert (await gateway.complete(HARD)).receipt.cache == "miss"


async def test_a_cancelled_call_is_booked_and_frees_the_model(
    make_gateway: MakeGateway, cloud: LoopbackCloud
) -> None:
    gateway = make_gateway()
    call = asyncio.create_task(gateway.complete("Tell me a long story.", model=LOCAL, max_tokens=500))
    await asyncio.sleep(0.3)
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    assert "Paris" in (await gateway.complete(EASY)).text
    assert [entry["status"] for entry in entries(gateway)] == ["cancelled", "ok"]


async def test_an_error_is_an_entry_too(make_gateway: MakeGateway) -> None:
    gateway = make_gateway(cloud_fields={"context_tokens": 8000})
    with pytest.raises(RequestError):
        await gateway.complete("many words " * 8000)
    (entry,) = entries(gateway)
    assert (entry["status"], entry["error_code"], entry["http_status"], entry["route"]) == (
        "error",
        "context_length_exceeded",
        400,
        "none",
    )


# --- usage in streams -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("prompt", [EASY, HARD])
@pytest.mark.parametrize("asked", [True, False])
async def test_the_usage_chunk_comes_only_if_asked_for(
    make_gateway: MakeGateway, prompt: str, asked: bool
) -> None:
    fields = {"stream_options": {"include_usage": True}} if asked else {}
    chunks = [json.loads(chunk) async for chunk in await make_gateway().stream(prompt, **fields)]
    assert any(chunk.get("usage") for chunk in chunks) is asked
    assert any(not chunk["choices"] for chunk in chunks) is asked


# --- route ----------------------------------------------------------------------------------------------------------


async def test_route_decides_and_runs_nothing(make_gateway: MakeGateway, cloud: LoopbackCloud) -> None:
    gateway = make_gateway()
    assert gateway.route(EASY).attempts[0].model == LOCAL
    decision = gateway.route(HARD)
    assert decision.attempts[0].model == CLOUD
    assert decision.score is not None
    assert 0 <= decision.score.difficulty <= 1
    assert cloud.requests == []
    assert gateway.ledger.health().pending == 0


async def test_what_says_nothing_is_not_called_simple(make_gateway: MakeGateway) -> None:
    for prompt in ("", "    ", "?", "zxqv bnmp qwrt", "请解释一下量子力学", "🎈🎈🎈"):
        assert make_gateway().route(prompt).attempts[0].model == CLOUD, prompt


async def test_a_bad_body_is_refused_before_anything_runs(make_gateway: MakeGateway) -> None:
    with pytest.raises(InvalidRequest, match="messages"):
        await make_gateway().complete({})
