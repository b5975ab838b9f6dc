"""Where a policy hedges, two models may be asked at once: a key's limits must have room for both."""

from typing import Any

import pytest
from fixtures.door import PRICE, Door, OpenDoor, error, new_key
from fixtures.loopback_cloud import LoopbackCloud
from fixtures.serving import CLOUD

from smallfirst.policies import Policy
from smallfirst.router.settings import CloudModelSettings, Price

SELF = Policy(name="hedged", hedge_after=20, hedge_same_model=True)
OTHER = Policy(name="hedged", hedge_after=20)
LIMIT = 100_000


def taken(door: Door, secret: str, **body: Any) -> int:
    """Ask, and return how many tokens were reserved; one more or less, as time goes on."""
    response = door.post(secret, max_tokens=5, **body)
    assert response.status_code == 200
    return LIMIT - int(response.headers["x-ratelimit-remaining-tokens"])


def test_tokens_are_reserved_for_both(open_door: OpenDoor) -> None:
    keys = [new_key(tpm=LIMIT) for _ in range(4)]
    door = open_door(*keys, policies={"hedged": SELF}, policy="hedged")
    first, second, third, fourth = (key.secret for key in keys)
    once = taken(door, second, model="auto/quality")
    assert taken(door, first, model="auto/hedged") == pytest.approx(2 * once, abs=1)
    # Named: asked twice as well, as the policy says so.
    assert taken(door, third) == pytest.approx(2 * once, abs=1)
    assert taken(door, fourth, stream=True) == pytest.approx(2 * once, abs=1)


def test_a_model_that_is_named_and_not_asked_twice_is_reserved_for_once(open_door: OpenDoor) -> None:
    keys = [new_key(tpm=LIMIT) for _ in range(2)]
    door = open_door(*keys, policies={"hedged": OTHER}, policy="hedged")
    named, auto = (
        taken(door, key.secret, **body) for key, body in zip(keys, ({}, {"model": "auto"}), strict=True)
    )
    assert auto == pytest.approx(2 * named, abs=1)


def test_money_is_reserved_for_the_two_dearest(open_door: OpenDoor, cloud: LoopbackCloud) -> None:
    prices = {CLOUD: PRICE, "spare": Price(input=500, output=5000), "cheap": Price(input=1, output=1)}
    models = tuple(
        CloudModelSettings(name=name, kind="openai", base_url=cloud.base_url, price=price)
        for name, price in prices.items()
    )
    counting = new_key(tpm=LIMIT)
    prompt = taken(open_door(counting), counting.secret) - 5
    one = prompt * 0.001 + 5 * 0.01
    both = one * 1.5
    keys = [new_key(usd_per_day=usd, thrifty_at=1.0) for usd in (both + 0.001, both - 0.001, one + 0.001)]
    door = open_door(*keys, policies={"hedged": OTHER}, policy="hedged", models=models)
    enough, short, single = (key.secret for key in keys)
    assert door.post(enough, model="auto", max_tokens=5).status_code == 200
    refused = door.post(short, model="auto", max_tokens=5)
    assert (refused.status_code, error(refused)["code"]) == (429, "insufficient_quota")
    assert door.post(single, max_tokens=5).status_code == 200
