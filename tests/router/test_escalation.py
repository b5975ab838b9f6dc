"""Answers that a local model was not sure of: kept or not, whole and streamed, with the real model."""

import json
import sqlite3
from typing import Any

import pytest
from fixtures import loopback_cloud as lc
from fixtures.loopback_cloud import LoopbackCloud
from fixtures.serving import CLOUD, EASY, LOCAL, MakeGateway

from smallfirst.policies import load_preset
from smallfirst.router.gateway import Gateway


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
async def test_an_unsure_answer_is_better_than_none(
    make_gateway: MakeGateway, cloud: LoopbackCloud, streamed: bool
) -> None:
    cloud.enqueue(lc.status(500))
    text, receipt = await ask(make_gateway(**policy(0.999)), streamed=streamed)
    assert "Paris" in text
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
