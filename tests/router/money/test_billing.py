"""What an attempt is booked with, whichever way it ends: against a loopback cloud and the real local model."""

import asyncio
import json
import math
import sqlite3
from decimal import Decimal
from typing import Any

import pytest
from fixtures import loopback_cloud as lc
from fixtures.local_model import cpu_seconds_of
from fixtures.loopback_cloud import Behaviour, Exchange, LoopbackCloud
from fixtures.serving import CLOUD, HARD, LOCAL, MakeGateway

from smallfirst.policies import load_preset
from smallfirst.router.errors import RequestError
from smallfirst.router.gateway import Gateway
from smallfirst.router.models.local.model import LocalModel
from smallfirst.router.settings import EnergySettings, LocalCost, Settings, default_local_model

ASKED = {"model": CLOUD, "messages": [{"role": "user", "content": HARD}], "cache": {"no-cache": True}}
FAST = {"timeouts": {"first_byte": 0.3, "between_bytes": 0.3}}
RETRYING = {"retries": {"max": 1, "base_delay": 0}}
# US dollars a million tokens, by kind.
PRICE: dict[str, Any] = {
    "input": 2.0, "output": 8.0, "cached_input": 0.5, "cache_write": 2.5, "reasoning": 6.0,
    "tiers": {"flex": {"input": 1.0, "output": 4.0, "cached_input": 0.25}},
}  # fmt: skip
STREAM = {"stream_options": {"include_usage": True}}


@pytest.fixture
def opened(make_gateway: MakeGateway) -> MakeGateway:
    """Makes gateways whose cloud has prices that no list changes."""

    def make(settings: Settings | None = None, **cloud_fields: Any) -> Gateway:
        return make_gateway(cloud_fields={"price": PRICE, **cloud_fields}, energy=EnergySettings())

    return make


def booked(gateway: Gateway) -> dict[str, Any]:
    gateway.ledger.flush()
    with sqlite3.connect(gateway.ledger.path) as connection:
        connection.row_factory = sqlite3.Row
        (row,) = connection.execute("SELECT * FROM entries").fetchall()
    connection.close()
    entry = {**dict(row), "attempts": json.loads(row["attempts"])}
    _check_sums(entry)
    return entry


def _check_sums(entry: dict[str, Any]) -> None:
    """Every total of an entry is the sum of its attempts', and each attempt's cost that of its tokens."""
    for attempt in entry["attempts"]:
        if attempt["tier"] == "cloud":
            assert attempt["cost_usd"] == float(exact_usd(attempt))
    for name in ("cost_usd", "energy_wh", "gco2e", "cpu_seconds"):
        parts = [attempt[name] for attempt in entry["attempts"]]
        if name == "cpu_seconds":
            parts = [part for part in parts if part is not None] or [None]
        assert entry[name] == (None if None in parts else math.fsum(parts))


def exact_usd(attempt: dict[str, Any]) -> Decimal:
    """The cost by `PRICE`, worked out anew."""
    rates: dict[str, Any] = (
        PRICE if attempt["service_tier"] is None else PRICE["tiers"][attempt["service_tier"]]
    )

    def rate(name: str, otherwise: str) -> Decimal:
        return Decimal(str(rates.get(name, rates[otherwise])))

    cached, written, thought = (
        attempt[k] for k in ("cached_tokens", "cache_write_tokens", "reasoning_tokens")
    )
    millionths: Decimal = (
        (attempt["input_tokens"] - cached - written) * rate("input", "input")
        + cached * rate("cached_input", "input")
        + written * rate("cache_write", "input")
        + (attempt["output_tokens"] - thought) * rate("output", "output")
        + thought * rate("reasoning", "output")
    )
    return millionths / 1_000_000


async def read(gateway: Gateway, **fields: Any) -> None:
    stream = await gateway.stream({**ASKED, **STREAM, **fields})
    async for _ in stream:
        pass


def streaming(*chunks: dict[str, Any], end: bool = True) -> Behaviour:
    """Stream these choices or usages, and break off without `end`."""

    async def behave(exchange: Exchange) -> bool:
        base = lc.completion(exchange) | {"object": "chat.completion.chunk", "choices": []}
        base.pop("usage", None)
        await exchange.start_stream()
        for chunk in chunks:
            await exchange.piece(b"data: " + json.dumps(base | chunk).encode() + b"\n\n")
        if not end:
            return False
        await exchange.piece(lc.DONE)
        return await exchange.end_stream()

    return behave


def saying(text: str, **more: Any) -> dict[str, Any]:
    return {"choices": [{"index": 0, "delta": {"content": text}, "finish_reason": None}], **more}


# --- answers ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("streamed", [False, True])
async def test_an_answer_is_booked_by_each_kind_of_token_and_its_tier(
    opened: MakeGateway, cloud: LoopbackCloud, streamed: bool
) -> None:
    cloud.extra = {"service_tier": "flex"}
    cloud.usage = {
        "prompt_tokens": 1000,
        "completion_tokens": 200,
        "prompt_tokens_details": {"cached_tokens": 600, "cache_write_tokens": 300},
        "completion_tokens_details": {"reasoning_tokens": 150},
    }
    gateway = opened()
    await (read(gateway) if streamed else gateway.complete(ASKED))
    entry = booked(gateway)
    assert entry["cost_usd"] == (400 * 1 + 600 * 0.25 + 200 * 4) / 1e6
    for told in (entry, entry["attempts"][0]):
        assert (told["cached_tokens"], told["cache_write_tokens"], told["reasoning_tokens"]) == (
            600,
            300,
            150,
        )
        assert told["service_tier"] == "flex"
    assert (entry["usage_estimated"], entry["attempts"][0]["estimated"]) == (0, False)
    # On the same tokens and tier, the baseline, which it is itself, costs the same.
    assert entry["baseline_cost_usd"] == entry["cost_usd"]


@pytest.mark.parametrize("streamed", [False, True])
async def test_an_answer_without_usage_is_estimated_and_says_so(
    opened: MakeGateway, cloud: LoopbackCloud, streamed: bool
) -> None:
    cloud.usage, cloud.extra = None, {"service_tier": "flex"}
    gateway = opened()
    await (read(gateway) if streamed else gateway.complete(ASKED))
    entry = booked(gateway)
    (attempt,) = entry["attempts"]
    assert (entry["usage_estimated"], attempt["estimated"], attempt["service_tier"]) == (1, True, "flex")
    assert attempt["input_tokens"] > 50
    assert attempt["output_tokens"] > 2


# --- streams that end midway --------------------------------------------------------------------------------------


async def test_a_stream_that_the_caller_leaves_is_booked_with_what_was_seen(
    opened: MakeGateway, cloud: LoopbackCloud
) -> None:
    cloud.enqueue(lc.hang(after=4))
    gateway = opened()
    async with await gateway.stream({**ASKED, **STREAM}) as stream:
        for _ in range(4):
            await anext(aiter(stream))
    entry = booked(gateway)
    (attempt,) = entry["attempts"]
    assert (entry["status"], attempt["outcome"], attempt["estimated"]) == ("cancelled", "cancelled", True)
    assert attempt["input_tokens"] > 50
    assert 1 <= attempt["output_tokens"] <= 6


async def test_a_stream_that_the_caller_leaves_after_its_usage_came_is_booked_by_that(
    opened: MakeGateway, cloud: LoopbackCloud
) -> None:
    usage = {"prompt_tokens": 70, "completion_tokens": 7}
    cloud.enqueue(streaming(saying("Paris"), {"usage": usage}, end=False))
    gateway = opened()
    async with await gateway.stream({**ASKED, **STREAM}) as stream:
        for _ in range(2):
            await anext(aiter(stream))
    (attempt,) = booked(gateway)["attempts"]
    assert (attempt["input_tokens"], attempt["output_tokens"], attempt["estimated"]) == (70, 7, False)


async def test_of_a_broken_stream_that_counted_on_the_way_what_came_later_is_estimated(
    opened: MakeGateway, cloud: LoopbackCloud
) -> None:
    usage = {"prompt_tokens": 70, "completion_tokens": 1}
    text = "and then a good many words more than the one that was counted"
    cloud.enqueue(streaming(saying("Paris", usage=usage), saying(text), end=False))
    gateway = opened()
    with pytest.raises(RequestError):
        await read(gateway)
    (attempt,) = booked(gateway)["attempts"]
    assert (attempt["outcome"], attempt["input_tokens"], attempt["estimated"]) == ("broken", 70, True)
    assert attempt["output_tokens"] > 8


# --- failures -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("behaviour", "outcome"),
    [
        (lc.status(500), "error"),
        (lc.status(429), "error"),
        (lc.status(400), "error"),
        (lc.hang_up(), "error"),
    ],
)
async def test_an_error_that_a_cloud_answers_with_costs_nothing(
    opened: MakeGateway, cloud: LoopbackCloud, behaviour: Behaviour, outcome: str
) -> None:
    cloud.enqueue(behaviour)
    gateway = opened()
    with pytest.raises(RequestError):
        await gateway.complete(ASKED)
    entry = booked(gateway)
    (attempt,) = entry["attempts"]
    assert (attempt["outcome"], attempt["input_tokens"], entry["cost_usd"]) == (outcome, 0, 0.0)


@pytest.mark.parametrize("streamed", [False, True])
async def test_a_timeout_is_booked_with_the_prompt_and_an_answer_in_one_piece_with_what_it_may_have(
    opened: MakeGateway, cloud: LoopbackCloud, streamed: bool
) -> None:
    cloud.enqueue(lc.hang())
    gateway = opened(**FAST)
    with pytest.raises(RequestError):
        await (read(gateway) if streamed else gateway.complete(ASKED))
    (attempt,) = booked(gateway)["attempts"]
    assert (attempt["outcome"], attempt["estimated"]) == ("timeout", True)
    assert attempt["input_tokens"] > 50
    assert (attempt["output_tokens"] > 0) is not streamed


async def test_no_connection_costs_nothing(opened: MakeGateway) -> None:
    gateway = opened(base_url="http://127.0.0.1:9/v1")
    with pytest.raises(RequestError):
        await gateway.complete(ASKED)
    assert booked(gateway)["cost_usd"] == 0.0


@pytest.mark.parametrize("limit", [None, 7])
async def test_a_caller_who_leaves_pays_for_the_answer_in_one_piece_that_is_still_made(
    opened: MakeGateway, cloud: LoopbackCloud, limit: int | None
) -> None:
    cloud.enqueue(lc.hang())
    gateway = opened()
    call = asyncio.create_task(gateway.complete({**ASKED, "max_tokens": limit, "service_tier": "flex"}))
    while not cloud.requests:
        await asyncio.sleep(0.01)
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    (attempt,) = booked(gateway)["attempts"]
    assert (attempt["outcome"], attempt["estimated"]) == ("cancelled", True)
    assert attempt["output_tokens"] == 7 if limit else attempt["output_tokens"] > 7
    assert attempt["service_tier"] == "flex"


# --- retries ------------------------------------------------------------------------------------------------------


async def test_a_try_that_was_refused_is_not_billed(opened: MakeGateway, cloud: LoopbackCloud) -> None:
    cloud.enqueue(lc.status(503))
    gateway = opened(**RETRYING)
    await gateway.complete(ASKED)
    (attempt,) = booked(gateway)["attempts"]
    assert (attempt["retries"], attempt["input_tokens"], attempt["estimated"]) == (1, 20, False)


@pytest.mark.parametrize("streamed", [False, True])
async def test_a_try_that_was_accepted_and_broke_off_may_be_billed(
    opened: MakeGateway, cloud: LoopbackCloud, streamed: bool
) -> None:
    cloud.enqueue(lc.events(end=False) if streamed else lc.raw(b"no JSON"))
    gateway = opened(**RETRYING)
    await (read(gateway) if streamed else gateway.complete(ASKED))
    entry = booked(gateway)
    (attempt,) = entry["attempts"]
    assert (attempt["retries"], attempt["estimated"]) == (1, True)
    assert attempt["input_tokens"] > 20 + 50
    # The answer itself was counted: it is what the baseline is held against.
    assert (entry["input_tokens"], entry["output_tokens"]) == (20, 5)


async def test_retries_of_a_call_that_fails_are_noted_and_each_that_may_be_billed_is(
    opened: MakeGateway, cloud: LoopbackCloud
) -> None:
    cloud.enqueue(lc.raw(b"no JSON"), lc.raw(b"no JSON"))
    gateway = opened(**RETRYING)
    with pytest.raises(RequestError):
        await gateway.complete({**ASKED, "max_tokens": 10})
    (attempt,) = booked(gateway)["attempts"]
    assert (attempt["outcome"], attempt["retries"], attempt["output_tokens"]) == ("error", 1, 20)


# --- this machine -------------------------------------------------------------------------------------------------

RATE = 1e-4


def on_this_machine(**policy: Any) -> dict[str, Any]:
    local = default_local_model().model_copy(update={"cost": LocalCost(usd_per_cpu_second=RATE)})
    own = load_preset("balanced").model_copy(update={"name": "own", "cascade": "always", **policy})
    energy = EnergySettings(watts_per_core=10, pue=1.5, grid_gco2e_per_kwh=400)
    return {"local_fields": local, "policies": {"own": own}, "policy": "own", "energy": energy}


@pytest.fixture
def housed(make_gateway: MakeGateway, make_settings: Any) -> MakeGateway:
    """Makes gateways whose machine has a price."""

    def make(settings: Settings | None = None, **policy: Any) -> Gateway:
        fields = on_this_machine(**policy)
        local = fields.pop("local_fields")
        made: Settings = make_settings(cloud_fields={"price": PRICE}, **fields)
        return make_gateway(made.model_copy(update={"models": (local, *made.models[1:])}))

    return make


def check_machine(attempt: dict[str, Any]) -> None:
    seconds = attempt["cpu_seconds"]
    assert seconds > 0
    assert attempt["cost_usd"] == pytest.approx(seconds * RATE, rel=1e-12)
    assert attempt["energy_wh"] == pytest.approx(seconds * 10 * 1.5 / 3600, rel=1e-12)
    assert attempt["gco2e"] == pytest.approx(attempt["energy_wh"] * 0.4, rel=1e-12)


@pytest.mark.parametrize("streamed", [False, True])
async def test_a_local_answer_costs_its_seconds_of_the_machine(housed: MakeGateway, streamed: bool) -> None:
    gateway = housed(cascade="off")
    fields = {"model": LOCAL, "max_tokens": 12}
    await (read(gateway, **fields) if streamed else gateway.complete({**ASKED, **fields}))
    entry = booked(gateway)
    (attempt,) = entry["attempts"]
    assert attempt["outcome"] == "ok"
    check_machine(attempt)


@pytest.mark.parametrize("streamed", [False, True])
async def test_a_discarded_local_answer_costs_what_it_took_and_the_clouds_energy_is_unknown(
    housed: MakeGateway, streamed: bool
) -> None:
    gateway = housed(min_confidence=0.999)
    fields = {"model": "auto", "max_tokens": 12}
    await (read(gateway, **fields) if streamed else gateway.complete({**ASKED, **fields}))
    entry = booked(gateway)
    discarded, answered = entry["attempts"]
    assert (discarded["outcome"], answered["outcome"]) == ("discarded", "ok")
    check_machine(discarded)
    assert (answered["cpu_seconds"], answered["energy_wh"], entry["energy_wh"]) == (None, None, None)
    assert entry["cost_usd"] == pytest.approx(discarded["cost_usd"] + (12 * 2 + 8 * 0.5 + 5 * 8) / 1e6)


@pytest.mark.parametrize("streamed", [False, True])
async def test_a_local_answer_that_the_caller_leaves_costs_what_it_took_until_then(
    housed: MakeGateway, local_model: LocalModel, streamed: bool
) -> None:
    gateway = housed(cascade="off")
    asked = {**ASKED, "model": LOCAL, "max_tokens": 1000}
    if streamed:
        async with await gateway.stream(asked) as stream:
            for _ in range(10):
                await anext(aiter(stream))
    else:
        used = cpu_seconds_of(local_model.pid)
        call = asyncio.create_task(gateway.complete(asked))
        while cpu_seconds_of(local_model.pid) < used + 1.0:
            await asyncio.sleep(0.02)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
    (attempt,) = booked(gateway)["attempts"]
    assert (attempt["outcome"], attempt["estimated"]) == ("cancelled", True)
    assert 0 < attempt["output_tokens"] < 1000
    check_machine(attempt)
