"""What was used is booked, and once: odd answers, calls that had not begun, tries before an answer."""

from __future__ import annotations

import asyncio
import json
import sqlite3
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import pytest
from fixtures import loopback_cloud as lc
from fixtures.loopback_cloud import LoopbackCloud
from fixtures.scripted_model import PROMPT_TOKENS, Scripted
from fixtures.serving import CLOUD, EASY, LOCAL, MakeGateway, MakeSettings
from prometheus_client.parser import text_string_to_metric_families

from smallfirst.policies import load_preset
from smallfirst.router.access.grant import Grant
from smallfirst.router.errors import UpstreamError
from smallfirst.router.gateway import Gateway
from smallfirst.router.settings import EnergySettings, LocalCost, default_local_model
from smallfirst.router.wire import ChatRequest, Reply

ASKED: dict[str, Any] = {"model": CLOUD, "messages": [{"role": "user", "content": EASY}]}
RETRYING = {"retries": {"max": 1, "base_delay": 0}}


def entries(gateway: Gateway) -> list[dict[str, Any]]:
    gateway.ledger.flush()
    with sqlite3.connect(gateway.ledger.path) as connection:
        connection.row_factory = sqlite3.Row
        rows = [dict(row) for row in connection.execute("SELECT * FROM entries")]
    connection.close()
    return [{**row, "attempts": json.loads(row["attempts"])} for row in rows]


def in_flight(gateway: Gateway) -> float:
    families = text_string_to_metric_families(gateway.metrics.render().decode())
    return next(f.samples[0].value for f in families if f.name == "smallfirst_requests_in_flight")


# --- odd answers --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "choice",
    [
        None,
        "text",
        {},
        {"message": None},
        {"message": "text"},
        {"message": {"tool_calls": "f"}},
        {"message": {"tool_calls": [None]}},
        {"message": {"tool_calls": [{"function": "f"}]}},
    ],
    ids=str,
)
async def test_a_reply_that_cannot_be_read_is_an_error_and_is_booked(
    make_gateway: MakeGateway, cloud: LoopbackCloud, choice: Any
) -> None:
    cloud.enqueue(lc.raw(json.dumps({"object": "chat.completion", "choices": [choice]}).encode()))
    gateway = make_gateway(local=False)
    with pytest.raises(UpstreamError):
        await gateway.complete(ASKED)
    (entry,) = entries(gateway)
    assert (entry["status"], entry["http_status"], len(entry["attempts"])) == ("error", 502, 1)
    assert entry["cost_usd"] > 0
    assert in_flight(gateway) == 0


async def test_a_bug_after_the_answer_leaves_an_entry_with_what_it_cost(make_gateway: MakeGateway) -> None:
    gateway = make_gateway(local=False)

    class Broken:
        def consider(self, *_: object) -> None:
            raise ZeroDivisionError

    shadow, gateway.serving.shadow = gateway.serving.shadow, Broken()  # type: ignore[assignment]
    with pytest.raises(ZeroDivisionError):
        await gateway.complete(ASKED)
    stream = await gateway.stream({**ASKED, "messages": [{"role": "user", "content": "Another."}]})
    with pytest.raises(ZeroDivisionError):
        _ = [chunk async for chunk in stream]
    await stream.aclose()
    gateway.serving.shadow = shadow
    assert in_flight(gateway) == 0
    for entry in entries(gateway):
        assert [(attempt["outcome"], attempt["input_tokens"]) for attempt in entry["attempts"]] == [
            ("ok", 20)
        ]
        assert entry["cost_usd"] > 0


@pytest.mark.parametrize("streamed", [False, True])
async def test_a_usage_of_zeros_says_nothing(
    make_gateway: MakeGateway, cloud: LoopbackCloud, streamed: bool
) -> None:
    cloud.usage = {"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0}
    gateway = make_gateway(local=False)
    if streamed:
        stream = await gateway.stream(ASKED)
        _ = [chunk async for chunk in stream]
    else:
        await gateway.complete(ASKED)
    (entry,) = entries(gateway)
    assert entry["usage_estimated"] == 1
    assert entry["input_tokens"] > 0
    assert entry["cost_usd"] > 0


# --- calls that had not begun --------------------------------------------------------------------------------------


@dataclass
class Tried(Scripted):
    """Its answers came at the second try, and the first may be billed."""

    async def complete(self, request: ChatRequest) -> Reply:
        return replace(await super().complete(request), retries=1, billed_tries=1)


Open = Callable[..., Gateway]


@pytest.fixture
def opened(make_settings: MakeSettings) -> Iterator[Open]:
    """Makes gateways of scripted models that ask the cloud early where the local answer is unsure."""
    made: list[Gateway] = []

    def make(local: Scripted, cloud: Scripted, **policy: Any) -> Gateway:
        fields = {"cascade": "always", "early_cloud": 0.9, "min_confidence": 0.5, **policy}
        own = load_preset("balanced").model_copy(update={"name": "own", **fields})
        small = default_local_model().model_copy(update={"cost": LocalCost(usd_per_cpu_second=1e-4)})
        settings = make_settings(
            policies={"own": own}, policy="own", cache={"enabled": False}, energy=EnergySettings()
        )
        settings = settings.model_copy(update={"models": (small, *settings.models[1:])})
        made.append(Gateway(settings, models={LOCAL: local, CLOUD: cloud}))
        return made[-1]

    yield make
    for gateway in made:
        asyncio.run(gateway.aclose())


async def test_an_early_call_that_had_not_begun_is_not_booked(opened: Open) -> None:
    cloud = Scripted(CLOUD)
    gateway = opened(Scripted(LOCAL, ["no"] * 8, [0.05] * 8), cloud)
    call = asyncio.create_task(gateway.complete(EASY))
    await asyncio.sleep(
        0
    )  # The local answer is turned down by now, and the early call is yet to take its first step.
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    assert cloud.requests == []
    (entry,) = entries(gateway)
    assert [(attempt["model"], attempt["outcome"]) for attempt in entry["attempts"]] == [(LOCAL, "discarded")]


async def test_a_local_call_that_had_not_begun_costs_nothing(opened: Open) -> None:
    local = Scripted(LOCAL, wait_before={-1: asyncio.Event()})
    gateway = opened(local, Scripted(CLOUD))
    call = asyncio.create_task(gateway.complete(EASY))
    await local.asked.wait()
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    (entry,) = entries(gateway)
    (attempt,) = entry["attempts"]
    assert (attempt["outcome"], attempt["estimated"]) == ("cancelled", True)
    assert (entry["input_tokens"], entry["cost_usd"], entry["energy_wh"], entry["cpu_seconds"]) == (
        0,
        0,
        0,
        0,
    )


async def test_a_local_stream_that_is_left_before_its_engine_told_anything_is_not_of_unknown_cost(
    opened: Open,
) -> None:
    gateway = opened(Scripted(LOCAL, ["yes"] * 30, [0.99] * 30), Scripted(CLOUD), early_cloud=0.0)
    async with await gateway.stream(EASY) as stream:
        await anext(aiter(stream))
    (entry,) = entries(gateway)
    assert (entry["status"], entry["route"], entry["usage_estimated"]) == ("cancelled", "local", 1)
    assert (entry["cost_usd"], entry["energy_wh"]) == (0, 0)
    assert entry["output_tokens"] > 0


# --- tries before an answer ----------------------------------------------------------------------------------------


async def test_tries_before_an_early_answer_that_came_in_vain_are_booked(opened: Open) -> None:
    last = asyncio.Event()
    words, sure = ["yes"] * 30, [0.6] * 6 + [0.999] * 24
    cloud = Tried(CLOUD, ["Paris"] * 5)
    local = Scripted(LOCAL, words, sure, wait_before={20: last})
    gateway = opened(local, cloud)
    call = asyncio.create_task(gateway.complete(EASY))
    await cloud.asked.wait()
    for _ in range(5):
        await asyncio.sleep(0)
    last.set()
    assert (await call).receipt.route == "local"
    (entry,) = entries(gateway)
    (unused,) = (attempt for attempt in entry["attempts"] if attempt["model"] == CLOUD)
    assert (unused["outcome"], unused["retries"], unused["estimated"]) == ("unused", 1, True)
    assert unused["input_tokens"] > PROMPT_TOKENS


async def test_tries_before_an_answer_that_is_turned_down_are_noted(opened: Open) -> None:
    gateway = opened(Tried(LOCAL, ["no"] * 8, [0.05] * 8), Scripted(CLOUD), early_cloud=0.0)
    await gateway.complete(EASY)
    (entry,) = entries(gateway)
    assert [(a["outcome"], a["retries"]) for a in entry["attempts"]] == [("discarded", 1), ("ok", 0)]


async def test_the_entry_of_a_stream_that_is_left_has_its_own_tokens_and_the_attempt_all(
    make_gateway: MakeGateway, cloud: LoopbackCloud
) -> None:
    cloud.enqueue(lc.events(end=False))
    gateway = make_gateway(local=False, cloud_fields=RETRYING)
    async with await gateway.stream(ASKED) as stream:
        await anext(aiter(stream))
    (entry,) = entries(gateway)
    (attempt,) = entry["attempts"]
    assert (entry["status"], attempt["retries"]) == ("cancelled", 1)
    assert attempt["input_tokens"] == 2 * entry["input_tokens"] > 0


@pytest.mark.parametrize("early", [False, True])
async def test_tries_of_a_call_that_is_left_are_booked(
    make_settings: MakeSettings, cloud: LoopbackCloud, early: bool
) -> None:
    """The third try is under way: the first was refused, the second may be billed."""
    asked, end = asyncio.Event(), asyncio.Event()
    loop = asyncio.get_running_loop()

    async def silent(_: lc.Exchange) -> bool:
        loop.call_soon_threadsafe(asked.set)
        await asyncio.Event().wait()
        return False

    cloud.enqueue(lc.status(503), lc.raw(b"no JSON"), silent)
    fields = {"cascade": "always", "early_cloud": 0.9, "min_confidence": 0.5}
    own = load_preset("balanced").model_copy(update={"name": "own", **fields})
    settings = make_settings(
        cloud_fields={"retries": {"max": 2, "base_delay": 0}},
        policies={"own": own},
        policy="own",
        cache={"enabled": False},
    )
    local = Scripted(LOCAL, ["yes"] * 20, [0.6] * 6 + [0.99] * 14, wait_before={8: end} if early else {})
    async with Gateway(settings, models={LOCAL: local}) as gateway:
        limits = {"max_tokens": 10, "model": "auto" if early else CLOUD}
        call = asyncio.create_task(gateway.complete(EASY, **limits))
        await asked.wait()
        if early:
            end.set()
            await call
        else:
            call.cancel()
            with pytest.raises(asyncio.CancelledError):
                await call
        (entry,) = entries(gateway)
    (attempt,) = (attempt for attempt in entry["attempts"] if attempt["model"] == CLOUD)
    assert (attempt["outcome"], attempt["retries"]) == ("unused" if early else "cancelled", 2)
    assert attempt["output_tokens"] == 2 * 10


async def test_a_try_is_billed_by_the_tier_of_the_answer(
    make_gateway: MakeGateway, cloud: LoopbackCloud
) -> None:
    """The reply tells no tier, so that none was served; the price of this one is not known."""
    cloud.enqueue(lc.raw(b"no JSON"))
    gateway = make_gateway(local=False, cloud_fields=RETRYING)
    await gateway.complete({**ASKED, "service_tier": "scale"})
    (entry,) = entries(gateway)
    (attempt,) = entry["attempts"]
    assert (attempt["retries"], attempt["service_tier"]) == (1, None)
    assert entry["cost_usd"] > 0


async def test_a_comparison_is_booked_to_the_key_and_the_trace_with_its_retries(
    make_settings: MakeSettings, cloud: LoopbackCloud
) -> None:
    cloud.enqueue(lc.status(503))
    settings = make_settings(cloud_fields=RETRYING, drift={"shadow": 1.0}, policy="thrifty")
    trace = "4bf92f3577b34da6a3ce929d0e0e4736"
    body = {"model": "auto", "messages": [{"role": "user", "content": EASY}]}
    request = ChatRequest.parse(body, headers={"traceparent": f"00-{trace}-00f067aa0ba902b7-01"})
    async with Gateway(settings, models={LOCAL: Scripted(LOCAL, ["Paris"])}) as gateway:
        await gateway.complete(replace(request, grant=Grant("key_1")))
        await gateway.shadow.settled()
        (shadow,) = (entry for entry in entries(gateway) if entry["kind"] == "shadow")
    assert (shadow["key_id"], shadow["trace_id"], shadow["attempts"][0]["retries"]) == ("key_1", trace, 1)
