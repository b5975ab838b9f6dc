"""Limits and budgets, kept in this process and in a real Redis: both by the same rules."""

import asyncio
import math
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime
from typing import Any

import pytest
from fixtures.redis_server import RedisServer
from hypothesis import given, settings
from hypothesis import strategies as st

from smallfirst.router.access.limits import (
    NANO,
    NEVER,
    Demand,
    Limiter,
    Settlement,
    Verdict,
    demand_of,
    month_of,
    nano_of,
)
from smallfirst.router.access.local import LocalLimiter
from smallfirst.router.access.shared import RedisLimiter
from smallfirst.router.errors import LimitsUnavailable
from smallfirst.router.settings import KeyRules

NOON = datetime(2026, 11, 21, 12, tzinfo=UTC).timestamp()


class Clock:
    """Unix seconds that a test moves."""

    def __init__(self, now: float = NOON) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture(params=["local", "redis"])
async def limiter(request: pytest.FixtureRequest, clock: Clock) -> AsyncIterator[Limiter]:
    """The two that keep the same rules."""
    if request.param == "local":
        made: Limiter = LocalLimiter(clock)
    else:
        server: RedisServer = request.getfixturevalue("redis_server")
        made = RedisLimiter(server.url, timeout=5, clock=clock, own_clock=True)
    yield made
    await made.aclose()


class Asking:
    """One key that asks a limiter."""

    def __init__(self, limiter: Limiter, clock: Clock, **rules: Any) -> None:
        self.limiter = limiter
        self.clock = clock
        self.rules = KeyRules(**rules)
        self._count = 0

    async def ask(self, *, tokens: int = 0, usd: float = 0.0) -> tuple[Demand, Verdict]:
        self._count += 1
        demand = demand_of(
            "key_1",
            "acme",
            self.rules,
            lease=f"lease-{id(self)}-{self._count}",
            now=self.clock(),
            tokens=tokens,
            nano_usd=nano_of(usd),
        )
        return demand, await self.limiter.admit(demand)

    async def admitted(self, times: int, **amounts: Any) -> list[bool]:
        return [(await self.ask(**amounts))[1].admitted for _ in range(times)]

    async def settle(
        self, asked: tuple[Demand, Verdict], *, tokens: int | None = None, usd: float | None = None
    ) -> None:
        self.limiter.settle(Settlement(*asked, tokens, None if usd is None else nano_of(usd)))
        # What Redis is told in the background is there before the next request, whoever asks.
        await self.limiter.renew()


MakeAsking = Callable[..., Asking]


@pytest.fixture
def key(limiter: Limiter, clock: Clock) -> MakeAsking:
    return lambda **rules: Asking(limiter, clock, **rules)


# --- rates ----------------------------------------------------------------------------------------------------------


async def test_a_minutes_worth_of_requests_is_admitted_at_once_and_no_more(key: MakeAsking) -> None:
    asking = key(rpm=5)
    assert await asking.admitted(7) == [True] * 5 + [False] * 2


async def test_requests_come_free_one_by_one_as_time_goes_by(key: MakeAsking, clock: Clock) -> None:
    asking = key(rpm=6)
    await asking.admitted(6)
    clock.now += 10
    assert await asking.admitted(2) == [True, False]
    clock.now += 60
    assert await asking.admitted(7) == [True] * 6 + [False]


async def test_a_refusal_says_when_there_is_room_again_and_that_is_true(
    key: MakeAsking, clock: Clock
) -> None:
    asking = key(rpm=7)
    await asking.admitted(7)
    _, refused = await asking.ask()
    assert refused.refused_by == "requests"
    assert refused.retry_after == pytest.approx(60 / 7, abs=1e-4)
    clock.now += refused.retry_after - 0.01
    assert await asking.admitted(1) == [False]
    clock.now += 0.01
    assert await asking.admitted(1) == [True]


async def test_levels_say_what_is_left_and_when_all_of_it_is_there_again(key: MakeAsking) -> None:
    _, verdict = await key(rpm=10, tpm=1000).ask(tokens=250)
    requests, tokens = verdict.rates["requests"], verdict.rates["tokens"]
    assert (requests.limit, requests.remaining) == (10, 9)
    assert (tokens.limit, tokens.remaining) == (1000, 750)
    assert [requests.reset, tokens.reset] == pytest.approx([6.0, 15.0], abs=1e-3)


async def test_a_refused_request_takes_nothing_of_any_limit(key: MakeAsking) -> None:
    asking = key(rpm=10, tpm=100, requests=10, usd_per_day=1.0)
    _, refused = await asking.ask(tokens=101, usd=0.5)
    _, admitted = await asking.ask(tokens=1, usd=0.5)
    assert (refused.refused_by, refused.retry_after) == ("tokens", NEVER)
    assert admitted.rates["requests"].remaining == 9
    assert (admitted.budgets["requests"].remaining, admitted.spent) == (9, 0)


async def test_tokens_that_were_not_used_are_given_back(key: MakeAsking) -> None:
    asking = key(tpm=1000)
    asked = await asking.ask(tokens=800)
    assert await asking.admitted(1, tokens=300) == [False]
    await asking.settle(asked, tokens=100)
    assert await asking.admitted(2, tokens=450) == [True, True]


async def test_tokens_beyond_the_estimate_are_taken_from_those_who_come_after(
    key: MakeAsking, clock: Clock
) -> None:
    asking = key(tpm=600)
    asked = await asking.ask(tokens=10)
    await asking.settle(asked, tokens=1210)
    _, refused = await asking.ask(tokens=10)
    assert refused.retry_after == pytest.approx((1220 - 600) / 10, abs=0.01)
    clock.now += 62
    assert await asking.admitted(1, tokens=10) == [True]


async def test_what_came_free_by_itself_is_not_given_back_once_more(key: MakeAsking, clock: Clock) -> None:
    asking = key(tpm=600)
    asked = await asking.ask(tokens=600)
    clock.now += 60
    assert await asking.admitted(1, tokens=600) == [True]
    await asking.settle(asked, tokens=0)
    assert await asking.admitted(1, tokens=1) == [False]


@settings(deadline=None)
@given(gaps=st.lists(st.floats(0, 30), min_size=1, max_size=60), limit=st.integers(1, 20))
def test_no_stretch_of_time_has_more_than_the_stated_bound(gaps: list[float], limit: int) -> None:
    clock = Clock()
    limiter = LocalLimiter(clock)
    times: list[float] = []
    for at, gap in enumerate(gaps):
        clock.now += gap
        demand = demand_of("k", "t", KeyRules(rpm=limit), lease=str(at), now=clock(), tokens=0, nano_usd=0)
        if limiter.take(demand).admitted:
            times.append(clock.now)
    for first in range(len(times)):
        for last in range(first, len(times)):
            most = limit + limit * (times[last] - times[first]) / 60
            assert last - first + 1 <= math.floor(most + 1e-4)


# --- budgets --------------------------------------------------------------------------------------------------------


async def test_a_budget_of_requests_is_never_given_back(key: MakeAsking, clock: Clock) -> None:
    asking = key(requests=3)
    first = await asking.ask()
    await asking.settle(first, tokens=0, usd=0)
    assert await asking.admitted(3) == [True, True, False]
    clock.now += 40 * 86_400
    _, refused = await asking.ask()
    assert (refused.refused_by, refused.retry_after) == ("requests_total", NEVER)


async def test_a_days_budget_begins_anew_at_midnight_utc(key: MakeAsking, clock: Clock) -> None:
    asking = key(requests_per_day=2)
    clock.now = datetime(2026, 11, 21, 23, 59, 58, tzinfo=UTC).timestamp()
    assert await asking.admitted(2) == [True, True]
    _, refused = await asking.ask()
    assert refused.refused_by == "requests_day"
    assert refused.retry_after == pytest.approx(2.0)
    clock.now += 2
    assert await asking.admitted(3) == [True, True, False]


async def test_a_months_budget_outlasts_the_day_and_ends_with_the_month(
    key: MakeAsking, clock: Clock
) -> None:
    asking = key(usd_per_day=2.0, usd_per_month=3.0)
    clock.now = datetime(2028, 2, 28, 12, tzinfo=UTC).timestamp()
    assert await asking.admitted(2, usd=1.5) == [True, False]
    clock.now = datetime(2028, 2, 29, 12, tzinfo=UTC).timestamp()
    assert await asking.admitted(1, usd=1.5) == [True]
    _, refused = await asking.ask(usd=0.1)
    assert refused.refused_by == "usd_month"
    assert refused.retry_after == pytest.approx(43_200.0)
    clock.now += 43_200
    assert await asking.admitted(1, usd=1.5) == [True]


async def test_money_is_reserved_while_requests_are_under_way_and_settled_with_what_they_cost(
    key: MakeAsking,
) -> None:
    asking = key(usd_per_day=1.0)
    first = await asking.ask(usd=0.6)
    assert await asking.admitted(1, usd=0.6) == [False]
    await asking.settle(first, usd=0.1)
    _, second = await asking.ask(usd=0.6)
    assert second.admitted
    assert second.spent == pytest.approx(0.1)
    assert second.budgets["usd_day"].remaining == nano_of(0.3)


async def test_a_request_of_unknown_cost_counts_as_was_reserved(key: MakeAsking) -> None:
    asking = key(usd_per_day=1.0)
    await asking.settle(await asking.ask(usd=0.4), usd=None)
    _, after = await asking.ask(usd=0.1)
    assert after.spent == pytest.approx(0.4)


async def test_what_is_free_goes_through_a_spent_budget(key: MakeAsking) -> None:
    asking = key(usd_per_day=0.5)
    await asking.settle(await asking.ask(usd=0.5), usd=0.7)
    assert await asking.admitted(1, usd=0.01) == [False]
    assert await asking.admitted(1, usd=0.0) == [True]


async def test_a_request_is_settled_in_the_window_in_which_it_was_admitted(
    key: MakeAsking, clock: Clock
) -> None:
    asking = key(usd_per_day=1.0)
    clock.now = datetime(2026, 11, 21, 23, 59, 59, tzinfo=UTC).timestamp()
    late = await asking.ask(usd=0.9)
    clock.now += 2
    assert await asking.admitted(1, usd=0.8) == [True]
    await asking.settle(late, usd=0.0)
    assert await asking.admitted(1, usd=0.8) == [False]


async def test_a_key_goes_on_from_what_it_had_used_before_the_start(
    limiter: Limiter, key: MakeAsking
) -> None:
    limiter.seed("key_1", {("requests", "all"): 8, ("usd_day", "2026-11-21"): nano_of(0.75)})
    asking = key(requests=10, usd_per_day=1.0)
    _, first = await asking.ask(usd=0.1)
    assert first.spent == pytest.approx(0.75)
    assert await asking.admitted(2, usd=0.0) == [True, False]


async def test_the_share_that_is_spent_is_that_of_the_fullest_budget(key: MakeAsking) -> None:
    asking = key(usd_per_day=1.0, usd_per_month=1.25)
    await asking.ask(usd=1.0)
    _, refused = await asking.ask(usd=0.1)
    assert refused.spent == pytest.approx(1.0)


# --- slots ----------------------------------------------------------------------------------------------------------


async def test_a_slot_is_free_again_once_its_request_has_ended(key: MakeAsking) -> None:
    asking = key(max_concurrent=2)
    first = await asking.ask()
    assert await asking.admitted(2) == [True, False]
    await asking.settle(first)
    assert await asking.admitted(2) == [True, False]


async def test_the_slots_of_a_killed_process_come_free_by_themselves(
    redis_server: RedisServer, clock: Clock
) -> None:
    killed = RedisLimiter(redis_server.url, timeout=5, clock=clock, own_clock=True)
    living = RedisLimiter(redis_server.url, timeout=5, clock=clock, own_clock=True)
    await Asking(killed, clock, max_concurrent=1).ask()
    clock.now += 29
    held = Asking(living, clock, max_concurrent=1)
    assert await held.admitted(1) == [False]
    clock.now += 2
    assert await held.admitted(1) == [True]
    await killed.aclose()
    await living.aclose()


async def test_a_slot_is_held_as_long_as_it_is_renewed(redis_server: RedisServer, clock: Clock) -> None:
    limiter = RedisLimiter(redis_server.url, timeout=5, clock=clock, own_clock=True)
    asking = Asking(limiter, clock, max_concurrent=1)
    asked = await asking.ask()
    for _ in range(4):
        clock.now += 20
        await limiter.renew()
    assert await asking.admitted(1) == [False]
    await asking.settle(asked)
    assert await asking.admitted(1) == [True]
    await limiter.aclose()


# --- Redis, and the lack of it ----------------------------------------------------------------------------------------


async def test_two_processes_share_one_budget(redis_server: RedisServer, clock: Clock) -> None:
    limiters = [RedisLimiter(redis_server.url, timeout=5, clock=clock) for _ in range(2)]
    one, other = (Asking(limiter, clock, requests=5, usd_per_day=1.0) for limiter in limiters)
    assert await one.admitted(3, usd=0.1) == [True] * 3
    assert await other.admitted(3, usd=0.1) == [True, True, False]
    for limiter in limiters:
        await limiter.aclose()


async def test_many_at_once_never_get_more_than_there_is(redis_server: RedisServer, clock: Clock) -> None:
    limiters = [RedisLimiter(redis_server.url, timeout=10, clock=clock) for _ in range(2)]
    keys = [Asking(limiter, clock, requests=50, usd_per_day=1.0) for limiter in limiters]
    verdicts = await asyncio.gather(*(keys[at % 2].ask(usd=0.01) for at in range(200)))
    assert sum(verdict.admitted for _, verdict in verdicts) == 50
    for limiter in limiters:
        await limiter.aclose()


async def test_a_redis_that_was_emptied_goes_on_from_what_was_last_known(
    redis_server: RedisServer, clock: Clock
) -> None:
    limiter = RedisLimiter(redis_server.url, timeout=5, clock=clock)
    asking = Asking(limiter, clock, requests=5)
    await asking.admitted(4)
    with redis_server.client() as client:
        client.flushall()
        client.script_flush()
    assert await asking.admitted(2) == [True, False]
    await limiter.aclose()


async def test_without_redis_each_process_takes_its_share_of_what_was_left(
    redis_server: RedisServer, clock: Clock
) -> None:
    limiter = RedisLimiter(redis_server.url, timeout=0.5, replicas=2, clock=clock)
    asking = Asking(limiter, clock, requests=10)
    await asking.admitted(4)
    redis_server.stop()
    try:
        # 6 were left, and 2 processes share them.
        assert await asking.admitted(5) == [True] * 3 + [False] * 2
    finally:
        redis_server.start()
    await limiter.aclose()


async def test_what_was_used_without_redis_is_told_to_it_afterwards(
    redis_server: RedisServer, clock: Clock
) -> None:
    limiter = RedisLimiter(redis_server.url, timeout=0.5, clock=clock)
    asking = Asking(limiter, clock, requests=10, usd_per_day=1.0, tpm=10_000)
    await asking.ask(usd=0.1, tokens=10)
    redis_server.stop()
    asked = await asking.ask(usd=0.5, tokens=10)
    limiter.settle(Settlement(*asked, 20, nano_of(0.3)))
    redis_server.start()
    for _ in range(100):
        await limiter.renew()
        if not limiter.owes:
            break
        await asyncio.sleep(0.05)
    fresh = RedisLimiter(redis_server.url, timeout=5, clock=clock)
    _, verdict = await Asking(fresh, clock, requests=10, usd_per_day=1.0, tpm=10_000).ask(usd=0.1, tokens=10)
    assert verdict.spent == pytest.approx(0.4)
    assert verdict.budgets["requests"].remaining == 7
    await limiter.aclose()
    await fresh.aclose()


async def test_a_settlement_that_is_sent_twice_counts_once(redis_server: RedisServer, clock: Clock) -> None:
    limiter = RedisLimiter(redis_server.url, timeout=5, clock=clock)
    asking = Asking(limiter, clock, usd_per_day=1.0)
    asked = await asking.ask(usd=0.5)
    limiter.settle(Settlement(*asked, None, nano_of(0.1)))
    await asyncio.gather(limiter._send("key_1"), limiter._send("key_1"), limiter.renew())
    _, after = await asking.ask(usd=0.1)
    assert after.spent == pytest.approx(0.1)
    await limiter.aclose()


async def test_redis_keys_hold_the_tenant_and_no_key(redis_server: RedisServer, clock: Clock) -> None:
    limiter = RedisLimiter(redis_server.url, timeout=5, clock=clock)
    asking = Asking(limiter, clock, rpm=5, requests=5, max_concurrent=3)
    await asking.ask()
    with redis_server.client() as client:
        names = sorted(key.decode() for key in client.scan_iter())
    assert names == [
        "smallfirst:limits:{acme:key_1}:budget:requests:all",
        f"smallfirst:limits:{{acme:key_1}}:lease:lease-{id(asking)}-1",
        "smallfirst:limits:{acme:key_1}:rate:requests",
        "smallfirst:limits:{acme:key_1}:slots",
    ]
    await limiter.aclose()


def test_money_is_counted_in_billionths_and_rounded_up() -> None:
    assert (nano_of(0.1), nano_of(1e-10), nano_of(0.0), nano_of(1e6)) == (NANO // 10, 1, 0, 10**15)


def test_december_ends_with_the_year() -> None:
    at = datetime(2026, 12, 31, 23, tzinfo=UTC).timestamp()
    assert month_of(at) == ("2026-12", datetime(2027, 1, 1, tzinfo=UTC).timestamp())


# --- admissions whose answer came too late ----------------------------------------------------------------------------


@pytest.mark.parametrize("refuse", [True, False])
async def test_what_redis_admits_too_late_is_undone(
    redis_server: RedisServer, clock: Clock, refuse: bool
) -> None:
    limiter = RedisLimiter(redis_server.url, timeout=0.3, refuse=refuse, clock=clock)
    asking = Asking(limiter, clock, usd_per_day=10.0, requests=100, max_concurrent=2)
    await asking.settle(await asking.ask(usd=1), usd=0)
    redis_server.freeze()
    try:
        if refuse:
            with pytest.raises(LimitsUnavailable):
                await asking.ask(usd=1)
        else:
            await asking.settle(await asking.ask(usd=1), usd=1)
    finally:
        redis_server.thaw()
    for _ in range(100):
        await limiter.renew()
        if not limiter.owes:
            break
        await asyncio.sleep(0.05)
    _, verdict = await asking.ask(usd=1)
    # Beside the first and this one: with `refuse` nothing, else the one that was counted here and cost a dollar.
    counted = 0 if refuse else 1
    left = {name: level.remaining for name, level in verdict.budgets.items()}
    assert left == {"requests": 98 - counted, "usd_day": (9 - counted) * NANO}
    assert (await asking.ask())[1].admitted
    assert not (await asking.ask())[1].admitted
    await limiter.aclose()


async def test_an_admission_that_was_given_up_before_it_arrived_takes_nothing(
    redis_server: RedisServer, clock: Clock
) -> None:
    limiter = RedisLimiter(redis_server.url, timeout=5, refuse=True, clock=clock)
    asking = Asking(limiter, clock, requests=5)
    with redis_server.client() as client:
        client.set(f"smallfirst:limits:{{acme:key_1}}:lease:lease-{id(asking)}-1", "given up", ex=60)
    with pytest.raises(LimitsUnavailable):
        await asking.ask()
    _, verdict = await asking.ask()
    assert verdict.budgets["requests"].remaining == 4
    await limiter.aclose()


async def test_a_slot_that_came_free_while_others_were_renewed_stays_free(
    redis_server: RedisServer, clock: Clock
) -> None:
    limiter = RedisLimiter(redis_server.url, timeout=5, clock=clock, own_clock=True)
    asking = Asking(limiter, clock, max_concurrent=1)
    asked = await asking.ask()
    renewing = asyncio.ensure_future(limiter.renew())
    limiter.settle(Settlement(*asked, None, None))
    await renewing
    await limiter.renew()
    assert (await asking.ask())[1].admitted
    await limiter.aclose()
