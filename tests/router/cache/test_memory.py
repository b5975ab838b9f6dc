"""What only the store in this process can get wrong: its bound, and what it holds on to."""

import tracemalloc

import numpy as np
import pytest

from smallfirst.router.cache import MemoryCache, key_prefix
from smallfirst.router.cache.base import Found, Place
from smallfirst.router.scoring.embedding import FloatArray

PREFIX = key_prefix("t", "")


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


def vectors(count: int) -> FloatArray:
    raw = np.random.default_rng(count).normal(size=(count, 256))
    rows: FloatArray = (raw / np.linalg.norm(raw, axis=1, keepdims=True)).astype(np.float32)
    return rows


async def test_memory_is_bounded_and_the_least_recently_used_go_first() -> None:
    cache = MemoryCache(20_000)
    for at in range(15):
        await cache.set(f"k{at}", bytes(1500), ttl=60)
        await cache.find("k0")
    stats = cache.stats()
    assert stats.bytes is not None
    assert stats.bytes <= 20_000
    assert (await cache.find("k0")).value is not None
    assert (await cache.find("k1")).value is None


async def test_one_entry_never_takes_the_whole_memory() -> None:
    cache = MemoryCache(10_000)
    await cache.set("small", b"1", ttl=60)
    await cache.set("large", bytes(5000), ttl=60)
    assert [(await cache.find(key)).value for key in ("small", "large")] == [b"1", None]


async def test_an_entry_that_grows_too_large_is_forgotten_not_kept_as_it_was() -> None:
    cache = MemoryCache(10_000)
    await cache.set("k", b"1", ttl=60)
    await cache.set("k", bytes(5000), ttl=60)
    assert await cache.find("k") == Found()


async def test_what_is_pushed_out_is_not_found_by_its_place_either() -> None:
    cache = MemoryCache(40_000)
    rows = vectors(100)
    for at, row in enumerate(rows):
        await cache.set(f"{PREFIX}{at}", b"1", ttl=60, place=Place(f"{PREFIX}~p", row))
    entries = cache.stats().entries
    assert entries is not None
    assert 0 < entries < 100
    found = await cache.find("none", lambda: Place(f"{PREFIX}~p", rows[0]), count=100)
    assert {n.key for n in found.nearest} == {f"{PREFIX}{at}" for at in range(100 - entries, 100)}


async def test_an_entry_that_is_found_by_its_place_counts_as_used() -> None:
    cache = MemoryCache(40_000)
    rows = vectors(100)
    for at, row in enumerate(rows):
        await cache.set(f"{PREFIX}{at}", b"1", ttl=60, place=Place(f"{PREFIX}~{at}", row))
        found = await cache.find("none", lambda: Place(f"{PREFIX}~0", rows[0]))
        assert [n.key for n in found.nearest] == [f"{PREFIX}0"]


async def test_many_that_are_over_do_not_hide_one_that_is_not() -> None:
    clock = Clock()
    cache = MemoryCache(10_000_000, clock=clock)
    rows = vectors(101)
    near = rows[:1] + 0.01 * rows
    near /= np.linalg.norm(near, axis=1, keepdims=True)
    for at in range(100):
        await cache.set(f"{PREFIX}{at}", b"1", ttl=10, place=Place(f"{PREFIX}~p", near[at]))
    await cache.set(f"{PREFIX}100", b"1", ttl=60, place=Place(f"{PREFIX}~p", rows[100]))
    clock.now += 30
    found = await cache.find("none", lambda: Place(f"{PREFIX}~p", near[0]))
    assert [n.key for n in found.nearest] == [f"{PREFIX}100"]
    assert cache.stats().entries == 1


@pytest.mark.parametrize("partitions", [1, 300])
async def test_nothing_is_held_for_entries_that_are_gone(partitions: int) -> None:
    clock = Clock()
    cache = MemoryCache(10_000_000, clock=clock)
    rows = vectors(300)
    for at, row in enumerate(rows):
        where = Place(f"{PREFIX}~{at % partitions}", row)
        await cache.set(f"{PREFIX}{at}", b"1", ttl=60, place=where)
        await cache.set(f"{PREFIX}{at}", b"2", ttl=60, place=where)
    for at in range(100):
        await cache.remove(f"{PREFIX}{at}")
    clock.now += 61
    for at in range(100, 200):
        assert await cache.find(f"{PREFIX}{at}") == Found()
    await cache.set("other", b"1", ttl=60)
    await cache.delete("t")
    await cache.remove("other")
    stats = cache.stats()
    assert (stats.entries, stats.bytes) == (0, 0)


@pytest.mark.parametrize("partitions", [1, 2000])
async def test_the_bytes_it_counts_are_those_it_takes(partitions: int) -> None:
    rows = vectors(2000)
    tracemalloc.start()
    cache = MemoryCache(1_000_000_000)
    before, _ = tracemalloc.get_traced_memory()
    for at, row in enumerate(rows):
        where = Place(f"{PREFIX}~{at % partitions:040}", row.copy())
        await cache.set(f"{PREFIX}{at:040}", bytes(1000), ttl=60, place=where)
    taken = tracemalloc.get_traced_memory()[0] - before
    tracemalloc.stop()
    counted = cache.stats().bytes
    assert counted is not None
    assert 0.7 < taken / counted <= 1.0


async def test_memory_does_not_grow_with_use() -> None:
    cache = MemoryCache(300_000)
    rows = vectors(500)

    async def use(rounds: int) -> None:
        for at in range(rounds * 500):
            where = Place(f"{PREFIX}~{at % 7 if at % 2 else at}", rows[at % 500])
            await cache.set(f"{PREFIX}{at % 3000}", bytes(100), ttl=60, place=where)
            await cache.claim(f"{PREFIX}!{at}", ttl=60)

    tracemalloc.start()
    await use(4)
    before, _ = tracemalloc.get_traced_memory()
    await use(20)
    after, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert after - before < 100_000
