"""Virtual keys over real HTTP: who is let in, what a key may do, and what answers say of its limits."""

import asyncio
import json
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import anthropic
import httpx
import openai
import pytest
from fixtures import loopback_cloud as lc
from fixtures.door import USER, Door, OpenDoor, ServeGateway, error, new_key, within
from fixtures.loopback_cloud import LoopbackCloud
from fixtures.redis_server import RedisServer
from fixtures.scripted_model import Scripted
from fixtures.serving import CLOUD, EASY, LOCAL, MakeSettings
from pydantic import SecretStr

from smallfirst.router.gateway import Gateway
from smallfirst.router.settings import (
    CacheSettings,
    CloudModelSettings,
    Key,
    Limits,
    ServerSettings,
    Settings,
    default_local_model,
)

# The loopback cloud says that every answer took 20 + 5 tokens.
COST = 20 * 0.001 + 5 * 0.01

# --- who is let in --------------------------------------------------------------------------------------------------


def test_a_virtual_key_lets_its_tenant_in_and_is_named_in_the_ledger(open_door: OpenDoor) -> None:
    made = new_key("acme")
    door = open_door(made)
    assert door.post(made.secret, metadata={"tenant": "somebody-else"}).status_code == 200
    entry = door.entries(1)[0]
    assert (entry.tenant, entry.key_id) == ("acme", made.key.id)


@pytest.mark.parametrize("sent", [None, "sk-something", "sf-typo"])
def test_without_a_known_key_nobody_is_let_in(open_door: OpenDoor, sent: str | None) -> None:
    response = open_door(new_key()).post(sent)
    assert response.status_code == 401
    assert error(response)["code"] == "invalid_api_key"


def test_an_expired_key_lets_nobody_in(open_door: OpenDoor) -> None:
    made = new_key(expires_at=time.time() - 1)
    response = open_door(made).post(made.secret)
    assert response.status_code == 401
    assert "expired" in error(response)["message"]


def test_a_running_gateway_takes_note_of_keys_that_are_made(open_door: OpenDoor) -> None:
    door = open_door()
    assert door.post(None).status_code == 200
    made = new_key()
    door.store.add(made.key)
    assert within(10, lambda: door.post(None).status_code == 401)
    assert door.post(made.secret).status_code == 200


def test_a_stream_whose_key_is_revoked_midway_goes_on_to_its_end(
    open_door: OpenDoor, cloud: LoopbackCloud
) -> None:
    made = new_key(requests=5)
    door = open_door(made)
    revoked = threading.Event()
    cloud.enqueue(_stream_until(revoked))
    body = {"model": CLOUD, "messages": [USER], "stream": True}
    headers = {"authorization": f"Bearer {made.secret}"}
    with httpx.stream(
        "POST", f"{door.served.base_url}/chat/completions", json=body, headers=headers, timeout=30
    ) as response:
        lines = response.iter_lines()
        next(lines)
        door.store.revoke(made.key.id, time.time())
        assert within(10, lambda: door.post(made.secret).status_code == 401)
        revoked.set()
        assert list(lines)[-2] == "data: [DONE]"
    assert door.entries(1)[0].status == "ok"


def _stream_until(done: threading.Event) -> lc.Behaviour:
    """Stream an answer whose second half comes only then."""

    async def stream(exchange: lc.Exchange) -> bool:
        await exchange.start_stream()
        pieces = [b"data: " + json.dumps(chunk).encode() + b"\n\n" for chunk in lc.chunks(exchange)]
        for at, piece in enumerate((*pieces, lc.DONE)):
            while at == 2 and not done.is_set():
                await asyncio.sleep(0.02)
            await exchange.piece(piece)
        return await exchange.end_stream()

    return stream


async def _ask_from(peer: str, settings: Settings) -> httpx.Response:
    from smallfirst.router.server import make_app

    app = make_app(Gateway(settings))
    transport = httpx.ASGITransport(app, client=(peer, 4711))
    async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
        return await client.post("/v1/messages/count_tokens", json={"model": "auto", "messages": [USER]})


@pytest.mark.parametrize(
    ("peer", "insecure", "status"),
    [("127.0.0.1", False, 200), ("::1", False, 200), ("10.1.2.3", False, 403), ("10.1.2.3", True, 200)],
)
async def test_without_any_key_only_this_machine_is_served(
    make_settings: MakeSettings, peer: str, insecure: bool, status: int
) -> None:
    settings = make_settings(local=False, server=ServerSettings(insecure_no_keys=insecure))
    response = await _ask_from(peer, settings)
    assert response.status_code == status
    if status == 403:
        assert error(response)["type"] == "permission_error"
        assert "smallfirst keys create" in error(response)["message"]


async def test_with_keys_other_machines_are_asked_for_one(make_settings: MakeSettings) -> None:
    settings = make_settings(local=False, server=ServerSettings(keys=(Key(key=SecretStr("k")),)))
    assert (await _ask_from("10.1.2.3", settings)).status_code == 401


def test_metrics_are_for_administrators_and_keys_of_the_settings(open_door: OpenDoor) -> None:
    tenants, admins = new_key(), new_key(admin=True)
    door = open_door(tenants, admins, server=ServerSettings(keys=(Key(key=SecretStr("prometheus")),)))
    statuses = [
        door.get(key, "/metrics").status_code for key in (tenants.secret, admins.secret, "prometheus")
    ]
    assert statuses == [403, 200, 200]


# --- models and policies ----------------------------------------------------------------------------------------------


def test_a_model_that_the_key_does_not_allow_is_refused_by_name(
    open_door: OpenDoor, cloud: LoopbackCloud
) -> None:
    made = new_key(models=(LOCAL,))
    door = open_door(made)
    refused = door.post(made.secret, model=CLOUD)
    assert refused.status_code == 403
    assert (error(refused)["param"], error(refused)["code"]) == ("model", "model_not_allowed")
    assert door.post(made.secret, model="no-such").status_code == 404
    assert door.post(made.secret, model=LOCAL).status_code == 200
    assert cloud.requests == []


def test_anthropics_wire_refuses_a_model_in_its_own_form(open_door: OpenDoor) -> None:
    made = new_key(models=(LOCAL,))
    with (
        anthropic.Anthropic(
            base_url=open_door(made).served.root, api_key=made.secret, max_retries=0
        ) as client,
        pytest.raises(anthropic.PermissionDeniedError) as caught,
    ):
        client.messages.create(model=CLOUD, max_tokens=10, messages=[{"role": "user", "content": EASY}])
    assert caught.value.body["error"]["type"] == "permission_error"  # type: ignore[index]


def test_auto_asks_only_models_that_the_key_allows(open_door: OpenDoor, cloud: LoopbackCloud) -> None:
    made = new_key(models=(LOCAL,))
    door = open_door(made)
    for policy in ("auto", "auto/quality", "auto/thrifty"):
        assert door.post(made.secret, model=policy).json()["model"] == LOCAL
    routed = door.post(made.secret, "/route", model="auto/quality").json()
    assert [attempt["model"] for attempt in routed["attempts"]] == [LOCAL]
    assert cloud.requests == []


def test_a_key_whose_models_are_not_configured_any_more_can_ask_nobody(open_door: OpenDoor) -> None:
    made = new_key(models=("taken-away",))
    response = open_door(made).post(made.secret, model="auto")
    assert response.status_code == 403
    assert (error(response)["code"], error(response)["param"]) == ("model_not_allowed", "model")


def test_what_no_allowed_model_can_take_is_refused_for_that_reason(open_door: OpenDoor) -> None:
    made = new_key(models=(LOCAL,))
    image = {"type": "image_url", "image_url": {"url": "https://example.com/a.png"}}
    response = open_door(made).post(
        made.secret, model="auto", messages=[{"role": "user", "content": [image]}]
    )
    assert (response.status_code, error(response)["code"]) == (400, "unsupported_capability")


def test_auto_follows_the_keys_own_policy(open_door: OpenDoor, cloud: LoopbackCloud) -> None:
    made = new_key(policies=("private", "offline"))
    door = open_door(made)
    assert door.post(made.secret, model="auto").json()["model"] == LOCAL
    assert door.post(made.secret, model="auto/quality").status_code == 403
    assert door.entries(1)[0].policy == "private"
    moderated = door.post(made.secret, "/moderations", input="A text.")
    assert error(moderated)["code"] == "privacy_local_only"
    assert cloud.requests == []


def test_the_list_of_models_holds_what_the_key_may_name(open_door: OpenDoor) -> None:
    made = new_key(models=(LOCAL,), policies=("private",))
    door = open_door(made)
    names = [model["id"] for model in door.get(made.secret, "/v1/models").json()["data"]]
    assert names == ["auto", "auto/private", LOCAL]
    assert door.get(made.secret, f"/v1/models/{CLOUD}").status_code == 403


def test_keys_that_allow_other_models_do_not_share_answers(open_door: OpenDoor) -> None:
    free, narrow = new_key("acme"), new_key("acme", models=(LOCAL,))
    door = open_door(free, narrow, cache=CacheSettings(max_cache_error=0))
    first = door.post(free.secret, model="auto/quality", cache={})
    second = door.post(narrow.secret, model="auto/quality", cache={})
    assert [r.headers["x-smallfirst-cache"] for r in (first, second)] == ["miss", "miss"]
    assert second.json()["model"] == LOCAL


def test_under_a_budget_in_dollars_a_model_of_unknown_price_is_not_asked(
    open_door: OpenDoor, cloud: LoopbackCloud
) -> None:
    made = new_key(usd_per_day=1.0)
    door = open_door(made, cloud_fields={"name": "our-own-model", "base_url": cloud.base_url})
    refused = door.post(made.secret, model="our-own-model")
    assert refused.status_code == 403
    assert "price" in error(refused)["message"]
    assert door.post(made.secret, model="auto/quality").json()["model"] == LOCAL


# --- limits -----------------------------------------------------------------------------------------------------------


def test_answers_say_what_is_left_and_refusals_when_to_come_again(open_door: OpenDoor) -> None:
    made = new_key(rpm=2, tpm=100_000)
    door = open_door(made)
    first, second, third = (door.post(made.secret, max_tokens=50) for _ in range(3))
    assert [r.status_code for r in (first, second, third)] == [200, 200, 429]
    assert first.headers["x-ratelimit-limit-requests"] == "2"
    assert [r.headers["x-ratelimit-remaining-requests"] for r in (first, second, third)] == ["1", "0", "0"]
    assert first.headers["x-ratelimit-reset-requests"] == "30s"
    assert first.headers["x-ratelimit-limit-tokens"] == "100000"
    assert int(first.headers["x-ratelimit-remaining-tokens"]) < 100_000 - 50
    assert 0 < int(third.headers["retry-after"]) <= 30
    assert (error(third)["type"], error(third)["code"]) == ("requests", "rate_limit_exceeded")


def test_streams_say_what_is_left_as_well(open_door: OpenDoor) -> None:
    made = new_key(requests_per_day=5)
    response = open_door(made).post(made.secret, stream=True)
    assert response.headers["x-ratelimit-remaining-requests"] == "4"
    assert response.text.endswith("data: [DONE]\n\n")


def test_the_openai_client_is_told_not_to_try_a_spent_budget_again(open_door: OpenDoor) -> None:
    made = new_key(requests=1)
    door = open_door(made)
    with openai.OpenAI(base_url=door.served.base_url, api_key=made.secret) as client:
        client.chat.completions.create(model=CLOUD, messages=[{"role": "user", "content": EASY}])
        with pytest.raises(openai.RateLimitError) as caught:
            client.chat.completions.create(model=CLOUD, messages=[{"role": "user", "content": EASY}])
    assert caught.value.code == "insufficient_quota"
    assert caught.value.response.headers["x-should-retry"] == "false"
    assert "retry-after" not in caught.value.response.headers


def test_anthropics_wire_has_its_own_names_for_limits(open_door: OpenDoor) -> None:
    made = new_key(rpm=1)
    with anthropic.Anthropic(
        base_url=open_door(made).served.root, api_key=made.secret, max_retries=0
    ) as client:

        def ask() -> Any:
            return client.messages.with_raw_response.create(
                model=CLOUD, max_tokens=10, messages=[{"role": "user", "content": EASY}]
            )

        headers = ask().headers
        with pytest.raises(anthropic.RateLimitError) as caught:
            ask()
    assert headers["anthropic-ratelimit-requests-limit"] == "1"
    assert headers["anthropic-ratelimit-requests-remaining"] == "0"
    assert headers["anthropic-ratelimit-requests-reset"].endswith("Z")
    assert caught.value.body["error"]["type"] == "rate_limit_error"  # type: ignore[index]
    assert caught.value.response.headers["retry-after"]


def test_keys_without_limits_have_no_such_headers(open_door: OpenDoor) -> None:
    made = new_key()
    headers = open_door(made).post(made.secret).headers
    assert [name for name in headers if "ratelimit" in name] == []


def test_a_request_that_asks_for_more_tokens_than_there_ever_are_is_refused_for_good(
    open_door: OpenDoor,
) -> None:
    made = new_key(tpm=100)
    response = open_door(made).post(made.secret, max_tokens=500)
    assert response.status_code == 429
    assert error(response)["type"] == "tokens"
    assert "retry-after" not in response.headers
    assert response.headers["x-should-retry"] == "false"


def test_tokens_are_settled_with_what_the_model_counted(open_door: OpenDoor) -> None:
    made = new_key(tpm=1000)
    door = open_door(made)
    for _ in range(4):
        response = door.post(made.secret, max_tokens=900)
        assert response.status_code == 200
    # Of 25 tokens each; without settlement the second one would have been refused.
    assert int(response.headers["x-ratelimit-remaining-tokens"]) < 100


def test_requests_at_the_same_time_are_limited_and_a_client_that_leaves_frees_its_slot(
    open_door: OpenDoor, cloud: LoopbackCloud
) -> None:
    made = new_key(max_concurrent=1)
    door = open_door(made)
    cloud.enqueue(lc.hang(after=2))
    body = {"model": CLOUD, "messages": [USER], "stream": True}
    headers = {"authorization": f"Bearer {made.secret}"}
    with httpx.stream(
        "POST", f"{door.served.base_url}/chat/completions", json=body, headers=headers, timeout=30
    ) as response:
        lines = response.iter_lines()
        next(lines)
        refused = door.post(made.secret)
        assert (refused.status_code, refused.headers["retry-after"]) == (429, "1")
        assert "1 requests at the same time" in error(refused)["message"]
    assert within(10, lambda: door.post(made.secret).status_code == 200)


def test_each_text_of_a_list_counts_as_a_request(open_door: OpenDoor) -> None:
    made = new_key(requests=3)
    door = open_door(made)
    assert (
        door.post(made.secret, "/completions", model=CLOUD, messages=None, prompt=["a", "b"]).status_code
        == 200
    )
    assert (
        door.post(made.secret, "/completions", model=CLOUD, messages=None, prompt=["a", "b"]).status_code
        == 429
    )
    assert {entry.key_id for entry in door.entries(2)} == {made.key.id}


def test_refusals_are_counted_and_quote_no_key(open_door: OpenDoor, caplog: pytest.LogCaptureFixture) -> None:
    made, admin = new_key(requests=0), new_key(admin=True)
    door = open_door(made, admin)
    refused = door.post(made.secret)
    assert made.secret not in refused.text + str(refused.headers) + caplog.text
    metrics = door.get(admin.secret, "/metrics").text
    assert 'smallfirst_refused_total{reason="requests_total"} 1.0' in metrics


# --- money ------------------------------------------------------------------------------------------------------------


def test_a_days_budget_is_kept_to_what_requests_cost(open_door: OpenDoor) -> None:
    made = new_key(usd_per_day=4 * COST, thrifty_at=1.0)
    door = open_door(made)
    statuses = [door.post(made.secret, max_tokens=5).status_code for _ in range(6)]
    spent = sum(entry.cost_usd or 0.0 for entry in door.entries(statuses.count(200)))
    assert statuses == [200] * statuses.count(200) + [429] * statuses.count(429)
    assert 2 * COST < spent <= 4 * COST + 1e-9


def test_a_budget_that_is_nearly_spent_lets_thrifty_decide(open_door: OpenDoor, cloud: LoopbackCloud) -> None:
    made = new_key(usd_per_day=100 * COST, thrifty_at=0.01)
    door = open_door(made)
    first = door.post(made.secret, model="auto/quality")
    assert first.headers["x-smallfirst-budget-used"] == "0.0000"
    assert "x-smallfirst-budget-policy" not in first.headers
    second = door.post(made.secret, model="auto/quality")
    assert second.headers["x-smallfirst-budget-policy"] == "thrifty"
    assert "of the key's budget is used, so 'thrifty' decides" in second.headers["x-smallfirst-reason"]
    assert [entry.policy for entry in door.entries(2)] == ["quality", "thrifty"]
    named = door.post(made.secret, model=CLOUD)
    assert "x-smallfirst-budget-policy" not in named.headers
    assert named.json()["model"] == CLOUD


def test_thrift_never_sends_out_what_a_policy_keeps_in_the_house(
    open_door: OpenDoor, cloud: LoopbackCloud
) -> None:
    made = new_key(usd_per_day=100 * COST, thrifty_at=0.01)
    door = open_door(made)
    door.post(made.secret, model=CLOUD)
    private = door.post(made.secret, model="auto/private")
    assert private.json()["model"] == LOCAL
    assert "x-smallfirst-budget-policy" not in private.headers


def test_a_stream_that_breaks_is_settled_with_what_it_took(open_door: OpenDoor, cloud: LoopbackCloud) -> None:
    made = new_key(usd_per_day=1000.0)
    door = open_door(made)
    cloud.enqueue(lc.cut(after=3))
    with pytest.raises(httpx.HTTPError):
        raise httpx.HTTPError(door.post(made.secret, stream=True, max_tokens=5000).text)
    entry = door.entries(1)[0]
    assert entry.status == "error"
    used = float(door.post(made.secret).headers["x-smallfirst-budget-used"])
    assert used == pytest.approx((entry.cost_usd or 0.0) / 1000, abs=6e-5)
    # What was reserved for 5,000 tokens is there again.
    assert used < 5000 * 0.01 / 1000


def test_an_upstream_error_costs_nothing_of_the_budget(open_door: OpenDoor, cloud: LoopbackCloud) -> None:
    made = new_key(usd_per_day=1000.0)
    door = open_door(made)
    cloud.enqueue(lc.status(500))
    assert door.post(made.secret, max_tokens=5000).status_code >= 500
    assert door.post(made.secret).headers["x-smallfirst-budget-used"] == "0.0000"


def test_after_a_restart_budgets_go_on_from_the_ledger(
    open_door: OpenDoor, serve: ServeGateway, tmp_path: Path
) -> None:
    made = new_key(requests=3, usd_per_day=10.0)
    door = open_door(made)
    assert [door.post(made.secret).status_code for _ in range(2)] == [200, 200]
    door.entries(2)
    again = Door(serve(Gateway(door.settings, models={LOCAL: Scripted(LOCAL)})), door.settings)
    third, fourth = again.post(made.secret), again.post(made.secret)
    assert float(third.headers["x-smallfirst-budget-used"]) == pytest.approx(2 * COST / 10, abs=5e-5)
    assert [third.status_code, fourth.status_code] == [200, 429]


# --- replicas ---------------------------------------------------------------------------------------------------------


def test_when_redis_is_down_limited_keys_are_refused_where_the_settings_say_so(
    open_door: OpenDoor, redis_server: RedisServer
) -> None:
    made, free = new_key(requests=100), new_key()
    limits = Limits(url=SecretStr(redis_server.url), when_down="refuse", timeout=0.5)
    door = open_door(made, free, limits=limits)
    assert door.post(made.secret).status_code == 200
    redis_server.stop()
    try:
        refused = door.post(made.secret)
        assert (refused.status_code, error(refused)["code"]) == (503, "limits_unavailable")
        assert refused.headers["retry-after"] == "5"
        assert door.post(free.secret).status_code == 200
    finally:
        redis_server.start()
    assert within(10, lambda: door.post(made.secret).status_code == 200)


def test_when_redis_is_down_a_key_still_ends_at_its_limit(
    open_door: OpenDoor, redis_server: RedisServer
) -> None:
    made = new_key(requests=4)
    door = open_door(made, limits=Limits(url=SecretStr(redis_server.url), timeout=0.5))
    assert [door.post(made.secret).status_code for _ in range(2)] == [200, 200]
    redis_server.stop()
    try:
        assert [door.post(made.secret).status_code for _ in range(3)] == [200, 200, 429]
    finally:
        redis_server.start()


class Embedding(Scripted):
    """A scripted model that also turns texts into vectors, of five tokens each."""

    async def embed(self, texts: Sequence[str]) -> tuple[list[list[float]], int]:
        return [[1.0, 0.0] for _ in texts], 5 * len(texts)


def test_embeddings_count_as_requests_with_their_tokens(open_door: OpenDoor) -> None:
    made, other = new_key(rpm=1, tpm=1000), new_key(models=(CLOUD,))
    local = default_local_model().model_copy(update={"embeddings": True})
    cloud_model = CloudModelSettings(name=CLOUD, kind="openai", api_key=SecretStr("sk-cloud"))
    door = open_door(made, other, own={LOCAL: Embedding(LOCAL)}, models=(local, cloud_model))
    first, second = (
        door.post(made.secret, "/embeddings", model=LOCAL, messages=None, input=["a", "b"]) for _ in range(2)
    )
    assert (first.status_code, second.status_code) == (200, 429)
    assert first.headers["x-ratelimit-remaining-requests"] == "0"
    assert door.post(other.secret, "/embeddings", model=LOCAL, messages=None, input="a").status_code == 403


def test_each_text_to_label_counts_as_a_request(open_door: OpenDoor) -> None:
    made = new_key(requests=3)
    door = open_door(made)
    asked: dict[str, Any] = {"messages": None, "model": CLOUD, "labels": ["yes", "no"], "text": ["a", "b"]}
    first = door.post(made.secret, "/classify", **asked)
    assert first.headers["x-ratelimit-remaining-requests"] in ("1", "2")
    second = door.post(made.secret, "/classify", **asked)
    assert (second.status_code, error(second)["code"]) == (429, "insufficient_quota")


def test_moderation_counts_as_a_request(open_door: OpenDoor, cloud: LoopbackCloud) -> None:
    made = new_key(requests=1)
    door = open_door(made)
    cloud.enqueue(lc.raw(b'{"results": []}'))
    statuses = [door.post(made.secret, "/moderations", input="A text.").status_code for _ in range(2)]
    assert statuses == [200, 429]


def test_what_asks_no_model_counts_for_nothing(open_door: OpenDoor) -> None:
    made = new_key(requests=1)
    door = open_door(made)
    assert door.post(made.secret, "/route", model="auto").status_code == 200
    assert door.get(made.secret, "/v1/models").status_code == 200
    assert door.post(made.secret).status_code == 200
