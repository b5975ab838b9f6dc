"""Answers that a local model was not sure of: kept or not, whole and streamed, with the real model."""

import asyncio
import json
import sqlite3
from typing import Any

import pytest
from fixtures import loopback_cloud as lc
from fixtures.loopback_cloud import LoopbackCloud
from fixtures.serving import CLOUD, EASY, LOCAL, MakeGateway, MakeSettings

from smallfirst.policies import load_preset
from smallfirst.router.gateway import Gateway
from smallfirst.router.settings import CacheSettings, CloudModelSettings, Settings


def policy(least: float, **fields: Any) -> dict[str, Any]:
    """Settings with the usual policy, but for how sure a local model must be."""
    own = load_preset("balanced").model_copy(update={"name": "sure", "min_confidence": least, **fields})
    return {"policies": {"sure": own}, "policy": "sure"}


def attempts(gateway: Gateway) -> list[dict[str, Any]]:
    """The attempts of the one request in the ledger."""
    gateway.ledger.flush()
    with sqlite3.connect(gateway.ledger.path) as connection:
        (found,) = connection.execute("SELECT attempts FROM entries").fetchone()
    connection.close()
    kept: list[dict[str, Any]] = json.loads(found)
    return kept


async def ask(gateway: Gateway, *, streamed: bool, **fields: Any) -> tuple[str, Any]:
    """The answer's text, and its receipt."""
    if not streamed:
        answer = await gateway.complete(EASY, **fields)
        return answer.text, answer.receipt
    stream = await gateway.stream(EASY, **fields)
    chunks = [json.loads(chunk) async for chunk in stream]
    parts = [choice["delta"].get("content") or "" for chunk in chunks for choice in chunk["choices"]]
    assert sum(choice["finish_reason"] is not None for chunk in chunks for choice in chunk["choices"]) == 1
    return "".join(parts), stream.receipt


@pytest.mark.parametrize("streamed", [False, True])
async def test_a_sure_answer_is_kept(make_gateway: MakeGateway, cloud: LoopbackCloud, streamed: bool) -> None:
    text, receipt = await ask(make_gateway(**policy(0.3)), streamed=streamed)
    assert "Paris" in text
    assert (receipt.route, receipt.attempts) == ("local", 1)
    assert cloud.requests == []


@pytest.mark.parametrize("streamed", [False, True])
async def test_an_unsure_answer_is_not_shown_and_is_booked(make_gateway: MakeGateway, streamed: bool) -> None:
    gateway = make_gateway(**policy(0.999))
    text, receipt = await ask(gateway, streamed=streamed)
    assert text == "Paris is the answer."
    assert (receipt.route, receipt.model, receipt.attempts) == ("cloud", CLOUD, 2)
    assert f"{LOCAL} was unsure (0." in receipt.reason
    first, second = attempts(gateway)
    assert (first["model"], first["outcome"], second["model"], second["outcome"]) == (
        LOCAL,
        "discarded",
        CLOUD,
        "ok",
    )
    assert first["input_tokens"] > 0
    assert first["output_tokens"] > 0


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize("limit", [3, 20])
async def test_a_forced_call_that_its_limit_cuts_escalates(
    make_gateway: MakeGateway, streamed: bool, limit: int
) -> None:
    """After three tokens there is nothing of the call yet, after twenty half of its arguments."""
    function = {
        "name": "weather",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
    }
    asked: dict[str, Any] = {
        "tools": [{"type": "function", "function": function}],
        "tool_choice": "required",
        "max_tokens": limit,
    }
    gateway = make_gateway(**policy(0, min_local_success=0.0, max_gap=1.0, cascade="always"))
    _, receipt = await ask(gateway, streamed=streamed, **asked)
    assert (receipt.route, receipt.attempts) == ("cloud", 2)
    assert receipt.reason == f"{LOCAL} gave no valid answer (its answer is cut off); {CLOUD} answers"
    assert [one["outcome"] for one in attempts(gateway)] == ["discarded", "ok"]


@pytest.mark.parametrize("streamed", [False, True])
async def test_an_unsure_answer_is_better_than_none(
    make_gateway: MakeGateway, cloud: LoopbackCloud, streamed: bool
) -> None:
    cloud.enqueue(lc.status(500))
    gateway = make_gateway(**policy(0.999))
    text, receipt = await ask(gateway, streamed=streamed)
    assert "Paris" in text
    # In the order of the asking: which tier came first is what exploring goes by.
    assert [(one["model"], one["outcome"]) for one in attempts(gateway)] == [(LOCAL, "ok"), (CLOUD, "error")]
    assert (receipt.route, receipt.model) == ("local", LOCAL)
    assert receipt.reason == f"{CLOUD} failed (c); {LOCAL} was unsure, but answers"


async def test_with_nobody_else_an_unsure_answer_is_kept(make_gateway: MakeGateway) -> None:
    gateway = make_gateway(**policy(0.999, privacy="local"))
    text, receipt = await ask(gateway, streamed=False)
    assert "Paris" in text
    assert receipt.attempts == 1


async def test_a_long_answer_is_shown_once_it_is_sure_enough(
    make_gateway: MakeGateway, cloud: LoopbackCloud
) -> None:
    gateway = make_gateway(**policy(0.01))
    stream = await gateway.stream(EASY, max_tokens=200, model="auto")
    async with stream:
        first = json.loads(await anext(aiter(stream)))
    assert first["choices"][0]["delta"]["role"] == "assistant"
    assert cloud.requests == []


# --- the cloud, early -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("streamed", [False, True])
async def test_an_early_call_is_the_one_that_answers(
    make_gateway: MakeGateway, cloud: LoopbackCloud, streamed: bool
) -> None:
    gateway = make_gateway(**policy(0.999, early_cloud=1.0))
    text, receipt = await ask(gateway, streamed=streamed)
    assert (text, receipt.attempts, len(cloud.requests)) == ("Paris is the answer.", 2, 1)
    assert [(a["model"], a["outcome"], a["early"]) for a in attempts(gateway)] == [
        (LOCAL, "discarded", False),
        (CLOUD, "ok", True),
    ]


@pytest.mark.parametrize("streamed", [False, True])
async def test_an_early_call_that_is_not_needed_is_hung_up(
    make_gateway: MakeGateway, cloud: LoopbackCloud, streamed: bool
) -> None:
    cloud.enqueue(lc.hang())
    gateway = make_gateway(**policy(0.3, early_cloud=1.0))
    text, receipt = await ask(gateway, streamed=streamed)
    assert "Paris" in text
    assert (receipt.route, receipt.attempts) == ("local", 2)
    unused, kept = attempts(gateway)
    assert (unused["outcome"], kept["outcome"]) == ("unused", "ok")
    assert (unused["output_tokens"] > 0, unused["estimated"]) == (not streamed, True)
    assert receipt.cost_usd == pytest.approx(unused["input_tokens"] * 2e-6 + unused["output_tokens"] * 8e-6)
    if cloud.requests:  # it may have been hung up before it had said anything
        assert await asyncio.to_thread(cloud.disconnected.wait, 5)


async def test_asked_as_a_stream_an_answer_is_the_same(make_gateway: MakeGateway) -> None:
    """The confidence of what there is can only be read from a stream; the caller shall not see a difference."""
    tools = [
        {
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
    ]
    fields = {
        "tools": tools,
        "tool_choice": "required",
        "max_tokens": 80,
        "logprobs": True,
        "parallel_tool_calls": False,
    }
    answers = []
    for early in (0.0, 1e-9):
        gateway = make_gateway(
            cache=CacheSettings(enabled=False), **policy(1e-6, cascade="always", early_cloud=early)
        )
        answers.append((await gateway.complete(EASY, **fields)).body)
    for body in answers:
        (choice,) = body["choices"]
        # What changes from call to call; and the words, where two are about as likely: last digits move with what else
        # the model is computing.
        del body["id"], body["created"], body["usage"]
        for call in choice["message"]["tool_calls"]:
            del call["id"]
            call["function"]["arguments"] = sorted(json.loads(call["function"]["arguments"]))
        choice["logprobs"]["content"] = [sorted(entry) for entry in choice["logprobs"]["content"]][:1]
    assert answers[0] == answers[1]


# --- several samples ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("streamed", [False, True])
async def test_several_samples_of_a_real_model_are_booked_as_one_attempt(
    make_gateway: MakeGateway, cloud: LoopbackCloud, streamed: bool
) -> None:
    gateway = make_gateway(**policy(0.0, self_consistency=3))
    text, receipt = await ask(gateway, streamed=streamed, max_tokens=12)
    assert "Paris" in text
    (kept,) = [attempt for attempt in attempts(gateway) if attempt["model"] == LOCAL]
    assert kept["outcome"] == ("ok" if receipt.route == "local" else "discarded")
    assert kept["input_tokens"] % 3 == 0
    assert kept["output_tokens"] > 9


async def test_labels_with_probabilities_are_not_sampled(make_gateway: MakeGateway) -> None:
    gateway = make_gateway(**policy(0.0, self_consistency=3, cascade="always", early_cloud=1.0))
    enum = {"type": "string", "enum": ["capital", "river"]}
    form = {"type": "json_schema", "json_schema": {"name": "label", "schema": enum}}
    answer = await gateway.complete("Paris is a ...", response_format=form)
    assert answer.body["classification"]["method"] == "model"
    assert attempts(gateway)[0]["input_tokens"] == answer.body["usage"]["prompt_tokens"]


async def test_several_answers_are_not_held_against_further_samples(make_gateway: MakeGateway) -> None:
    gateway = make_gateway(**policy(0.0, self_consistency=3))
    answer = await gateway.complete("What is the capital of France?", n=2, max_tokens=6, seed=1)
    (kept,) = attempts(gateway)
    assert (kept["model"], kept["outcome"]) == (LOCAL, "ok")
    assert len(answer.body["choices"]) == 2
    assert kept["output_tokens"] == answer.body["usage"]["completion_tokens"]


# --- a server in the house ------------------------------------------------------------------------------------------

CITY = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
AS_CITY = {"type": "json_schema", "json_schema": {"name": "city", "schema": CITY}}
HOUSE = "house"


@pytest.fixture
def with_house(make_settings: MakeSettings, cloud: LoopbackCloud) -> Settings:
    """A server of the house and a cloud, both on the same loopback: the house is asked first."""
    settings = make_settings(**policy(0.0, cascade="always"))
    price = {"input": 0.1, "output": 0.4}
    house = CloudModelSettings.model_validate(
        {"name": HOUSE, "kind": "openai", "tier": "local", "base_url": cloud.base_url, "price": price}
    )
    return settings.model_copy(update={"models": (house, settings.models[1])})


@pytest.mark.parametrize("streamed", [False, True])
async def test_broken_json_of_a_server_in_the_house_escalates(
    make_gateway: MakeGateway, with_house: Settings, cloud: LoopbackCloud, streamed: bool
) -> None:
    gateway = make_gateway(with_house)
    text, receipt = await ask(gateway, streamed=streamed, response_format=AS_CITY)
    assert (text, receipt.model) == ("Paris is the answer.", CLOUD)
    assert receipt.reason == f"{HOUSE} gave no valid answer (its JSON is not valid); {CLOUD} answers"
    first, second = attempts(gateway)
    assert (first["outcome"], first["error_code"]) == ("discarded", "invalid")
    # 20 in, 8 of them cached, and 5 out, at the house's prices and at gpt-4.1's.
    assert first["cost_usd"] == pytest.approx((20 * 0.1 + 5 * 0.4) / 1e6)
    assert second["cost_usd"] == pytest.approx((12 * 2 + 8 * 0.5 + 5 * 8) / 1e6)
    assert receipt.cost_usd == pytest.approx(first["cost_usd"] + second["cost_usd"])


@pytest.mark.parametrize("streamed", [False, True])
async def test_good_json_of_a_server_in_the_house_is_kept(
    make_gateway: MakeGateway, with_house: Settings, cloud: LoopbackCloud, streamed: bool
) -> None:
    cloud.answer_text = '{"city": "Paris"}'
    text, receipt = await ask(make_gateway(with_house), streamed=streamed, response_format=AS_CITY)
    assert (text, receipt.model, receipt.attempts) == (cloud.answer_text, HOUSE, 1)


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize(("wanted", "model"), [("city", HOUSE), ("country", CLOUD)])
async def test_calls_of_a_server_in_the_house_are_held_against_their_schema(
    make_gateway: MakeGateway, with_house: Settings, wanted: str, model: str, streamed: bool
) -> None:
    parameters = {"type": "object", "properties": {wanted: {"type": "string"}}, "required": [wanted]}
    tools = [{"type": "function", "function": {"name": "find", "parameters": parameters}}]
    _, receipt = await ask(make_gateway(with_house), streamed=streamed, tools=tools, tool_choice="required")
    assert receipt.model == model


async def test_a_held_stream_that_breaks_escalates(
    make_gateway: MakeGateway, with_house: Settings, cloud: LoopbackCloud
) -> None:
    cloud.enqueue(lc.cut(after=2))
    gateway = make_gateway(with_house)
    text, receipt = await ask(gateway, streamed=True, response_format=AS_CITY)
    assert (text, receipt.model) == ("Paris is the answer.", CLOUD)
    assert [attempt["outcome"] for attempt in attempts(gateway)] == ["broken", "ok"]
