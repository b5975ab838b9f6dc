"""What only Redis can get wrong: it dies, hangs, is slow, full, old, or somebody else's too."""

import asyncio
import logging
import random
import time
from collections.abc import AsyncIterator, Callable, Iterator

import numpy as np
import pytest
from fixtures.redis_server import RedisServer
from fixtures.slow_proxy import SlowProxy

from smallfirst.router.cache import key_prefix
from smallfirst.router.cache.base import Found, Place
from smallfirst.router.cache.redis import RedisCache
from smallfirst.router.errors import CacheUnavailable, SettingsError
from smallfirst.router.scoring.embedding import FloatArray

PREFIX = key_prefix("t", "")
PARTITION = f"{PREFIX}~p"

TIMEOUT = 0.2

# What a call may take on a busy machine that promises `TIMEOUT`: far less than a connection's wait and each of three
# commands' added up, where each had its own.
AT_MOST = 2.5 * TIMEOUT


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def shared(redis_server: RedisServer, clock: Clock) -> AsyncIterator[RedisCache]:
    store = RedisCache(redis_server.url, timeout=TIMEOUT, clock=clock)
    yield store
    await store.aclose()


@pytest.fixture
def broken(redis_server: RedisServer) -> Iterator[RedisServer]:
    """Redis, whole again after the test."""
    yield redis_server
    redis_server.stop()
    redis_server.start()


def vector(seed: int) -> FloatArray:
    raw = np.random.default_rng(seed).normal(size=256)
    return (raw / np.linalg.norm(raw)).astype(np.float32)


def at(seed: int, partition: str = PARTITION) -> Callable[[], Place]:
    return lambda: Place(partition, vector(seed))


async def timed(store: RedisCache, name: str = "none", seed: int = 0) -> tuple[Found, float]:
    """Look up; return what was found and the seconds it took."""
    loop = asyncio.get_running_loop()
    begun = loop.time()
    found = await store.find(PREFIX + name, at(seed))
    return found, loop.time() - begun


# --- it dies and hangs ---------------------------------------------------------------------------------------------


async def test_a_dead_redis_is_skipped_and_comes_back(
    shared: RedisCache, broken: RedisServer, clock: Clock
) -> None:
    await shared.set(PREFIX + "a", b"1", ttl=60)
    broken.stop()
    assert [await shared.find(PREFIX + "a") for _ in range(5)] == [Found()] * 5
    stats = shared.stats()
    assert (stats.errors, stats.skipped, stats.healthy) == (1, 4, False)
    broken.start()
    assert await shared.find(PREFIX + "a") == Found()
    clock.now += 1.1
    await shared.set(PREFIX + "a", b"2", ttl=60, place=at(0)())
    assert await shared.find(PREFIX + "a") == Found(b"2")
    assert len((await shared.find(PREFIX + "b", at(0))).nearest) == 1
    assert shared.stats().healthy


async def test_a_silent_redis_costs_one_wait_per_rest(
    shared: RedisCache, broken: RedisServer, clock: Clock
) -> None:
    broken.freeze()
    for _ in range(3):
        assert await shared.find("k") == Found()
    clock.now += 1.1
    for _ in range(3):
        assert await shared.find("k") == Found()
    broken.thaw()
    stats = shared.stats()
    assert (stats.errors, stats.skipped) == (2, 4)


async def test_a_burst_of_failures_counts_as_one(
    shared: RedisCache, broken: RedisServer, clock: Clock
) -> None:
    await asyncio.gather(*(shared.find("k") for _ in range(20)))
    broken.freeze()
    await asyncio.gather(*(shared.find("k") for _ in range(20)))
    broken.thaw()
    clock.now += 1.1
    await shared.find("k")
    assert shared.stats().healthy


async def test_no_look_up_fails_or_waits_longer_while_redis_dies_under_load(
    shared: RedisCache, broken: RedisServer, clock: Clock
) -> None:
    for seed in range(20):
        await shared.set(f"{PREFIX}{seed}", b"1", ttl=60, place=at(seed)())
    results: list[tuple[Found, float]] = []

    async def load(seconds: float) -> None:
        end = asyncio.get_running_loop().time() + seconds
        while asyncio.get_running_loop().time() < end:
            results.append(await timed(shared, seed=random.randrange(20)))
            await asyncio.sleep(0.002)

    users = [asyncio.create_task(load(0.6)) for _ in range(8)]
    await asyncio.sleep(0.3)
    broken.stop()
    await asyncio.gather(*users)
    assert any(found.nearest for found, _ in results)
    assert max(seconds for _, seconds in results) < AT_MOST
    assert not shared.stats().healthy
    await asyncio.to_thread(broken.start)
    clock.now += 1.1
    await shared.set(PREFIX + "0", b"2", ttl=60, place=at(0)())
    assert [n.value for n in (await timed(shared))[0].nearest] == [b"2"]
    assert shared.stats().healthy


async def test_waiting_for_a_connection_and_for_all_commands_takes_the_timeout_once(
    shared: RedisCache, broken: RedisServer
) -> None:
    await shared.set(PREFIX + "a", b"1", ttl=60, place=at(0)())
    broken.freeze()
    results = await asyncio.gather(*(timed(shared) for _ in range(200)))
    broken.thaw()
    assert {found for found, _ in results} == {Found()}
    assert max(seconds for _, seconds in results) < AT_MOST


async def test_a_redis_that_answers_late_costs_the_timeout_and_no_more(
    redis_server: RedisServer, clock: Clock
) -> None:
    async with SlowProxy(redis_server.port) as proxy:
        store = RedisCache(f"redis://127.0.0.1:{proxy.port}/0", timeout=TIMEOUT, clock=clock)
        await store.set(PREFIX + "a", b"1", ttl=60, place=at(0)())
        proxy.delay = 2 * TIMEOUT
        found, seconds = await timed(store)
        assert (found, seconds < AT_MOST) == (Found(), True)
        assert not store.stats().healthy
        begun = asyncio.get_running_loop().time()
        clock.now += 1.1
        assert not await store.claim(PREFIX + "!c", ttl=60)
        assert asyncio.get_running_loop().time() - begun < AT_MOST
        proxy.delay = 0.0
        clock.now += 2.1
        assert (await timed(store, "a"))[0] == Found(b"1")
        assert (await timed(store))[0].nearest[0].value == b"1"
        await store.aclose()


async def test_commands_that_are_each_in_time_but_not_all_together_are_cut_off(
    redis_server: RedisServer,
) -> None:
    async with SlowProxy(redis_server.port) as proxy:
        store = RedisCache(f"redis://127.0.0.1:{proxy.port}/0", timeout=TIMEOUT)
        await store.set(PREFIX + "a", b"1", ttl=60, place=at(0)())
        proxy.delay = 0.6 * TIMEOUT
        found, seconds = await timed(store)
        assert (found, seconds < AT_MOST) == (Found(), True)
        # That says nothing about Redis: what is exact is found all the same.
        proxy.delay = 0.0
        assert (await timed(store, "a"))[0] == Found(b"1")
        await store.aclose()


async def test_searches_that_are_too_slow_rest_by_themselves(redis_server: RedisServer, clock: Clock) -> None:
    async with SlowProxy(redis_server.port) as proxy:
        store = RedisCache(f"redis://127.0.0.1:{proxy.port}/0", timeout=TIMEOUT, clock=clock)
        await store.set(PREFIX + "a", b"1", ttl=60, place=at(0)())
        proxy.delay = 0.6 * TIMEOUT
        assert (await timed(store))[0] == Found()
        proxy.delay = 0.0
        assert (await timed(store))[0] == Found()
        assert (await timed(store, "a"))[0] == Found(b"1")
        clock.now += 1.1
        assert len((await timed(store))[0].nearest) == 1
        await store.aclose()


async def test_a_place_that_takes_all_the_time_says_nothing_about_redis(redis_server: RedisServer) -> None:
    store = RedisCache(redis_server.url, timeout=TIMEOUT)
    await store.set(PREFIX + "a", b"1", ttl=60, place=at(0)())

    def slow() -> Place:
        time.sleep(TIMEOUT)
        return at(0)()

    assert await store.find(PREFIX + "none", slow) == Found()
    assert (await timed(store))[0].nearest[0].value == b"1"
    assert (store.stats().errors, store.stats().skipped) == (0, 1)
    await store.aclose()


async def test_a_look_up_given_up_half_way_does_not_mix_up_answers(
    redis_server: RedisServer,
) -> None:
    store = RedisCache(redis_server.url, timeout=1)
    for name in range(50):
        await store.set(f"{PREFIX}{name}", str(name).encode(), ttl=60)
    for _ in range(20):
        tasks = [asyncio.create_task(store.find(f"{PREFIX}{name}")) for name in range(50)]
        await asyncio.sleep(0.002)
        for task in tasks[::2]:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    found = await asyncio.gather(*(store.find(f"{PREFIX}{name}") for name in range(50)))
    assert [one.value for one in found] == [str(name).encode() for name in range(50)]
    await store.aclose()


# --- it is full ----------------------------------------------------------------------------------------------------


async def test_a_full_redis_is_a_failed_write_and_can_still_be_read(
    shared: RedisCache, broken: RedisServer
) -> None:
    await shared.set(PREFIX + "old", b"1", ttl=60, place=at(0)())
    with broken.client() as client:
        client.config_set("maxmemory", 1)
    await shared.set(PREFIX + "new", bytes(1000), ttl=60, place=at(1)())
    assert not await shared.claim(PREFIX + "!c", ttl=60)
    assert shared.stats().errors == 2
    assert await shared.find(PREFIX + "old") == Found(b"1")
    assert len((await shared.find(PREFIX + "none", at(0))).nearest) == 1
    assert shared.stats().healthy
    with broken.client() as client:
        client.config_set("maxmemory", 0)
    await shared.set(PREFIX + "new", b"2", ttl=60, place=at(1)())
    assert await shared.find(PREFIX + "new") == Found(b"2")


async def test_entries_that_redis_pushed_out_are_no_longer_found_by_their_place(
    shared: RedisCache, redis_server: RedisServer
) -> None:
    for name in ("a", "b"):
        await shared.set(PREFIX + name, b"1", ttl=60, place=at(0)())
    with redis_server.client() as client:
        client.delete(PREFIX + "a")
        assert [n.key for n in (await shared.find(PREFIX + "none", at(0))).nearest] == [PREFIX + "b"]
        assert client.vset().vcard(PARTITION) == 1


# --- it is old -----------------------------------------------------------------------------------------------------


async def test_a_redis_without_vector_sets_answers_equal_requests_only_and_says_so_once(
    redis_server: RedisServer, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "smallfirst.cache")
    async with SlowProxy(redis_server.port, hidden=(b"VADD", b"VSIM")) as proxy:
        store = RedisCache(f"redis://127.0.0.1:{proxy.port}/0", timeout=TIMEOUT, clock=clock)
        await store.start()
        await store.start()
        await store.set(PREFIX + "a", b"1", ttl=60, place=at(0)())
        assert not store.finds_similar
        assert await store.find(PREFIX + "none", at(0)) == Found()
        assert await store.find(PREFIX + "a", at(0)) == Found(b"1")
        await store.remove(PREFIX + "a")
        assert store.stats().errors == 0
        assert [record.message for record in caplog.records] == [
            "the cache answers equal requests only, not similar ones: redis is there, but it has no vector sets, which "
            "come with Redis 8; use Redis 8 or later, or leave out cache.url to keep the cache in this process"
        ]
        await store.aclose()


async def test_a_redis_that_comes_back_newer_is_asked_again(
    redis_server: RedisServer, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    async with SlowProxy(redis_server.port, hidden=(b"VADD", b"VSIM")) as proxy:
        store = RedisCache(f"redis://127.0.0.1:{proxy.port}/0", timeout=TIMEOUT, clock=clock)
        await store.set(PREFIX + "a", b"1", ttl=60, place=at(0)())
        assert not store.finds_similar
        proxy.delay = 2 * TIMEOUT
        await store.find(PREFIX + "none", at(0))
        proxy.delay, proxy.hidden = 0.0, ()
        clock.now += 1.1
        await store.set(PREFIX + "a", b"1", ttl=60, place=at(0)())
        assert store.finds_similar
        assert len((await store.find(PREFIX + "none", at(0))).nearest) == 1
        await store.aclose()


async def test_a_user_who_may_not_search_gets_equal_requests_answered(
    redis_server: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    with redis_server.client() as client:
        client.acl_setuser("few", enabled=True, passwords=["+x"], keys=["*"], commands=["+@all", "-vadd"])
    store = RedisCache(f"redis://few:x@127.0.0.1:{redis_server.port}/0", timeout=TIMEOUT)
    await store.set(PREFIX + "a", b"1", ttl=60, place=at(0)())
    assert await store.find(PREFIX + "a") == Found(b"1")
    assert not store.finds_similar
    assert "may not add to them" in caplog.text
    await store.aclose()


async def test_starting_without_redis_is_no_failure(clock: Clock) -> None:
    store = RedisCache("redis://127.0.0.1:1/0", timeout=TIMEOUT, clock=clock)
    await store.start()
    assert store.finds_similar
    assert await store.find(PREFIX + "a", at(0)) == Found()
    await store.aclose()


# --- what it keeps -------------------------------------------------------------------------------------------------


async def test_every_key_has_a_time_to_live_and_a_tenant_after_all_kinds_of_calls(
    shared: RedisCache, redis_server: RedisServer
) -> None:
    dice = random.Random(0)
    tenants = [key_prefix(tenant, namespace) for tenant in ("t", "u") for namespace in ("", "n")]
    for _ in range(600):
        prefix = dice.choice(tenants)
        key, seed, partition = (
            f"{prefix}{dice.randrange(30)}",
            dice.randrange(40),
            f"{prefix}~{dice.randrange(4)}",
        )
        where = Place(partition, vector(seed))
        ttl = dice.choice([0.01, 5, 60, 1000])
        match dice.randrange(8):
            case 0 | 1 | 2:
                await shared.set(key, b"v", ttl=ttl, place=where)
            case 3:
                await shared.set(key, b"v", ttl=ttl)
            case 4:
                await shared.claim(f"{prefix}!{dice.randrange(9)}", ttl=ttl)
            case 5:
                await shared.remove(key)
            case 6:
                found = await shared.find(key, at(seed, partition))
                assert all(n.key.startswith(prefix) for n in found.nearest)
            case _:
                if dice.random() < 0.05:
                    await shared.delete(dice.choice("tu"), dice.choice([None, "n"]))
    assert shared.stats().errors == 0
    with redis_server.client() as client:
        keys = list(client.scan_iter())
        assert len(keys) > 20
        assert [key for key in keys if client.ttl(key) == -1] == []
        assert [key for key in keys if not key.startswith(tuple(p.encode() for p in tenants))] == []


async def test_a_partition_lives_as_long_as_its_longest_entry(
    shared: RedisCache, redis_server: RedisServer
) -> None:
    with redis_server.client() as client:
        lives = []
        for name, ttl in (("a", 50), ("b", 500), ("c", 5)):
            await shared.set(PREFIX + name, b"1", ttl=ttl, place=at(0)())
            lives.append(client.ttl(PARTITION))
    assert lives == [pytest.approx(51, abs=1), pytest.approx(501, abs=1), pytest.approx(501, abs=1)]


async def test_places_of_entries_that_are_over_do_not_pile_up(
    shared: RedisCache, redis_server: RedisServer
) -> None:
    for seed in range(200):
        await shared.set(f"{PREFIX}{seed}", b"1", ttl=0.02 if seed else 600, place=at(seed)())
    await asyncio.sleep(0.05)
    for seed in range(200, 250):
        await shared.set(f"{PREFIX}{seed}", b"1", ttl=600, place=at(seed)())
    with redis_server.client() as client:
        assert client.vset().vcard(PARTITION) < 80


async def test_a_partition_is_bounded_and_those_go_that_would_expire_first(redis_server: RedisServer) -> None:
    store = RedisCache(redis_server.url, timeout=1, max_partition=50)
    for seed in range(100):
        await store.set(f"{PREFIX}{seed}", b"1", ttl=60 + 10 * seed, place=at(seed)())
    with redis_server.client() as client:
        assert client.vset().vcard(PARTITION) == 50
    kept = {n.key for n in (await store.find(PREFIX + "none", at(0), count=50)).nearest}
    assert len(kept & {f"{PREFIX}{seed}" for seed in range(50)}) < 15
    # They are found by their keys all the same.
    assert await store.find(PREFIX + "0") == Found(b"1")
    await store.aclose()


async def test_a_damaged_entry_is_its_readers_business(shared: RedisCache, redis_server: RedisServer) -> None:
    await shared.set(PREFIX + "a", b"1", ttl=60, place=at(0)())
    with redis_server.client() as client:
        client.set(PREFIX + "a", b"\xff\x00garbage", ex=60)
    assert await shared.find(PREFIX + "a") == Found(b"")
    assert await shared.find(PREFIX + "none", at(0)) == Found()


async def test_deleting_says_when_redis_does_not_answer(shared: RedisCache, broken: RedisServer) -> None:

    broken.stop()
    with pytest.raises(CacheUnavailable):
        await shared.delete("t")


# --- its address ---------------------------------------------------------------------------------------------------


async def test_the_password_is_not_shown() -> None:
    assert "hunter2" not in repr(RedisCache("redis://:hunter2@127.0.0.1:1/0", timeout=0.1))


@pytest.mark.parametrize(
    "url", ["redis://:hun/ter2@127.0.0.1:1/0", "redis://:hunter2@[::1/0", "redis://:hunter2@h/0?unknown=1"]
)
def test_a_url_that_is_not_understood_is_refused_without_its_password(url: str) -> None:
    with pytest.raises(SettingsError) as caught:
        RedisCache(url, timeout=0.1)
    assert "hun" not in str(caught.value)
