"""What a policy makes of personal data, from the caller to the cloud and back: real HTTP, the real local model."""

import json
import re
import sqlite3
from collections.abc import Callable
from typing import Any

import httpx
import pytest
from fixtures.door import OpenDoor, new_key
from fixtures.loopback_cloud import Behaviour, Exchange, LoopbackCloud
from fixtures.serving import CLOUD, EASY, HARD, LOCAL, MakeGateway, Served
from fixtures.wired import answering

from smallfirst.policies import Policy
from smallfirst.router.answer import AnswerStream
from smallfirst.router.errors import CannotServe, InvalidRequest, RequestError
from smallfirst.router.gateway import Gateway
from smallfirst.router.models.base import Model
from smallfirst.router.privacy.door import Door
from smallfirst.router.settings import CacheSettings, DriftSettings
from smallfirst.router.wire import ChatRequest

JANE, CARD = "jane.doe@example.com", "4111 1111 1111 1111"
ABOUT_JANE = f"{HARD} Send it to {JANE} and charge {CARD}."
POLICIES = {
    "redacting": Policy(pii="redact-and-restore"),
    "keeping": Policy(pii="local-only"),
    "blocking": Policy(pii="block"),
    "phones": Policy(pii="block", pii_types=("phone",)),
}


def echo() -> Behaviour:
    """Say again what the last message says."""

    async def behave(exchange: Exchange) -> bool:
        return await answering({"content": exchange.request.body["messages"][-1]["content"]})(exchange)

    return behave


@pytest.fixture
def gateway(make_gateway: MakeGateway) -> Gateway:
    return make_gateway(policies=POLICIES, policy="redacting")


def entries(gateway: Gateway) -> list[dict[str, Any]]:
    gateway.ledger.flush()
    with sqlite3.connect(gateway.ledger.path) as connection:
        connection.row_factory = sqlite3.Row
        found = [dict(row) for row in connection.execute("SELECT * FROM entries ORDER BY started_at")]
    connection.close()
    return found


async def text_of(stream: AnswerStream) -> str:
    chunks = [json.loads(chunk) async for chunk in stream]
    return "".join(choice["delta"].get("content") or "" for chunk in chunks for choice in chunk["choices"])


def sent(cloud: LoopbackCloud) -> str:
    """Everything that any cloud was sent, as one text."""
    return "\n".join(received.raw.decode() for received in cloud.requests)


# --- redact and restore ---------------------------------------------------------------------------------------------


async def test_the_cloud_gets_placeholders_and_the_caller_the_originals(
    gateway: Gateway, cloud: LoopbackCloud
) -> None:
    cloud.enqueue(echo())
    answer = await gateway.complete(ABOUT_JANE)
    assert answer.text == ABOUT_JANE
    [received] = cloud.requests
    assert received.body["messages"][0]["content"] == f"{HARD} Send it to <EMAIL_1> and charge <CARD_1>."
    assert answer.receipt.route == "cloud"
    assert answer.receipt.reason.endswith("; the cloud gets placeholders for email and card")


async def test_a_stream_has_the_originals(gateway: Gateway, cloud: LoopbackCloud) -> None:
    cloud.enqueue(echo())
    assert await text_of(await gateway.stream(ABOUT_JANE)) == ABOUT_JANE
    assert JANE not in sent(cloud)


async def test_a_tool_loop_goes_on_with_the_same_placeholders(gateway: Gateway, cloud: LoopbackCloud) -> None:
    tools = [{"type": "function", "function": {"name": "mail", "parameters": {"type": "object"}}}]
    call = {"id": "c1", "type": "function", "function": {"name": "mail", "arguments": '{"to":"<EMAIL_1>"}'}}
    cloud.enqueue(answering({"content": None, "tool_calls": [call]}, "tool_calls"), echo())
    user = {"role": "user", "content": f"Mail {JANE}."}
    first = await gateway.complete({"messages": [user], "tools": tools, "model": CLOUD})
    [made] = first.message["tool_calls"]
    assert json.loads(made["function"]["arguments"]) == {"to": JANE}
    result = {"role": "tool", "tool_call_id": "c1", "content": json.dumps({"sent": JANE, "cc": "bob@x.org"})}
    messages = [user, first.message, result]
    await gateway.complete({"messages": messages, "tools": tools, "model": CLOUD})
    said = cloud.requests[1].body["messages"]
    assert json.loads(said[1]["tool_calls"][0]["function"]["arguments"]) == {"to": "<EMAIL_1>"}
    assert json.loads(said[2]["content"]) == {"sent": "<EMAIL_1>", "cc": "<EMAIL_2>"}


async def test_structured_answers_stay_valid(gateway: Gateway, cloud: LoopbackCloud) -> None:
    schema = {"type": "object", "properties": {"path": {"type": "string"}}, "required": ["path"]}
    form = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
    cloud.enqueue(answering({"content": '{"path": "<SECRET_1>"}'}))
    answer = await gateway.complete("The password: a\\x9b4", model=CLOUD, response_format=form)
    assert json.loads(answer.text) == {"path": "a\\x9b4"}


async def test_a_local_model_reads_the_original(gateway: Gateway, cloud: LoopbackCloud) -> None:
    answer = await gateway.complete(f"{EASY} I am {JANE}.", model=LOCAL, max_tokens=5)
    assert answer.receipt.route == "local"
    assert "placeholders" not in answer.receipt.reason
    assert cloud.requests == []
    assert entries(gateway)[0]["reason_code"] == "pinned"


async def test_the_ledger_says_that_and_what_kind_and_no_value(
    gateway: Gateway, cloud: LoopbackCloud
) -> None:
    await gateway.complete(ABOUT_JANE)
    [entry] = entries(gateway)
    assert re.fullmatch(r"\w+\+pii_redacted", entry["reason_code"])
    assert "placeholders for email and card" in entry["reason"]
    assert JANE not in str(entry)
    assert CARD not in str(entry)


async def test_texts_are_kept_without_what_was_found(make_gateway: MakeGateway, make_settings: Any) -> None:
    settings = make_settings(policies=POLICIES, policy="redacting")
    ledger = settings.ledger.model_copy(update={"texts": "full"})
    gateway = make_gateway(settings.model_copy(update={"ledger": ledger}))
    await gateway.complete(ABOUT_JANE)
    gateway.ledger.flush()
    with sqlite3.connect(gateway.ledger.path) as connection:
        rows = str(connection.execute("SELECT * FROM texts").fetchall())
    connection.close()
    assert "[email]" in rows
    assert JANE not in rows


async def test_answers_about_somebody_are_kept_for_nobody(gateway: Gateway, cloud: LoopbackCloud) -> None:
    first = await gateway.complete(ABOUT_JANE, temperature=0)
    second = await gateway.complete(ABOUT_JANE, temperature=0, cache={"ttl": 60})
    assert (first.receipt.cache, second.receipt.cache) == ("bypass", "bypass")
    assert len(cloud.requests) == 2
    other = await gateway.complete(ABOUT_JANE.replace("jane", "john"), temperature=0)
    assert other.receipt.cache == "bypass"


async def test_what_holds_nothing_is_cached_as_ever(gateway: Gateway, cloud: LoopbackCloud) -> None:
    await gateway.complete(HARD, temperature=0)
    assert gateway.reuse is not None
    await gateway.reuse.settled()
    assert (await gateway.complete(HARD, temperature=0)).receipt.cache == "exact"


async def test_a_comparison_with_the_baseline_goes_through_the_same_door(
    make_gateway: MakeGateway, cloud: LoopbackCloud
) -> None:
    gateway = make_gateway(
        policies={
            "cheap": Policy(pii="redact-and-restore", min_local_success=0, max_gap=1, uncertain="local")
        },
        policy="cheap",
        drift=DriftSettings(shadow=1.0),
    )
    answer = await gateway.complete(f"What is {JANE}? Answer with one word.", max_tokens=5)
    assert answer.receipt.route == "local"
    await gateway.shadow.settled()
    assert "<EMAIL_1>" in sent(cloud)
    assert JANE not in sent(cloud)


async def test_what_nobody_screened_does_not_pass(cloud: LoopbackCloud, gateway: Gateway) -> None:
    door = gateway.serving.runner.models[CLOUD]
    assert isinstance(door, Door)
    with pytest.raises(RequestError, match="not screened"):
        await door.complete(ChatRequest.parse({"messages": [{"role": "user", "content": JANE}]}))
    assert cloud.requests == []


async def test_without_a_policy_that_asks_nobody_looks(
    make_gateway: MakeGateway, cloud: LoopbackCloud
) -> None:
    gateway = make_gateway()
    models: dict[str, Model] = dict(gateway.serving.runner.models)
    assert models == gateway.models
    await gateway.complete(ABOUT_JANE)
    assert JANE in sent(cloud)


# --- local only -----------------------------------------------------------------------------------------------------


async def test_what_is_found_keeps_a_request_in_the_house(gateway: Gateway, cloud: LoopbackCloud) -> None:
    answer = await gateway.complete(ABOUT_JANE, model="auto/keeping", max_tokens=5)
    assert answer.receipt.route == "local"
    assert answer.receipt.reason == "'keeping' keeps email and card in the house and asks for a local model"
    assert entries(gateway)[0]["reason_code"] == "pii_local_only"
    assert cloud.requests == []


async def test_a_request_without_finds_may_leave(gateway: Gateway, cloud: LoopbackCloud) -> None:
    assert (await gateway.complete(HARD, model="auto/keeping")).receipt.route == "cloud"


async def test_where_no_local_model_can_it_is_refused(
    make_gateway: MakeGateway, cloud: LoopbackCloud
) -> None:
    gateway = make_gateway(policies=POLICIES, policy="keeping")
    with pytest.raises(CannotServe, match="keeps email and card in the house") as refused:
        await gateway.complete(ABOUT_JANE, model=CLOUD)
    assert (refused.value.code, refused.value.param) == ("privacy_local_only", "messages")
    assert cloud.requests == []


async def test_an_early_call_is_none(make_gateway: MakeGateway, cloud: LoopbackCloud) -> None:
    strict = Policy(pii="local-only", cascade="always", min_confidence=1.0, early_cloud=1.0)
    gateway = make_gateway(policies={"strict": strict}, policy="strict", drift=DriftSettings(shadow=1.0))
    answer = await gateway.complete(ABOUT_JANE, max_tokens=8)
    await gateway.shadow.settled()
    assert answer.receipt.route == "local"
    assert cloud.requests == []


async def test_a_cascade_redacts_what_is_turned_down_locally(
    make_gateway: MakeGateway, cloud: LoopbackCloud
) -> None:
    strict = Policy(pii="redact-and-restore", cascade="always", min_confidence=1.0, early_cloud=1.0)
    cloud.default = echo()
    answer = await make_gateway(policies={"strict": strict}, policy="strict").complete(
        ABOUT_JANE, max_tokens=8
    )
    assert (answer.receipt.route, answer.text) == ("cloud", ABOUT_JANE)
    assert JANE not in sent(cloud)


# --- block ----------------------------------------------------------------------------------------------------------


async def test_a_block_names_the_field_and_the_kind_and_no_value(
    gateway: Gateway, cloud: LoopbackCloud
) -> None:
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": ABOUT_JANE}]
    with pytest.raises(InvalidRequest) as refused:
        await gateway.complete({"messages": messages, "model": "auto/blocking"})
    error = refused.value
    assert (error.status, error.code, error.param) == (400, "pii_blocked", "messages[1].content")
    assert error.message == (
        "'messages[1].content' holds an e-mail address (email), and the policy 'blocking' lets none through."
    )
    [entry] = entries(gateway)
    assert (entry["reason_code"], entry["route"], entry["status"]) == ("pii_blocked", "none", "error")
    assert cloud.requests == []


async def test_only_the_kinds_that_count_are_looked_for(gateway: Gateway, cloud: LoopbackCloud) -> None:
    assert (await gateway.complete(ABOUT_JANE, model="auto/phones")).receipt.route == "cloud"
    with pytest.raises(InvalidRequest, match="phone"):
        await gateway.complete("Call +49 30 1234567.", model="auto/phones")


# --- the decision alone ---------------------------------------------------------------------------------------------


def test_the_decision_says_what_would_happen(gateway: Gateway) -> None:
    assert gateway.route(ABOUT_JANE).reason.endswith("the cloud gets placeholders for email and card")
    kept = gateway.route(ABOUT_JANE, model="auto/keeping")
    assert (kept.code, [attempt.tier for attempt in kept.attempts]) == ("pii_local_only", ["local"])
    with pytest.raises(InvalidRequest, match="lets none through"):
        gateway.route(ABOUT_JANE, model="auto/blocking")


# --- every wire -----------------------------------------------------------------------------------------------------


@pytest.fixture
def wired(serve: Callable[[Gateway], Served], make_settings: Any, cloud: LoopbackCloud) -> Served:
    settings = make_settings(
        local=False, policies=POLICIES, policy="redacting", cache=CacheSettings(enabled=False)
    )
    return serve(Gateway(settings))


WIRES: dict[str, dict[str, Any]] = {
    "chat/completions": {"messages": [{"role": "user", "content": ABOUT_JANE}]},
    "completions": {"prompt": ABOUT_JANE},
    "responses": {"input": ABOUT_JANE},
    "messages": {"messages": [{"role": "user", "content": ABOUT_JANE}], "max_tokens": 100},
}


@pytest.mark.parametrize("path", WIRES)
@pytest.mark.parametrize("stream", [False, True])
def test_every_wire_redacts_and_restores(
    wired: Served, cloud: LoopbackCloud, path: str, stream: bool
) -> None:
    cloud.default = echo()
    body = {"model": "auto", "stream": stream, **WIRES[path]}
    reply = httpx.post(f"{wired.base_url}/{path}", json=body, timeout=30)
    assert reply.status_code == 200
    assert JANE not in sent(cloud)
    assert "<EMAIL_1>" in sent(cloud)
    said = reply.text
    if stream:
        events = [json.loads(line[5:]) for line in said.splitlines() if line.startswith("data: {")]
        said = "".join(_deltas(events))
    assert JANE in said
    assert "EMAIL_1" not in reply.text


def _deltas(events: list[dict[str, Any]]) -> list[str]:
    found = []
    for event in events:
        for choice in event.get("choices") or ():
            found.append((choice.get("delta") or choice).get("content") or choice.get("text") or "")
        delta = event.get("delta")
        if isinstance(delta, str) or (isinstance(delta, dict) and "text" in delta):
            found.append(delta if isinstance(delta, str) else delta["text"])
    return found


@pytest.mark.parametrize("path", WIRES)
def test_every_wire_blocks_in_its_own_form(wired: Served, cloud: LoopbackCloud, path: str) -> None:
    reply = httpx.post(f"{wired.base_url}/{path}", json={"model": "auto/blocking", **WIRES[path]}, timeout=30)
    error = reply.json()["error"]
    assert (reply.status_code, error["type"]) == (400, "invalid_request_error")
    assert "e-mail address (email)" in error["message"]
    assert JANE not in reply.text
    assert cloud.requests == []


def test_thrift_does_not_look_away(open_door: OpenDoor, cloud: LoopbackCloud) -> None:
    made = new_key(usd_per_day=10.0, thrifty_at=0.001)
    door = open_door(made, policies=POLICIES, policy="redacting")
    door.post(made.secret)
    later = door.post(made.secret, model="auto", messages=[{"role": "user", "content": ABOUT_JANE}])
    assert "x-smallfirst-budget-policy" not in later.headers
    assert JANE not in sent(cloud)


def test_moderation_goes_by_the_same_policy(
    serve: Callable[[Gateway], Served], make_settings: Any, cloud: LoopbackCloud
) -> None:
    async def ruled(exchange: Exchange) -> bool:
        return await exchange.whole(200, b'{"results": []}')

    cloud.default = ruled
    codes = []
    for policy in ("redacting", "keeping", "blocking"):
        served = serve(Gateway(make_settings(local=False, policies=POLICIES, policy=policy)))
        reply = httpx.post(f"{served.base_url}/moderations", json={"input": f"I am {JANE}"}, timeout=30)
        codes.append(reply.json().get("error", {}).get("code"))
    assert codes == [None, "privacy_local_only", "pii_blocked"]
    assert [received.body["input"] for received in cloud.requests] == ["I am <EMAIL_1>"]
