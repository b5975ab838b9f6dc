"""What `/v1/responses` keeps: in this process, and in Redis for several gateways."""

from collections.abc import AsyncIterator, Callable
from typing import Any

import httpx
import openai
import pytest
from fixtures.loopback_cloud import LoopbackCloud
from fixtures.redis_server import RedisServer
from fixtures.serving import EASY, MakeSettings, Served
from fixtures.wired import TOOL_CALL, choice
from pydantic import SecretStr

from smallfirst.router.answer import Answer, Receipt
from smallfirst.router.errors import ResponseNotFound, ResponsesUnavailable
from smallfirst.router.gateway import Gateway
from smallfirst.router.hints import read_hints
from smallfirst.router.settings import CacheSettings, Key, ServerSettings
from smallfirst.router.wire import Usage
from smallfirst.router.wires.response_redis import RedisResponses
from smallfirst.router.wires.response_store import MemoryResponses, ResponseStore, Stored
from smallfirst.router.wires.responses import ResponsesCall, parse

SMALL = Stored({}, [], "s")


def stored(size: int) -> Stored:
    return Stored({"text": "x" * size}, [], "s")


@pytest.fixture(params=["memory", "redis"])
async def store(request: pytest.FixtureRequest) -> AsyncIterator[ResponseStore]:
    """Either store; of the room of 100 kB a response may take 10."""
    made: ResponseStore
    if request.param == "memory":
        made = MemoryResponses(100_000, 60)
    else:
        server: RedisServer = request.getfixturevalue("redis_server")
        made = RedisResponses(server.url, 100_000, 60)
    yield made
    await made.aclose()


async def call_of(store: ResponseStore, /, *, tenant: str = "a", **fields: Any) -> ResponsesCall:
    return await parse({"input": "Hi", **fields}, headers={}, tenant_of=lambda _: tenant, store=store)


async def answered(call: ResponsesCall, text: str, name: str = "req_1") -> dict[str, Any]:
    """The response with this text, which is kept under this name."""
    receipt = Receipt(name, "cloud", "big", "", None, "miss", None, None, 0.0, 1)
    answer = Answer({"choices": [choice({"content": text})]}, receipt, Usage())
    response = call.reply(answer)
    await call.settle(answer, response)
    return response


async def test_a_response_goes_on_where_the_last_one_ended(store: ResponseStore) -> None:
    first = await call_of(store, instructions="Be short.", input="One", metadata={"session": "s1"})
    response = await answered(first, "1")
    second = await call_of(store, input="Two", previous_response_id=response["id"])
    assert second.request.body["messages"] == [
        {"role": "user", "content": "One"},
        {"role": "assistant", "content": "1"},
        {"role": "user", "content": "Two"},
    ]
    # It is the same session, so that what sticks to a conversation goes on.
    assert read_hints(second.request).session == read_hints(first.request).session == "s1"
    named = await call_of(store, previous_response_id=response["id"], prompt_cache_key="k")
    assert read_hints(named.request).session == "k"


async def test_what_follows_on_a_private_response_is_private(store: ResponseStore) -> None:
    response = await answered(await call_of(store, metadata={"privacy": "local"}), "1")
    second = await call_of(store, previous_response_id=response["id"], metadata={"privacy": "any"})
    assert read_hints(second.request).privacy == "local"
    further = await answered(second, "2", "req_2")
    third = await call_of(store, previous_response_id=further["id"])
    assert read_hints(third.request).privacy == "local"


async def test_what_a_policy_keeps_in_the_house_stays_there_in_what_follows(store: ResponseStore) -> None:
    private = await parse(
        {"input": "Hi", "model": "auto/private"},
        headers={},
        tenant_of=lambda _: "a",
        store=store,
        is_private=lambda model: model == "auto/private",
    )
    response = await answered(private, "1")
    follows = await call_of(store, previous_response_id=response["id"])
    assert read_hints(follows.request).privacy == "local"


@pytest.mark.parametrize(("tenant", "other"), [("a", "b"), ("a:b", "a"), ("a", "a:"), ("*", "a")])
async def test_a_response_is_its_tenants_alone(store: ResponseStore, tenant: str, other: str) -> None:
    response = await answered(await call_of(store, tenant=tenant), "1")
    with pytest.raises(ResponseNotFound) as missing:
        await call_of(store, tenant=other, previous_response_id=response["id"])
    assert (missing.value.status, missing.value.param) == (404, "previous_response_id")
    with pytest.raises(ResponseNotFound):
        await store.delete(other, response["id"])
    assert (await store.get(tenant, response["id"])).body == response
    await store.delete(tenant, response["id"])
    with pytest.raises(ResponseNotFound):
        await store.get(tenant, response["id"])


async def test_a_response_may_take_a_tenth_of_the_room(store: ResponseStore) -> None:
    assert await store.put("a", "resp_0", stored(9_000))
    assert not await store.put("a", "resp_1", stored(11_000))
    with pytest.raises(ResponseNotFound):
        await store.get("a", "resp_1")


async def test_what_could_not_be_kept_says_so(store: ResponseStore) -> None:
    call = await call_of(store)
    assert (await answered(call, "1"))["store"] is True
    assert (await answered(call, "x" * 11_000, "req_2"))["store"] is False


async def test_a_response_is_not_kept_where_the_caller_says_so(store: ResponseStore) -> None:
    response = await answered(await call_of(store, store=False), "1")
    assert response["store"] is False
    with pytest.raises(ResponseNotFound):
        await store.get("a", response["id"])


async def test_a_call_without_an_id_is_kept_under_the_one_it_was_given(store: ResponseStore) -> None:
    nameless = {**TOOL_CALL, "id": ""}
    body = {"choices": [choice({"content": None, "tool_calls": [nameless]}, "tool_calls")]}
    receipt = Receipt("req_1", "cloud", "big", "", None, "miss", None, None, 0.0, 1)
    call, answer = await call_of(store), Answer(body, receipt, Usage())
    response = call.reply(answer)
    await call.settle(answer, response)
    call_id = response["output"][0]["call_id"]
    assert call_id.startswith("call_")
    kept = await store.get("a", response["id"])
    assert kept.messages[-1]["tool_calls"][0]["id"] == call_id


@pytest.mark.parametrize("response_id", ["", "x" * 5000, "a\nb", "\0"])
async def test_an_odd_id_is_just_not_found(store: ResponseStore, response_id: str) -> None:
    with pytest.raises(ResponseNotFound):
        await store.get("a", response_id)


# --- in this process ------------------------------------------------------------------------------------------------


async def test_a_response_is_kept_for_its_time() -> None:
    now = [0.0]
    store = MemoryResponses(100_000, 60, clock=lambda: now[0])
    await store.put("a", "resp_1", SMALL)
    now[0] = 59.0
    await store.get("a", "resp_1")
    now[0] = 60.0
    with pytest.raises(ResponseNotFound):
        await store.get("a", "resp_1")
    assert store.bytes == 0


async def test_the_store_never_takes_more_than_it_may() -> None:
    store = MemoryResponses(20_000, 60)
    for at in range(50):
        await store.put("a", f"resp_{at}", stored(1000))
        assert store.bytes <= 20_000
        # What is used stays.
        await store.get("a", "resp_0")
    with pytest.raises(ResponseNotFound):
        await store.get("a", "resp_1")
    await store.put("a", "huge", stored(20_000))
    assert (await store.get("a", "resp_0")).body == {"text": "x" * 1000}


async def test_a_tenant_that_keeps_much_pushes_out_its_own_responses_alone() -> None:
    store = MemoryResponses(20_000, 60)
    await store.put("b", "resp_b", stored(1000))
    for at in range(50):
        await store.put("a", f"resp_{at}", stored(1000))
    assert (await store.get("b", "resp_b")).body == {"text": "x" * 1000}
    with pytest.raises(ResponseNotFound):
        await store.get("a", "resp_0")


async def test_what_has_ended_makes_room_when_the_next_is_kept() -> None:
    now = [0.0]
    store = MemoryResponses(20_000, 60, clock=lambda: now[0])
    await store.put("a", "resp_0", SMALL)
    one = store.bytes
    now[0] = 61
    await store.put("b", "resp_1", SMALL)
    assert store.bytes == one


# --- in Redis -------------------------------------------------------------------------------------------------------


async def test_in_redis_a_response_has_the_time_that_is_left_to_it(redis_server: RedisServer) -> None:
    store = RedisResponses(redis_server.url, 100_000, 60)
    await store.put("a", "resp_1", SMALL)
    await store.aclose()
    with redis_server.client() as client:
        (key,) = list(client.scan_iter())
        assert key.startswith(b"smallfirst:responses:1:a:")
        assert 50 < client.ttl(key) <= 60


async def test_while_redis_is_silent_nothing_is_kept_and_nothing_is_said_to_be_missing(
    redis_server: RedisServer,
) -> None:
    store = RedisResponses(redis_server.url, 100_000, 60)
    assert await store.put("a", "resp_1", SMALL)
    redis_server.freeze()
    try:
        for ask in (store.get, store.delete):
            with pytest.raises(ResponsesUnavailable, match=r"Redis.*'cache\.url'") as down:
                await ask("a", "resp_1")
            assert (down.value.status, down.value.code) == (503, "responses_unavailable")
        assert not await store.put("a", "resp_2", SMALL)
    finally:
        redis_server.thaw()
        await store.aclose()


async def test_what_another_version_wrote_to_redis_is_not_found(redis_server: RedisServer) -> None:
    store = RedisResponses(redis_server.url, 100_000, 60)
    try:
        for at, value in enumerate([b"no json", b'{"body": 1}', b'"\xff"', b""]):
            await store.put("a", f"resp_{at}", SMALL)
            with redis_server.client() as client:
                client.set(f"smallfirst:responses:1:a:resp_{at}", value, keepttl=True)
            with pytest.raises(ResponseNotFound):
                await store.get("a", f"resp_{at}")
    finally:
        await store.aclose()


@pytest.fixture
def two(
    serve: Callable[[Gateway], Served], make_settings: MakeSettings, redis_server: RedisServer
) -> tuple[Served, Served]:
    """Two gateways with one Redis, and a key for each of two tenants."""
    keys = tuple(Key(key=SecretStr(f"k-{name}"), tenant=name) for name in ("one", "two"))
    settings = make_settings(
        local=False,
        cache=CacheSettings(enabled=False, url=SecretStr(redis_server.url)),
        server=ServerSettings(keys=keys),
    )
    return serve(Gateway(settings)), serve(Gateway(settings))


def client_of(served: Served, key: str = "k-one") -> openai.OpenAI:
    return openai.OpenAI(base_url=served.base_url, api_key=key, max_retries=0)


@pytest.mark.parametrize("streamed", [False, True])
def test_a_conversation_goes_on_at_another_gateway(
    two: tuple[Served, Served], cloud: LoopbackCloud, streamed: bool
) -> None:
    with client_of(two[0]) as first, client_of(two[1]) as second, client_of(two[1], "k-two") as other:
        if streamed:
            with first.responses.stream(model="auto", input=EASY) as stream:
                response: Any = stream.get_final_response()
        else:
            response = first.responses.create(model="auto", input=EASY)
        assert response.store is True
        second.responses.create(model="auto", input="And of Spain?", previous_response_id=response.id)
        assert [message["content"] for message in cloud.requests[1].body["messages"]] == [
            EASY,
            "Paris is the answer.",
            "And of Spain?",
        ]
        assert second.responses.retrieve(response.id).output_text == "Paris is the answer."
        with pytest.raises(openai.NotFoundError):
            other.responses.create(model="auto", input="And?", previous_response_id=response.id)
        second.responses.delete(response.id)
        with pytest.raises(openai.NotFoundError):
            first.responses.retrieve(response.id)


def test_without_redis_answers_come_and_no_conversation_goes_on(
    two: tuple[Served, Served], cloud: LoopbackCloud, redis_server: RedisServer
) -> None:
    with client_of(two[0]) as client:
        kept = client.responses.create(model="auto", input=EASY)
        redis_server.stop()
        try:
            loose: Any = client.responses.create(model="auto", input=EASY)
            with client.responses.stream(model="auto", input=EASY) as stream:
                streamed: Any = stream.get_final_response()
            assert (loose.output_text, loose.store) == (kept.output_text, False)
            assert streamed.store is False
            asked = len(cloud.requests)
            with pytest.raises(openai.InternalServerError, match="Redis, where responses are kept") as down:
                client.responses.create(model="auto", input="And?", previous_response_id=kept.id)
            assert (down.value.status_code, down.value.code) == (503, "responses_unavailable")
            assert down.value.param == "previous_response_id"
            assert len(cloud.requests) == asked
        finally:
            redis_server.start()


def test_forgetting_cached_answers_leaves_conversations(two: tuple[Served, Served]) -> None:
    with client_of(two[0]) as client:
        kept = client.responses.create(model="auto", input=EASY)
        httpx.delete(f"{two[0].base_url}/cache", headers={"authorization": "Bearer k-one"}).raise_for_status()
        assert client.responses.retrieve(kept.id).id == kept.id
