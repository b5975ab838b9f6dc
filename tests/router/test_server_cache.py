"""Forgetting answers over real HTTP."""

from collections.abc import Callable
from typing import Any

import httpx
import pytest
from fixtures.loopback_cloud import LoopbackCloud
from fixtures.redis_server import RedisServer
from fixtures.serving import CLOUD, MakeSettings, Served
from pydantic import SecretStr

from smallfirst.router.gateway import Gateway
from smallfirst.router.remote.gateway import RemoteGateway
from smallfirst.router.settings import CacheSettings, Key, ServerSettings

KEYS = tuple(Key(key=SecretStr(f"key-{tenant}"), tenant=tenant) for tenant in ("ann", "bob"))


@pytest.fixture
def served(serve: Callable[[Gateway], Served], make_settings: MakeSettings, cloud: LoopbackCloud) -> Served:
    """Two tenants and a cloud."""
    return serve(Gateway(make_settings(local=False, server=ServerSettings(keys=KEYS))))


def key(tenant: str) -> dict[str, str]:
    return {"authorization": f"Bearer key-{tenant}"}


def ask(served: Served, tenant: str, namespace: str = "") -> str:
    """Ask the same question as ever; returns what the cache had to do with it."""
    body: dict[str, Any] = {"model": CLOUD, "messages": [{"role": "user", "content": "Who wrote Ulysses?"}]}
    if namespace:
        body["cache"] = {"namespace": namespace}
    answer = httpx.post(served.base_url + "/chat/completions", json=body, headers=key(tenant), timeout=30)
    assert answer.status_code == 200
    return answer.headers["x-smallfirst-cache"]


def forget(served: Served, tenant: str, query: str = "") -> httpx.Response:
    return httpx.delete(f"{served.base_url}/cache{query}", headers=key(tenant), timeout=30)


def test_a_tenant_forgets_its_own_answers_alone(served: Served) -> None:
    assert [ask(served, tenant) for tenant in ("ann", "bob")] == ["miss", "miss"]
    answer = forget(served, "ann")
    assert answer.json() == {"object": "cache.deleted", "tenant": "ann", "namespace": None, "deleted": 1}
    assert [ask(served, tenant) for tenant in ("ann", "bob")] == ["miss", "exact"]


def test_one_namespace_can_be_forgotten(served: Served) -> None:
    for namespace in ("", "a"):
        ask(served, "ann", namespace)
    assert forget(served, "ann", "?namespace=a").json()["deleted"] == 1
    assert [ask(served, "ann", namespace) for namespace in ("", "a")] == ["exact", "miss"]


def test_a_key_cannot_name_another_tenant(served: Served) -> None:
    ask(served, "bob")
    assert forget(served, "ann", "?tenant=bob").json() == {
        "object": "cache.deleted",
        "tenant": "ann",
        "namespace": None,
        "deleted": 0,
    }
    assert ask(served, "bob") == "exact"


@pytest.mark.parametrize(
    ("query", "param"), [("?namspace=a", "namspace"), ("?namespace=a&namespace=b", "namespace")]
)
def test_a_query_that_is_not_understood_deletes_nothing(served: Served, query: str, param: str) -> None:
    ask(served, "ann")
    answer = forget(served, "ann", query)
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, param)
    assert ask(served, "ann") == "exact"


def test_without_a_key_nothing_is_deleted(served: Served) -> None:
    answer = httpx.delete(served.base_url + "/cache", timeout=30)
    assert (answer.status_code, answer.json()["error"]["type"]) == (401, "authentication_error")


def test_a_store_that_is_down_is_an_error_here(
    serve: Callable[[Gateway], Served], make_settings: MakeSettings, cloud: LoopbackCloud
) -> None:
    down = serve(
        Gateway(make_settings(local=False, cache=CacheSettings(url=SecretStr("redis://127.0.0.1:9/0"))))
    )
    answer = httpx.delete(down.base_url + "/cache", timeout=30)
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "cache_unavailable")


async def test_the_sdk_forgets_through_a_proxy(
    serve: Callable[[Gateway], Served],
    make_settings: MakeSettings,
    cloud: LoopbackCloud,
    redis_server: RedisServer,
) -> None:
    settings = make_settings(local=False, cache=CacheSettings(url=SecretStr(redis_server.url), timeout=1))
    served = serve(Gateway(settings))
    async with RemoteGateway(served.base_url) as remote:
        for tenant in ("ann", "bob"):
            await remote.complete("Who wrote Ulysses?", model=CLOUD, metadata={"tenant": tenant})
        assert await remote.forget(tenant="ann") == 1
        answer = await remote.complete("Who wrote Ulysses?", model=CLOUD, metadata={"tenant": "bob"})
        assert answer.receipt.cache == "exact"


def test_readiness_says_what_the_cache_can_do(served: Served) -> None:
    cache = httpx.get(served.root + "/health/ready", timeout=30).json()["cache"]
    assert cache == {
        "store": "memory",
        "healthy": True,
        "semantic": "on",
        "namespaces": {"stricter": 0, "exact_only": 0},
    }
