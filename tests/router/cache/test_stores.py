"""One suite for both stores: the one in this process is the twin of the one in Redis."""

import asyncio
from collections.abc import AsyncIterator, Callable

import numpy as np
import pytest

from smallfirst.router.cache import Cache, MemoryCache, key_prefix, open_cache
from smallfirst.router.cache.base import Found, Place
from smallfirst.router.cache.redis import RedisCache
from smallfirst.router.errors import SettingsError
from smallfirst.router.scoring.embedding import FloatArray
from smallfirst.router.settings import CacheSettings


@pytest.fixture(params=["memory", "redis"])
async def cache(request: pytest.FixtureRequest) -> AsyncIterator[Cache]:
    store: Cache
    if request.param == "redis":
        store = RedisCache(request.getfixturevalue("redis_server").url, timeout=1)
    else:
        store = MemoryCache(10_000_000)
    await store.start()
    yield store
    await store.aclose()


def key(tenant: str, name: str, namespace: str = "") -> str:
    return key_prefix(tenant, namespace) + name


def vector(seed: int) -> FloatArray:
    raw = np.random.default_rng(seed).normal(size=256)
    rows: FloatArray = (raw / np.linalg.norm(raw)).astype(np.float32)
    return rows


def between(one: FloatArray, other: FloatArray, share: float) -> FloatArray:
    """Return the direction that lies this share of the way from one to another."""
    raw = (1 - share) * one + share * other
    rows: FloatArray = (raw / np.linalg.norm(raw)).astype(np.float32)
    return rows


def place(at: FloatArray, *, tenant: str = "t", name: str = "~p", namespace: str = "") -> Place:
    return Place(key(tenant, name, namespace), at)


def asking(place: Place | None) -> Callable[[], Place | None]:
    return lambda: place


async def near(cache: Cache, where: Place, *, count: int = 8) -> list[str]:
    """Return the last parts of the keys found at a place, the nearest first."""
    found = await cache.find(key("t", "none"), asking(where), count=count)
    assert found.value is None
    return [neighbour.key.rpartition(":")[2] for neighbour in found.nearest]


# --- equal requests ---------------------------------------------------------------------------------------------


async def test_what_was_set_is_found(cache: Cache) -> None:
    await cache.set(key("t", "a"), b"\x00val\nue", ttl=60)
    assert await cache.find(key("t", "a")) == Found(b"\x00val\nue")
    assert await cache.find(key("t", "b")) == Found()
    stats = cache.stats()
    assert (stats.hits, stats.misses, stats.errors, stats.healthy) == (1, 1, 0, True)


async def test_an_entry_can_be_replaced(cache: Cache) -> None:
    await cache.set(key("t", "a"), b"1", ttl=60)
    await cache.set(key("t", "a"), b"2", ttl=60)
    assert await cache.find(key("t", "a")) == Found(b"2")


async def test_an_entry_is_forgotten_after_its_time(cache: Cache) -> None:
    await cache.set(key("t", "a"), b"1", ttl=0.02)
    await asyncio.sleep(0.05)
    assert await cache.find(key("t", "a")) == Found()


async def test_a_place_is_not_asked_for_where_there_is_an_equal_request(cache: Cache) -> None:
    await cache.set(key("t", "a"), b"1", ttl=60)

    def refuse() -> Place:
        raise AssertionError("a place costs time")

    assert await cache.find(key("t", "a"), refuse) == Found(b"1")


# --- similar ones -------------------------------------------------------------------------------------------------


async def test_the_nearest_entries_come_with_their_cosines_the_most_similar_first(cache: Cache) -> None:
    at, away = vector(0), vector(1)
    for name, share in (("far", 0.6), ("near", 0.2), ("nearer", 0.1)):
        await cache.set(key("t", name), name.encode(), ttl=60, place=place(between(at, away, share)))
    found = await cache.find(key("t", "none"), asking(place(at)))
    assert [(n.key, n.value) for n in found.nearest] == [
        (key("t", name), name.encode()) for name in ("nearer", "near", "far")
    ]
    assert [n.similarity for n in found.nearest] == pytest.approx(
        [float(at @ between(at, away, share)) for share in (0.1, 0.2, 0.6)], abs=0.005
    )
    assert await near(cache, place(at), count=1) == ["nearer"]


async def test_without_a_place_nothing_similar_is_found(cache: Cache) -> None:
    await cache.set(key("t", "a"), b"1", ttl=60, place=place(vector(0)))
    await cache.set(key("t", "b"), b"1", ttl=60)
    assert await cache.find(key("t", "none")) == Found()
    assert await cache.find(key("t", "none"), asking(None)) == Found()
    assert await near(cache, place(vector(0))) == ["a"]


async def test_partitions_are_apart(cache: Cache) -> None:
    at = vector(0)
    await cache.set(key("t", "a"), b"1", ttl=60, place=place(at, name="~p"))
    assert await near(cache, place(at, name="~q")) == []


async def test_a_tenant_never_finds_anothers_entries(cache: Cache) -> None:
    at = vector(0)
    for tenant, namespace in (("t", ""), ("u", ""), ("t", "n")):
        await cache.set(
            key(tenant, "same", namespace),
            f"{tenant}/{namespace}".encode(),
            ttl=60,
            place=place(at, tenant=tenant, namespace=namespace),
        )
    for tenant, namespace in (("t", ""), ("u", ""), ("t", "n")):
        found = await cache.find(
            key(tenant, "none", namespace), asking(place(at, tenant=tenant, namespace=namespace))
        )
        assert [n.value for n in found.nearest] == [f"{tenant}/{namespace}".encode()]


@pytest.mark.parametrize("other", [place(vector(0), tenant="u"), place(vector(0), namespace="n")])
async def test_an_entry_cannot_be_put_among_anothers(cache: Cache, other: Place) -> None:
    with pytest.raises(ValueError, match="tenant and namespace"):
        await cache.set(key("t", "a"), b"1", ttl=60, place=other)
    assert await cache.find(key("t", "a")) == Found()


async def test_an_entry_set_again_elsewhere_moves(cache: Cache) -> None:
    at, away = vector(0), vector(1)
    await cache.set(key("t", "a"), b"1", ttl=60, place=place(at, name="~p"))
    await cache.set(key("t", "a"), b"2", ttl=60, place=place(away, name="~q"))
    assert await near(cache, place(at, name="~p")) == []
    assert await near(cache, place(away, name="~q")) == ["a"]
    await cache.set(key("t", "a"), b"3", ttl=60)
    assert await near(cache, place(away, name="~q")) == []
    assert await cache.find(key("t", "a")) == Found(b"3")


async def test_an_entry_set_again_in_its_partition_has_the_new_vector(cache: Cache) -> None:
    for seed in (0, 1):
        await cache.set(key("t", "a"), b"1", ttl=60, place=place(vector(seed)))
    found = await cache.find(key("t", "none"), asking(place(vector(1))))
    assert [n.similarity for n in found.nearest] == pytest.approx([1.0], abs=0.005)


async def test_a_similar_entry_is_forgotten_after_its_time(cache: Cache) -> None:
    at, away = vector(0), vector(1)
    for name in range(30):
        await cache.set(key("t", f"short{name}"), b"1", ttl=0.02, place=place(between(at, away, 0.1)))
    await cache.set(key("t", "long"), b"1", ttl=60, place=place(between(at, away, 0.4)))
    await asyncio.sleep(0.05)
    # A store may need more than one look-up where very many are over; it gets there.
    found = [await near(cache, place(at)) for _ in range(3)]
    assert all(names in ([], ["long"]) for names in found)
    assert found[-1] == ["long"]


async def test_a_vector_without_a_direction_has_no_place(cache: Cache) -> None:
    nowhere = np.zeros(256, np.float32)
    await cache.set(key("t", "a"), b"1", ttl=60, place=place(nowhere))
    await cache.set(key("t", "b"), b"1", ttl=60, place=place(vector(0)))
    assert await cache.find(key("t", "a")) == Found(b"1")
    assert await near(cache, place(vector(0))) == ["b"]
    assert await near(cache, place(nowhere)) == []


async def test_many_entries_of_a_partition_are_found_by_their_place(cache: Cache) -> None:
    for seed in range(300):
        await cache.set(key("t", f"e{seed}"), b"1", ttl=60, place=place(vector(seed)))
    found = [
        (await near(cache, place(between(vector(seed), vector(1000), 0.2))))[0] for seed in range(0, 300, 10)
    ]
    assert found == [f"e{seed}" for seed in range(0, 300, 10)]


# --- forgetting ---------------------------------------------------------------------------------------------------


async def test_a_removed_entry_is_gone_with_its_place(cache: Cache) -> None:
    for name in ("a", "b"):
        await cache.set(key("t", name), b"1", ttl=60, place=place(vector(0)))
    await cache.remove(key("t", "a"))
    await cache.remove(key("t", "nothing"))
    assert await cache.find(key("t", "a")) == Found()
    assert await near(cache, place(vector(0))) == ["b"]


@pytest.mark.parametrize("tenant", ["a*", "[ab]", "a\\", "a:b", "ü", "a?"])
async def test_deleting_a_tenant_leaves_the_others(cache: Cache, tenant: str) -> None:
    others = ["a", "ab", "a:", "b", "a*x"]
    for name in (tenant, *others):
        await cache.set(key(name, "k"), b"1", ttl=60, place=place(vector(0), tenant=name))
    assert await cache.delete(tenant) == 1
    assert await cache.find(key(tenant, "k")) == Found()
    for name, value in [(tenant, []), *((other, [b"1"]) for other in others)]:
        found = await cache.find(key(name, "none"), asking(place(vector(0), tenant=name)))
        assert [n.value for n in found.nearest] == value
    assert [(await cache.find(key(name, "k"))).value for name in others] == [b"1"] * len(others)


async def test_deleting_a_namespace_leaves_the_others(cache: Cache) -> None:
    for namespace in ("", "x", "y"):
        await cache.set(key("t", "k", namespace), b"1", ttl=60)
    assert await cache.delete("t", "x") == 1
    assert [(await cache.find(key("t", "k", n))).value for n in ("", "x", "y")] == [b"1", None, b"1"]


async def test_deleting_counts_entries_and_neither_partitions_nor_claims(cache: Cache) -> None:
    for name in ("a", "b"):
        await cache.set(key("t", name), b"1", ttl=60, place=place(vector(0), name=f"~{name}"))
    await cache.claim(key("t", "!c"), ttl=60)
    assert await cache.delete("t") == 2
    assert await cache.claim(key("t", "!c"), ttl=60)


async def test_a_partition_deleted_can_be_filled_again(cache: Cache) -> None:
    for name in ("a", "b"):
        await cache.set(key("t", name), b"1", ttl=60, place=place(vector(0)))
        assert await near(cache, place(vector(0))) == [name]
        await cache.delete("t")


# --- claims -------------------------------------------------------------------------------------------------------


async def test_only_the_first_claim_holds(cache: Cache) -> None:
    assert [await cache.claim(key("t", "!c"), ttl=60) for _ in range(3)] == [True, False, False]
    assert await cache.claim(key("t", "!d"), ttl=60)


async def test_of_claims_at_once_one_holds(cache: Cache) -> None:
    claims = await asyncio.gather(*(cache.claim(key("t", "!c"), ttl=60) for _ in range(20)))
    assert sum(claims) == 1


async def test_a_claim_is_over_after_its_time(cache: Cache) -> None:
    assert await cache.claim(key("t", "!c"), ttl=0.02)
    await asyncio.sleep(0.05)
    assert await cache.claim(key("t", "!c"), ttl=60)


# --- which store ----------------------------------------------------------------------------------------------------


async def test_both_stores_find_similar_requests(cache: Cache) -> None:
    assert cache.finds_similar


async def test_looking_up_200_at_once_is_no_failure(cache: Cache) -> None:
    for seed in range(20):
        await cache.set(key("t", f"e{seed}"), b"1", ttl=60, place=place(vector(seed)))
    found = await asyncio.gather(
        *(cache.find(key("t", "none"), asking(place(vector(at % 20)))) for at in range(200))
    )
    assert [one.nearest[0].key for one in found] == [key("t", f"e{at % 20}") for at in range(200)]
    assert (cache.stats().errors, cache.stats().skipped) == (0, 0)


def test_the_settings_choose_the_store() -> None:
    assert open_cache(CacheSettings(enabled=False)) is None
    memory = open_cache(CacheSettings())
    redis = open_cache(CacheSettings.model_validate({"url": "redis://127.0.0.1:1/0"}))
    assert memory is not None
    assert redis is not None
    assert (memory.name, redis.name) == ("memory", "redis")
    with pytest.raises(SettingsError, match=r"cache\.url"):
        open_cache(CacheSettings.model_validate({"url": "http://127.0.0.1"}))
