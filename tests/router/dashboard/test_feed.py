"""One computation for all who look, only while somebody looks."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import pytest

from smallfirst.router.dashboard import Feed, TooManyViewers
from smallfirst.router.dashboard import feed as module


class Ledger:
    """Counts what is asked of it."""

    def __init__(self) -> None:
        self.made: list[str] = []
        self.changes = 0
        self.forgotten = 0
        self.now = 0.0
        self.go_on = threading.Event()
        self.go_on.set()

    def make(self, key: str) -> str:
        self.made.append(key)
        assert self.go_on.wait(10)
        return f"{key} {self.changes}"

    def forget(self) -> None:
        self.forgotten += 1

    def feed(self, **fields: Any) -> Feed[str, str]:
        clock = lambda: self.now  # noqa: E731
        return Feed(self.make, stamp=lambda: self.changes, idle=self.forget, **{"clock": clock, **fields})


async def test_all_who_look_at_once_share_one_value() -> None:
    ledger = Ledger()
    ledger.go_on.clear()
    feed = ledger.feed()
    looks = [asyncio.create_task(feed.now("a")) for _ in range(20)]
    await asyncio.sleep(0.02)
    ledger.go_on.set()
    assert await asyncio.gather(*looks) == ["a 0"] * 20
    assert ledger.made == ["a"]


async def test_one_who_leaves_does_not_take_the_value_from_the_others() -> None:
    ledger = Ledger()
    ledger.go_on.clear()
    feed = ledger.feed()
    leaving, staying = (asyncio.create_task(feed.now("a")) for _ in range(2))
    await asyncio.sleep(0.02)
    leaving.cancel()
    await asyncio.sleep(0.02)
    ledger.go_on.set()
    assert await staying == "a 0"
    assert leaving.cancelled()


async def test_it_is_made_again_after_a_change_and_not_before_its_pace() -> None:
    ledger = Ledger()
    feed = ledger.feed(pace=2.0)
    assert await feed.now("a") == "a 0"
    ledger.changes = 1
    ledger.now = 1.9
    assert await feed.now("a") == "a 0"
    ledger.now = 2.1
    assert await feed.now("a") == "a 1"
    ledger.now = 5.0
    assert await feed.now("a") == "a 1"
    assert len(ledger.made) == 2
    ledger.now = 2.1 + module.ANEW
    await feed.now("a")
    assert len(ledger.made) == 3


async def test_what_takes_long_is_made_more_rarely() -> None:
    ledger = Ledger()

    def slow(key: str) -> str:
        ledger.now += 3.0
        return ledger.make(key)

    feed = Feed(slow, stamp=lambda: ledger.changes, clock=lambda: ledger.now)
    await feed.now("a")
    ledger.changes = 1
    ledger.now += 25
    await feed.now("a")
    assert len(ledger.made) == 1
    ledger.now += 10
    await feed.now("a")
    assert len(ledger.made) == 2


async def test_a_follower_gets_what_changed_and_an_end() -> None:
    ledger = Ledger()
    feed = Feed(ledger.make, stamp=lambda: ledger.changes, pace=0.02)
    got: list[str | None] = []
    async for value in feed.follow("a", 0.5):
        got.append(value)
        if len(got) == 3:
            ledger.changes = 1
    assert got[:3] == ["a 0", None, None]
    assert [value for value in got if value] == ["a 0", "a 1"]


async def test_places_are_bounded_and_given_back() -> None:
    feed = Ledger().feed(most=2)
    feed.enter()
    feed.enter()
    with pytest.raises(TooManyViewers) as refused:
        feed.enter()
    assert (refused.value.status, refused.value.retry_after, feed.viewers) == (503, 30.0, 2)
    feed.leave()
    feed.enter()


async def test_an_error_reaches_all_who_wait_and_the_next_look_tries_again() -> None:
    ledger = Ledger()

    def broken(key: str) -> str:
        ledger.make(key)
        raise ValueError("broken")

    feed = Feed(broken, stamp=lambda: 0)
    for _ in range(2):
        found = await asyncio.gather(feed.now("a"), feed.now("a"), return_exceptions=True)
        assert [type(error) for error in found] == [ValueError, ValueError]
    assert len(ledger.made) == 2


async def test_when_nobody_looks_the_memory_is_given_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "IDLE", 0.05)
    ledger = Ledger()
    feed = ledger.feed()
    await feed.now("a")
    await asyncio.sleep(0.2)
    assert ledger.forgotten == 1
    await feed.now("a")
    assert ledger.made == ["a", "a"]


async def test_what_is_kept_is_bounded() -> None:
    ledger = Ledger()
    feed = ledger.feed()
    for at in range(module.MOST_KEPT + 20):
        ledger.now += 0.001
        await feed.now(f"k{at}")
    await feed.now(f"k{module.MOST_KEPT + 19}")
    assert len(ledger.made) == module.MOST_KEPT + 20
    await feed.now("k0")
    assert ledger.made[-1] == "k0"
