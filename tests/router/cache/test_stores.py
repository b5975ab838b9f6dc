"""One suite for both stores, and what only Redis can get wrong."""

import asyncio
from collections.abc import AsyncIterator, Iterator

import pytest
from fixtures.redis_server import RedisServer

from smallfirst.router.cache import Cache, MemoryCache, key_prefix, open_cache
from smallfirst.router.cache.redis import RedisCache
from smallfirst.router.errors import SettingsError
from smallfirst.router.settings import CacheSettings


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture(params=["memory", "redis"])
async def cache(request: pytest.FixtureRequest) -> AsyncIterator[Cache]:
    store: Cache
    if request.param == "redis":
        store = RedisCache(request.getfixturevalue("redis_server").url, timeout=1)
    else:
        store = MemoryCache(1_000_000)
    yield store
    await store.aclose()


def key(tenant: str, name: str, namespace: str = "") -> str:
    return key_prefix(tenant, namespace) + name


async def test_what_was_set_is_found(cache: Cache) -> None:
    await cache.set(key("t", "a"), b"\x00value", ttl=60)
    assert await cache.get(key("t", "a")) == b"\x00value"
    assert await cache.get(key("t", "b")) is None
    stats = cache.stats()
    assert (stats.hits, stats.misses, stats.errors, stats.healthy) == (1, 1, 0, True)


async def test_an_entry_can_be_replaced(cache: Cache) -> None:
    await cache.set(key("t", "a"), b"1", ttl=60)
    await cache.set(key("t", "a"), b"2", ttl=60)
    assert await cache.get(key("t", "a")) == b"2"


async def test_an_entry_is_forgotten_after_its_time(cache: Cache) -> None:
    await cache.set(key("t", "a"), b"1", ttl=0.02)
    await asyncio.sleep(0.05)
    assert await cache.get(key("t", "a")) is None


@pytest.mark.parametrize("tenant", ["a*", "[ab]", "a\\", "a:b", "ü", "a?"])
async def test_deleting_a_tenant_leaves_the_others(cache: Cache, tenant: str) -> None:
    others = ["a", "ab", "a:", "b", "a*x"]
    for name in (tenant, *others):
        await cache.set(key(name, "k"), b"1", ttl=60)
    assert await cache.delete(tenant) == 1
    assert await cache.get(key(tenant, "k")) is None
    assert [await cache.get(key(name, "k")) for name in others] == [b"1"] * len(others)


async def test_deleting_a_namespace_leaves_the_others(cache: Cache) -> None:
    for namespace in ("", "x", "y"):
        await cache.set(key("t", "k", namespace), b"1", ttl=60)
    assert await cache.delete("t", "x") == 1
    assert [await cache.get(key("t", "k", n)) for n in ("", "x", "y")] == [b"1", None, b"1"]


async def test_memory_is_bounded_and_the_least_recently_used_go_first() -> None:
    cache = MemoryCache(20_000)
    for at in range(15):
        await cache.set(f"k{at}", bytes(1500), ttl=60)
        await cache.get("k0")
    stats = cache.stats()
    assert stats.bytes is not None
    assert stats.bytes <= 20_000
    assert await cache.get("k0") is not None
    assert await cache.get("k1") is None


async def test_one_entry_never_takes_the_whole_memory() -> None:
    cache = MemoryCache(10_000)
    await cache.set("small", b"1", ttl=60)
    await cache.set("large", bytes(5000), ttl=60)
    assert (await cache.get("small"), await cache.get("large")) == (b"1", None)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def shared(redis_server: RedisServer, clock: Clock) -> AsyncIterator[RedisCache]:
    store = RedisCache(redis_server.url, timeout=0.1, clock=clock)
    yield store
    await store.aclose()


@pytest.fixture
def broken(redis_server: RedisServer, request: pytest.FixtureRequest) -> Iterator[RedisServer]:
    """Redis, whole again after the test."""
    yield redis_server
    redis_server.stop()
    redis_server.start()


async def test_a_dead_redis_is_skipped_and_comes_back(
    shared: RedisCache, broken: RedisServer, clock: Clock
) -> None:
    await shared.set(key("t", "a"), b"1", ttl=60)
    broken.stop()
    assert [await shared.get(key("t", "a")) for _ in range(5)] == [None] * 5
    stats = shared.stats()
    assert (stats.errors, stats.skipped, stats.healthy) == (1, 4, False)
    broken.start()
    assert await shared.get(key("t", "a")) is None
    clock.now += 1.1
    await shared.set(key("t", "a"), b"2", ttl=60)
    assert await shared.get(key("t", "a")) == b"2"
    assert shared.stats().healthy


async def test_a_silent_redis_costs_one_wait_per_rest(
    shared: RedisCache, broken: RedisServer, clock: Clock
) -> None:
    broken.freeze()
    for _ in range(3):
        assert await shared.get("k") is None
    clock.now += 1.1
    for _ in range(3):
        assert await shared.get("k") is None
    broken.thaw()
    stats = shared.stats()
    assert (stats.errors, stats.skipped) == (2, 4)


async def test_a_full_redis_is_a_failed_write_and_no_error(shared: RedisCache, broken: RedisServer) -> None:
    with broken.client() as client:
        client.config_set("maxmemory", 1)
    await shared.set("k", bytes(1000), ttl=60)
    assert shared.stats().errors == 1


async def test_the_password_is_not_shown(shared: RedisCache) -> None:
    assert "hunter2" not in repr(RedisCache("redis://:hunter2@127.0.0.1:1/0", timeout=0.1))


def test_the_settings_choose_the_store() -> None:
    assert open_cache(CacheSettings(enabled=False)) is None
    memory = open_cache(CacheSettings())
    redis = open_cache(CacheSettings.model_validate({"url": "redis://127.0.0.1:1/0"}))
    assert memory is not None
    assert redis is not None
    assert (memory.name, redis.name) == ("memory", "redis")
    with pytest.raises(SettingsError, match=r"cache\.url"):
        open_cache(CacheSettings.model_validate({"url": "http://127.0.0.1"}))


async def test_a_burst_of_failures_counts_as_one(
    shared: RedisCache, broken: RedisServer, clock: Clock
) -> None:
    await asyncio.gather(*(shared.get("k") for _ in range(20)))
    broken.freeze()
    await asyncio.gather(*(shared.get("k") for _ in range(20)))
    broken.thaw()
    clock.now += 1.1
    await shared.get("k")
    assert shared.stats().healthy


async def test_many_requests_at_once_are_no_failure(redis_server: RedisServer) -> None:
    store = RedisCache(redis_server.url, timeout=5)
    await asyncio.gather(*(store.get("k") for _ in range(300)))
    await store.aclose()
    assert (store.stats().errors, store.stats().skipped) == (0, 0)


async def test_a_full_redis_can_still_be_read(shared: RedisCache, broken: RedisServer) -> None:
    await shared.set("old", b"1", ttl=60)
    with broken.client() as client:
        client.config_set("maxmemory", 1)
    await shared.set("new", bytes(1000), ttl=60)
    assert await shared.get("old") == b"1"
    assert shared.stats().healthy


@pytest.mark.parametrize(
    "url", ["redis://:hun/ter2@127.0.0.1:1/0", "redis://:hunter2@[::1/0", "redis://:hunter2@h/0?unknown=1"]
)
def test_a_url_that_is_not_understood_is_refused_without_its_password(url: str) -> None:
    with pytest.raises(SettingsError) as caught:
        RedisCache(url, timeout=0.1)
    assert "hun" not in str(caught.value)
