"""Limits counted in Redis, shared by replicas: one script and one round trip for an admission, none for a settlement's
caller.

Keys of Redis, each with a time to live: `rate:NAME` a theoretical arrival time in microseconds, `budget:NAME:WINDOW` a
counter, `slots` a sorted set of leases by the time at which they end, `batch:ID` for settlements that were taken,
`lease:ID` for requests that were admitted or given up. By the last, an admission whose answer came too late is undone:
Redis may have made it all the same, or may make it yet.
Rates and leases go by Redis's clock, so that those of replicas need not agree.
"""

from __future__ import annotations

import asyncio
import logging
import time
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any
from urllib.parse import quote

from redis.asyncio import Redis

from ..cache.redis_link import RedisLink
from ..errors import LimitsUnavailable
from .limits import (
    LEASE,
    MINUTE,
    NEVER,
    Budget,
    BudgetName,
    Demand,
    Level,
    Rate,
    Settlement,
    Verdict,
    level_of_rate,
    too_much_ever,
    verdict_of,
    wait_for,
)
from .local import LocalLimiter, shown
from .scripts import ADMIT, GIVE_UP, SETTLE

log = logging.getLogger("smallfirst.access")

MICRO = 1_000_000

# Seconds that a counter is kept beyond its window, and the one of a key's whole life beyond its last use.
_AFTER, _FOR_LIFE = 86_400, 400 * 86_400
# Seconds for which a settlement that is sent again is known, and an admission whose answer did not come.
_BATCH, _REMEMBERED = 3600, 300
# Of each key, so many of these are undone; a Redis that answers, but refuses to write, must not make them pile up.
_MOST_UNSURE = 100


@dataclass(slots=True)
class _Owed:
    """What Redis has still to be told of one key. It is sent until it was taken, and taken once."""

    tenant: str
    batch: str = field(default_factory=lambda: uuid.uuid4().hex)
    rates: dict[str, tuple[float, float]] = field(default_factory=dict)
    budgets: dict[tuple[BudgetName, str], tuple[int, int]] = field(default_factory=dict)
    ended: list[str] = field(default_factory=list)

    def rate(self, rate: Rate, units: int, drained_at: float) -> None:
        change, drained = self.rates.get(rate.name, (0.0, 0.0))
        self.rates[rate.name] = (
            change + units * MINUTE * MICRO / rate.limit,
            max(drained, drained_at * MICRO),
        )

    def budget(self, budget: Budget, amount: int, now: float) -> None:
        change, _ = self.budgets.get((budget.name, budget.window), (0, 0))
        self.budgets[budget.name, budget.window] = (change + amount, _ttl(budget, now))


class RedisLimiter:
    """Counts what keys use in Redis.

    While Redis is down (no answer within `timeout`; see `RedisLink`) a copy in this process counts on from what Redis
    said last, each of `replicas` processes with its part of what was left, or requests are refused. What was used
    meanwhile is told to Redis when it is back.

    Args:
        url: `redis://…`; its password never appears in messages.
        timeout: Seconds that an admission may wait for Redis.
        refuse: Whether to refuse while Redis is down.
        replicas: Processes that share the limits.
        clock: Unix seconds: which day it is. Where `own_clock`, rates and leases go by it, too.
        own_clock: For tests.

    Raises:
        SettingsError: The URL is none that Redis understands.
    """

    name = "redis"

    def __init__(
        self,
        url: str,
        *,
        timeout: float,
        refuse: bool = False,
        replicas: int = 1,
        clock: Callable[[], float] = time.time,
        own_clock: bool = False,
    ) -> None:
        self._link = RedisLink(url, timeout=timeout, setting="limits.url")
        self._refuse = refuse
        self._clock = clock
        self._own_clock = own_clock
        self._copy = LocalLimiter(clock, replicas=replicas)
        self._owed: dict[str, _Owed] = {}
        self._sending: dict[str, _Owed] = {}
        # By key and lease: requests that Redis may have admitted, though it did not say so in time; and whether they
        # hold their slot, as this process admitted them itself.
        self._unsure: dict[str, dict[str, tuple[Demand, bool]]] = {}
        self._tenants: dict[str, str] = {}
        self._sender: asyncio.Task[None] | None = None

    @property
    def healthy(self) -> bool:
        """Whether Redis answers, as far as is known."""
        return self._link.breaker.healthy

    def seed(self, key_id: str, used: Mapping[tuple[BudgetName, str], int]) -> None:
        """Say what a key had used before: taken where Redis knows nothing of a window."""
        self._copy.seed(key_id, used)

    @property
    def owes(self) -> bool:
        """Whether there is something that Redis was not told yet."""
        return bool(self._owed or self._sending or self._unsure)

    async def admit(self, demand: Demand) -> Verdict:
        """Take what a request asks for, all of it or nothing; see `Limiter`."""
        self._tenants[demand.key_id] = demand.tenant
        # What others and this process took must be there before it is asked what is left.
        if demand.key_id in self._untold():
            await self._send(demand.key_id)
        asked = False

        async def ask(redis: Redis) -> Any:
            nonlocal asked
            asked = True
            return await self._ask(redis, demand)

        answer = None
        try:
            answer = await self._link.call(ask, until=self._link.deadline())
        finally:
            if answer is None and asked:
                unsure = self._unsure.setdefault(demand.key_id, {})
                unsure[demand.lease] = (demand, False)
                if len(unsure) > _MOST_UNSURE:
                    del unsure[next(iter(unsure))]
        if answer is not None:
            return self._understood(demand, [float(number) for number in answer])
        if self._refuse:
            raise LimitsUnavailable("The limits of this key cannot be counted now.")
        verdict = self._copy.take(demand)
        if verdict.admitted and asked:
            self._unsure[demand.key_id][demand.lease] = (demand, True)
        if verdict.admitted:
            owed = self._owed_of(demand.key_id)
            for rate in demand.rates:
                owed.rate(rate, rate.cost, verdict.drained_at[rate.name])
            for budget in demand.budgets:
                owed.budget(budget, budget.amount, self._clock())
        return verdict

    def settle(self, settlement: Settlement) -> None:
        """Put right what a request took, and free its slot; Redis is told of it in the background."""
        self._copy.settle(settlement)
        demand = settlement.demand
        owed = self._owed_of(demand.key_id)
        for rate in demand.rates:
            units = settlement.rate_change(rate)
            if units:
                owed.rate(rate, units, settlement.verdict.drained_at.get(rate.name, 0.0))
        for budget in demand.budgets:
            change = settlement.budget_change(budget)
            if change:
                owed.budget(budget, change, self._clock())
        if demand.slots is not None:
            owed.ended.append(demand.lease)
        if self._sender is None or self._sender.done():
            self._sender = asyncio.get_running_loop().create_task(self._send_all())

    async def renew(self) -> None:
        """Hold the slots of requests under way, and tell Redis what it could not be told before."""
        for key_id in self._copy.leases():
            hold = partial(self._hold, key_id=key_id)
            await self._link.call(hold, until=self._link.deadline())
        await self._send_all()

    async def aclose(self) -> None:
        """Tell Redis what is left, if it answers, and close the connections."""
        if self._sender is not None:
            await asyncio.gather(self._sender, return_exceptions=True)
        await self._send_all()
        if self.owes:
            log.warning("limits: what some requests really took could not be told to Redis")
        await self._link.aclose()

    async def _send_all(self) -> None:
        for key_id in self._untold():
            await self._send(key_id)

    def _untold(self) -> set[str]:
        """Return the keys of which Redis has still to be told something."""
        return {*self._unsure, *self._sending, *self._owed}

    async def _send(self, key_id: str) -> None:
        """Tell Redis what is owed of a key; what fails stays owed. Two may send the same: it is taken once."""
        if not await self._give_up(key_id):
            return
        while True:
            batch = self._sending.get(key_id) or self._owed.pop(key_id, None)
            if batch is None:
                return
            self._sending[key_id] = batch
            tell = partial(self._tell, key_id=key_id, owed=batch)
            if await self._link.call(tell, until=self._link.deadline()) is None:
                return
            if self._sending.get(key_id) is batch:
                del self._sending[key_id]

    async def _give_up(self, key_id: str) -> bool:
        """Undo what Redis admitted and nobody heard of; returns whether Redis answers. Rates come free anyway."""
        for lease, (demand, holds) in tuple(self._unsure.get(key_id, {}).items()):
            name = _name(demand.tenant, key_id, f"lease:{lease}")
            tell = partial(GIVE_UP.run, keys=[name], args=[_REMEMBERED])
            taken = await self._link.call(tell, until=self._link.deadline())
            if taken is None:
                return False
            # Another task may have asked the same meanwhile.
            if self._unsure.get(key_id, {}).pop(lease, None) is not None and taken:
                owed = self._owed_of(key_id)
                for budget in demand.budgets:
                    owed.budget(budget, -budget.amount, self._clock())
                if not holds:
                    owed.ended.append(lease)
        if not self._unsure.get(key_id, True):
            del self._unsure[key_id]
        return True

    def _owed_of(self, key_id: str) -> _Owed:
        owed = self._owed.get(key_id)
        if owed is None:
            owed = self._owed[key_id] = _Owed(self._tenants[key_id])
        return owed

    async def _ask(self, redis: Redis, demand: Demand) -> Any:
        names = [f"rate:{rate.name}" for rate in demand.rates]
        args: list[object] = [self._own_now(), len(demand.rates), len(demand.budgets)]
        for rate in demand.rates:
            args += [rate.limit, rate.cost]
        for budget in demand.budgets:
            names.append(f"budget:{budget.name}:{budget.window}")
            known = self._copy.used(demand.key_id, budget.name, budget.window)
            args += [budget.limit, budget.amount, _ttl(budget, self._clock()), known]
        names.append(f"lease:{demand.lease}")
        args.append(_REMEMBERED)
        if demand.slots is not None:
            names.append("slots")
            args += [demand.slots, demand.lease, round(LEASE * MICRO)]
        return await ADMIT.run(redis, [_name(demand.tenant, demand.key_id, name) for name in names], args)

    async def _tell(self, redis: Redis, key_id: str, owed: _Owed) -> int:
        names = [f"batch:{owed.batch}", "slots", *(f"rate:{name}" for name in owed.rates)]
        args: list[object] = [self._own_now(), _BATCH, len(owed.rates), len(owed.budgets)]
        for change, drained in owed.rates.values():
            args += [f"{change:.3f}", f"{drained:.3f}"]
        for (budget, window), (amount, ttl) in owed.budgets.items():
            names.append(f"budget:{budget}:{window}")
            args += [amount, ttl, self._copy.used(key_id, budget, window)]
        args += owed.ended
        taken = await SETTLE.run(redis, [_name(owed.tenant, key_id, name) for name in names], args)
        return int(taken)

    async def _hold(self, redis: Redis, key_id: str) -> bool:
        ends = (await self._now(redis) + LEASE) * MICRO
        # Looked up only now: one that ended meanwhile would be held anew, by nobody.
        leases = self._copy.leases().get(key_id)
        if not leases:
            return True
        slots = _name(self._tenants[key_id], key_id, "slots")
        await redis.zadd(slots, dict.fromkeys(leases, ends))
        return bool(await redis.pexpire(slots, round(LEASE * 1000) + 1000))

    def _understood(self, demand: Demand, answer: list[float]) -> Verdict:
        now, waits, values = answer[0] / MICRO, answer[1::2], answer[2::2]
        obstacles: dict[str, float] = {}
        rates: dict[str, tuple[Level, float]] = {}
        used: dict[str, int] = {}
        for rate, wait, tat in zip(demand.rates, waits, values, strict=False):
            rates[rate.name] = (level_of_rate(tat / MICRO, now, rate.limit), tat / MICRO)
            if wait:
                obstacles[rate.name] = NEVER if too_much_ever(rate, rate.limit) else wait / MICRO
        at = len(demand.rates)
        for budget, wait, value in zip(demand.budgets, waits[at:], values[at:], strict=False):
            used[budget.name] = int(value)
            if wait:
                obstacles[shown(budget.name)] = wait_for(budget, self._clock())
        if demand.slots is not None and waits[-1]:
            obstacles["concurrent"] = 1.0
        limits: dict[str, int] = {budget.name: budget.limit for budget in demand.budgets}
        verdict = verdict_of(demand, obstacles, rates=rates, used=used, limits=limits, now=self._clock())
        self._copy.copy(demand, verdict, used, ahead=now - self._clock())
        return verdict

    def _own_now(self) -> str:
        return f"{self._clock() * MICRO:.3f}" if self._own_clock else ""

    async def _now(self, redis: Redis) -> float:
        if self._own_clock:
            return self._clock()
        seconds, micros = await redis.time()
        return float(seconds) + micros / MICRO


def _ttl(budget: Budget, now: float) -> int:
    return _FOR_LIFE if budget.ends_at is None else max(1, round(budget.ends_at - now)) + _AFTER


def _name(tenant: str, key_id: str, what: str) -> str:
    # The braces keep all that is one key's on one node of a cluster.
    return f"smallfirst:limits:{{{quote(tenant, safe='')}:{quote(key_id, safe='')}}}:{what}"
