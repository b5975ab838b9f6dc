"""Ways around limits that are none, and what must not stay reserved, over real HTTP."""

import json
import time
from typing import Any

import httpx
import pytest
from fixtures import loopback_cloud as lc
from fixtures.door import PRICE, USER, OpenDoor, error, new_key, within
from fixtures.loopback_cloud import LoopbackCloud
from fixtures.redis_server import RedisServer
from fixtures.serving import CLOUD, LOCAL
from pydantic import SecretStr

from smallfirst.router.settings import Limits, Price, TierPrice


@pytest.mark.parametrize("digits", [10, 19, 400])
def test_a_length_that_no_model_has_is_refused_and_overflows_nowhere(
    open_door: OpenDoor, digits: int
) -> None:
    made = new_key(tpm=1000, usd_per_day=5.0)
    response = open_door(made).post(made.secret, max_tokens=10**digits)
    assert (response.status_code, error(response)["param"]) == (400, "max_tokens")


def test_of_two_lengths_the_larger_is_reserved(open_door: OpenDoor, cloud: LoopbackCloud) -> None:
    made = new_key(tpm=1000)
    response = open_door(made).post(made.secret, max_tokens=1_000_000, max_completion_tokens=1)
    assert (response.status_code, error(response)["type"]) == (429, "tokens")
    assert cloud.requests == []


def test_a_dearer_service_tier_is_reserved_at_its_own_price(
    open_door: OpenDoor, cloud: LoopbackCloud
) -> None:
    priority = TierPrice(input=10 * PRICE.input, output=10 * PRICE.output)
    price = Price(input=PRICE.input, output=PRICE.output, tiers={"priority": priority})
    # 100 tokens cost a dollar as usual, ten at that tier.
    made = new_key(usd_per_day=2.0)
    door = open_door(made, cloud_fields={"price": price})
    assert door.post(made.secret, max_tokens=100, service_tier="Priority").status_code == 429
    assert cloud.requests == []
    assert door.post(made.secret, max_tokens=100).status_code == 200


def test_a_long_prompt_is_reserved_at_the_price_of_long_prompts(open_door: OpenDoor) -> None:
    # By the price list 200,000 tokens and more cost twice as much: 1.25 and 2.50 dollars a million.
    made = new_key(usd_per_day=0.4)
    name = "gemini-2.5-pro"
    door = open_door(made, cloud_fields={"name": name, "price": None, "context_tokens": 1_000_000})
    long = [{"role": "user", "content": "word " * 250_000}]
    response = door.post(made.secret, model=name, messages=long, max_tokens=1)
    assert (response.status_code, error(response)["code"]) == (429, "insufficient_quota")


def test_what_a_budget_can_never_cover_is_not_said_to_fit_tomorrow(open_door: OpenDoor) -> None:
    made = new_key(usd_per_day=5.0)
    response = open_door(made).post(made.secret, max_tokens=10_000)
    assert response.status_code == 429
    assert "retry-after" not in response.headers


def test_of_a_list_that_does_not_fit_no_model_is_asked(open_door: OpenDoor, cloud: LoopbackCloud) -> None:
    made = new_key(requests=2)
    door = open_door(made)
    body: dict[str, Any] = {"messages": None, "text": list("abcde"), "labels": ["yes", "no"], "model": CLOUD}
    assert door.post(made.secret, "/classify", **body).status_code == 429
    time.sleep(0.2)
    assert cloud.requests == []


def test_labels_are_given_by_a_model_that_the_key_may_use(open_door: OpenDoor) -> None:
    made = new_key(models=(CLOUD,))
    body: dict[str, Any] = {"messages": None, "text": "A text.", "labels": ["yes", "no"], "model": None}
    response = open_door(made).post(made.secret, "/classify", **body)
    assert (response.status_code, response.json()["model"]) == (200, CLOUD)


@pytest.mark.parametrize(
    "wrong",
    [
        {"path": "/chat/completions", "headers": {"x-smallfirst-privacy": "nonsense"}},
        {"path": "/responses", "input": "x", "messages": None, "previous_response_id": "resp_none"},
        {"path": "/completions", "prompt": ["a", "b"], "messages": None, "n": 200},
        {"path": "/messages", "stop_sequences": [1]},
    ],
    ids=lambda wrong: str(wrong["path"]),
)
def test_what_fails_before_a_model_is_asked_keeps_nothing_reserved(
    open_door: OpenDoor, wrong: dict[str, object]
) -> None:
    made = new_key(usd_per_day=1000.0, max_concurrent=1)
    door = open_door(made)
    body = {"model": CLOUD, "messages": [USER], "max_tokens": 5000, **wrong}
    path, headers = body.pop("path"), body.pop("headers", {})
    body = {name: value for name, value in body.items() if value is not None}
    key = {"authorization": f"Bearer {made.secret}"}
    failed = httpx.post(f"{door.served.base_url}{path}", json=body, headers={**key, **headers}, timeout=30)  # type: ignore[dict-item]
    assert failed.status_code in (400, 404)
    after = door.post(made.secret, model=LOCAL)
    assert (after.status_code, after.headers["x-smallfirst-budget-used"]) == (200, "0.0000")


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_gives_up_before_the_first_word_frees_what_was_reserved(
    open_door: OpenDoor, cloud: LoopbackCloud, stream: bool
) -> None:
    made = new_key(usd_per_day=1000.0, max_concurrent=1)
    door = open_door(made)
    cloud.enqueue(lc.hang(after=0))
    with pytest.raises(httpx.ReadTimeout):
        httpx.post(
            f"{door.served.base_url}/chat/completions",
            json={"model": CLOUD, "messages": [USER], "max_tokens": 50_000, "stream": stream},
            headers={"authorization": f"Bearer {made.secret}"},
            timeout=0.5,
        )
    assert within(5, lambda: door.post(made.secret, model=LOCAL).status_code == 200)
    used = float(door.post(made.secret, model=LOCAL).headers["x-smallfirst-budget-used"])
    assert used < 0.1


def test_a_bad_bearer_is_not_made_good_by_a_second_key(open_door: OpenDoor) -> None:
    made = new_key()
    url = f"{open_door(made).served.base_url}/models"
    both = {"authorization": "Bearer sf-wrong", "x-api-key": made.secret}
    assert httpx.get(url, headers=both).status_code == 401
    assert httpx.get(url, headers={"authorization": "Basic abc", "x-api-key": made.secret}).status_code == 200
    # A blank that only Unicode knows is no key.
    blank = [(b"authorization", b"Bearer \xa0")]
    assert "No API key was given" in httpx.get(url, headers=blank).text


def test_readiness_and_metrics_say_that_limits_cannot_be_counted(
    open_door: OpenDoor, redis_server: RedisServer
) -> None:
    made, admin = new_key(requests=100), new_key(admin=True)
    door = open_door(made, admin, limits=Limits(url=SecretStr(redis_server.url), timeout=0.5))
    assert door.post(made.secret).status_code == 200
    assert door.get(None, "/health/ready").json()["limits"] == {"store": "redis", "healthy": True}
    redis_server.stop()
    try:
        assert door.post(made.secret).status_code == 200
        ready = door.get(None, "/health/ready").json()
        metrics = door.get(admin.secret, "/metrics").text
    finally:
        redis_server.start()
    assert (ready["status"], ready["limits"]["healthy"]) == ("degraded", False)
    assert "smallfirst_limits_healthy 0.0" in metrics


def test_readiness_says_that_keys_cannot_be_read(open_door: OpenDoor) -> None:
    made = new_key()
    door = open_door(made)
    assert door.get(None, "/health/ready").json()["keys"] == {"healthy": True}
    door.store.path.write_bytes(b"This is no database, and long enough to be taken for none." * 20)
    assert within(5, lambda: json.loads(door.get(None, "/health/ready").text)["keys"] == {"healthy": False})
    assert door.post(made.secret).status_code == 200
