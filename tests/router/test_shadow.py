"""Comparisons with the baseline in the background: what is asked, what it tells, what it costs."""

import asyncio
import json
import sqlite3
from collections.abc import AsyncIterator
from contextlib import closing
from typing import Any

import pytest
from fixtures import loopback_cloud as lc
from fixtures.loopback_cloud import LoopbackCloud
from fixtures.serving import CLOUD, EASY, HARD, LOCAL, MakeGateway, MakeSettings

from smallfirst.router.drift import DriftMonitor
from smallfirst.router.gateway import Gateway
from smallfirst.router.ledger.report import make_report
from smallfirst.router.models.local.model import LocalModel

POLICIES = {
    "careful": {"preset": "balanced"},
    # Answers everything locally.
    "willing": {"min_local_success": 0, "max_gap": 1, "uncertain": "local"},
}
PRIVATE = {"metadata": {"privacy": "local"}}


@pytest.fixture
async def gateway(make_settings: MakeSettings, local_model: LocalModel) -> AsyncIterator[Gateway]:
    """Every local answer is compared."""
    settings = make_settings(
        policies=POLICIES, policy="careful", drift={"shadow": 1.0}, cache={"enabled": False}
    )
    drift = DriftMonitor(settings.drift, budgets=dict.fromkeys(POLICIES, 0.02), local=[LOCAL])
    async with Gateway(settings, models={LOCAL: local_model}, drift=drift) as made:
        yield made


async def settled(gateway: Gateway, n: int = 1) -> None:
    """Wait until that many comparisons have ended."""
    for _ in range(500):
        if sum(gateway.shadow.results.values()) >= n:
            return
        await asyncio.sleep(0.02)
    raise AssertionError(f"not settled: {gateway.shadow.results}")


def results(gateway: Gateway) -> dict[str, int]:
    return {name: n for name, n in gateway.shadow.results.items() if n}


def rows(gateway: Gateway, query: str) -> list[tuple[Any, ...]]:
    gateway.ledger.flush()
    with closing(sqlite3.connect(gateway.ledger.path)) as connection:
        return connection.execute(query).fetchall()


def seen(gateway: Gateway, policy: str = "careful") -> int:
    return int(gateway.drift.report()["policies"][policy]["tests"]["shadow"]["n"])


async def test_a_local_answer_is_compared_after_it_was_given(gateway: Gateway, cloud: LoopbackCloud) -> None:
    answer = await gateway.complete(EASY, max_tokens=12)
    assert answer.receipt.route == "local"
    assert cloud.requests == [], "the caller waited for no cloud"
    cloud.answer_text = answer.text
    await settled(gateway)
    assert (results(gateway), seen(gateway)) == ({"agree": 1}, 1)
    (found,) = rows(gateway, "SELECT request_id, source, policy, model, score, loss, detail FROM outcomes")
    assert found == (answer.receipt.request_id, "shadow", "careful", LOCAL, 1.0, 0.0, "agree")


async def test_a_disagreement_loses_what_the_baseline_was_likely_to_give(
    gateway: Gateway, cloud: LoopbackCloud
) -> None:
    cloud.answer_text = "Rome"
    body = {
        "model": "auto/willing",
        "messages": [{"role": "user", "content": "Is this good? 'I love it.' Answer yes or no."}],
        "response_format": {
            "type": "json_schema",
            "json_schema": {"schema": {"type": "string", "enum": ["yes", "no"]}},
        },
    }
    decision = gateway.route(body)
    answer = await gateway.complete(body)
    await settled(gateway)
    assert answer.receipt.route == "local"
    assert results(gateway) == {"disagree": 1}
    assert decision.score is not None
    ((score, loss),) = rows(gateway, "SELECT score, loss FROM outcomes")
    assert score == 0.0
    assert decision.score.known
    assert loss == pytest.approx(decision.score.success[CLOUD])
    assert seen(gateway, "willing") == 1


async def test_a_streamed_answer_is_compared_in_one_piece(gateway: Gateway, cloud: LoopbackCloud) -> None:
    stream = await gateway.stream(EASY, max_tokens=12, stream_options={"include_usage": True})
    _ = [chunk async for chunk in stream]
    await settled(gateway)
    (asked,) = cloud.requests
    assert "stream_options" not in asked.body
    assert not asked.body.get("stream")


async def test_what_a_comparison_costs_is_booked_once_and_to_the_request_s_labels(
    gateway: Gateway, cloud: LoopbackCloud
) -> None:
    answer = await gateway.complete(EASY, max_tokens=12, metadata={"agent": "triage", "tags": ["t"]})
    await settled(gateway)
    name = f"shadow_{answer.receipt.request_id}"
    query = f"SELECT agent, tags, model, cost_usd, status FROM entries WHERE request_id = '{name}'"  # noqa: S608
    ((agent, tags, model, cost, status),) = rows(gateway, query)
    assert (agent, json.loads(tags), model, status) == ("triage", ["t"], CLOUD, "ok")
    assert cost > 0
    total = make_report(gateway.ledger.store, since=None, until=None, by=(), prices="").total
    assert (total.requests, total.shadows) == (1, 1)
    assert total.cost_usd == pytest.approx(cost)
    metrics = gateway.metrics.render().decode()
    assert f'smallfirst_requests_total{{model="{CLOUD}"' not in metrics
    assert f'smallfirst_cost_usd_total{{model="{CLOUD}"}} {cost}' in metrics
    assert 'smallfirst_shadow_total{result="agree"}' in metrics


@pytest.mark.parametrize(
    "fields",
    [
        pytest.param(PRIVATE, id="it may not leave the house"),
        pytest.param({"model": "auto/private"}, id="no request of the policy may"),
        pytest.param({"model": LOCAL}, id="the caller named the model"),
    ],
)
async def test_some_local_answers_are_never_compared(
    gateway: Gateway, cloud: LoopbackCloud, fields: dict[str, Any]
) -> None:
    answer = await gateway.complete(EASY, max_tokens=12, **fields)
    await asyncio.sleep(0.1)
    assert (answer.receipt.route, results(gateway), cloud.requests) == ("local", {}, [])


async def test_an_answer_of_the_cloud_is_not_compared_with_itself(
    gateway: Gateway, cloud: LoopbackCloud
) -> None:
    await gateway.complete(HARD)
    await asyncio.sleep(0.1)
    assert (results(gateway), len(cloud.requests)) == ({}, 1)


async def test_an_answer_that_cannot_be_compared_is_counted_and_not_paid_for(
    gateway: Gateway, cloud: LoopbackCloud
) -> None:
    await gateway.complete("Tell me about the city of Paris, please.", max_tokens=60, model="auto/willing")
    await settled(gateway)
    assert (results(gateway), seen(gateway, "willing"), cloud.requests) == ({"not_comparable": 1}, 0, [])
    assert rows(gateway, "SELECT score, loss, detail FROM outcomes") == [(None, None, "not_comparable")]


async def test_a_failing_baseline_is_noted_and_reaches_no_caller(
    gateway: Gateway, cloud: LoopbackCloud
) -> None:
    cloud.enqueue(lc.status(500))
    await gateway.complete(EASY, max_tokens=12)
    await settled(gateway)
    assert (results(gateway), seen(gateway)) == ({"failed": 1}, 0)
    ((status, cost),) = rows(gateway, "SELECT status, cost_usd FROM entries WHERE kind = 'shadow'")
    assert (status, cost) == ("error", 0.0)


async def test_a_comparison_that_is_stopped_by_the_end_is_booked(
    gateway: Gateway, cloud: LoopbackCloud
) -> None:
    cloud.enqueue(lc.hang())
    await gateway.complete(EASY, max_tokens=12)
    for _ in range(200):
        if cloud.requests:
            break
        await asyncio.sleep(0.02)
    await gateway.aclose()
    assert results(gateway) == {"cancelled": 1}
    ((status, estimated),) = rows(
        gateway, "SELECT status, usage_estimated FROM entries WHERE kind = 'shadow' AND cost_usd > 0"
    )
    assert (status, estimated) == ("cancelled", 1)


async def test_a_burst_of_requests_is_no_burst_of_comparisons(gateway: Gateway, cloud: LoopbackCloud) -> None:
    cloud.enqueue(*[lc.hang()] * 4)
    await asyncio.gather(*(gateway.complete(EASY, max_tokens=4) for _ in range(6)))
    await settled(gateway, 2)
    assert results(gateway) == {"skipped": 2}


async def test_none_is_compared_unless_the_settings_say_so(
    make_gateway: MakeGateway, cloud: LoopbackCloud
) -> None:
    gateway = make_gateway(policies=POLICIES, policy="careful")
    await gateway.complete(EASY, max_tokens=12)
    await asyncio.sleep(0.1)
    assert (results(gateway), cloud.requests) == ({}, [])
