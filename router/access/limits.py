"""What is counted for a key, and how a request's share of it is asked for, granted and settled.

**Rates** (requests and tokens a minute) follow the generic cell rate algorithm (ITU-T I.371, as a virtual scheduling
algorithm): one number a rate, the theoretical arrival time. With a limit of N a minute it admits at most
N + N·t/60 in any t seconds, exactly: a full minute's worth at once at first, then one each 60/N seconds. This is the
token bucket that OpenAI and Anthropic document for their own limits.

**Budgets** (requests; US dollars a day or month, UTC) are counters of what was used and what is reserved. A request
reserves its share when it is admitted, all or nothing, and is settled with what it really took, in the window in which
it was admitted.

**Slots** are requests at the same time. Each is held by a lease that its process renews, so that those of a process
that was killed come free.

Two limiters keep the same rules: `local` in this process, `shared` in Redis.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Final, Literal, Protocol

from ..settings import KeyRules

MINUTE = 60.0

# Money is counted in whole billionths of a dollar: sums are exact, here and in Redis.
NANO: Final = 1_000_000_000

# Seconds that a slot is held without being renewed, and how often it is renewed.
LEASE, RENEWAL = 30.0, 10.0

# What is left of a limit that nothing will ever free again.
NEVER = math.inf

BudgetName = Literal["requests", "requests_day", "usd_day", "usd_month"]


@dataclass(frozen=True, slots=True)
class Rate:
    """What a request takes of a rate.

    Attributes:
        name: `requests` or `tokens`.
        limit: A minute.
        cost: Of this request.
    """

    name: Literal["requests", "tokens"]
    limit: int
    cost: int


@dataclass(frozen=True, slots=True)
class Budget:
    """What a request reserves of a budget.

    Attributes:
        limit, amount: In requests or in billionths of a dollar.
        window: Which day, month or all of time.
        ends_at: When the window ends, in Unix seconds; None: never.
    """

    name: BudgetName
    limit: int
    amount: int
    window: str
    ends_at: float | None

    @property
    def in_usd(self) -> bool:
        """Whether it counts money."""
        return self.name.startswith("usd")


@dataclass(frozen=True, slots=True)
class Demand:
    """What a request asks for before it is served.

    Attributes:
        key_id: Whose limits they are.
        tenant: The key's.
        lease: The request's own name, for its slot.
        slots: Requests at the same time; None: no limit.
    """

    key_id: str
    tenant: str
    lease: str
    rates: tuple[Rate, ...] = ()
    budgets: tuple[Budget, ...] = ()
    slots: int | None = None


@dataclass(frozen=True, slots=True)
class Level:
    """What is left of a limit after a request.

    Attributes:
        limit, remaining: In requests, tokens or billionths of a dollar.
        reset: Seconds until all of it is there again; `NEVER` where that does not come.
    """

    limit: int
    remaining: int
    reset: float


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether a request was admitted.

    Attributes:
        refused_by: The limit that stands in the way for longest: a rate's name (`requests`, `tokens`), a budget's
            (`requests_total`, `requests_day`, …) or `concurrent`; None: it was admitted.
        retry_after: Seconds until there is room, as far as that is known; `NEVER` where there will be none.
        rates, budgets: Levels by name.
        drained_at: By rate, when all that was taken will be there again, in Unix seconds: for settlement.
        spent: The largest share of a budget in dollars that was used or reserved before this request; None without.
    """

    refused_by: str | None
    retry_after: float = 0.0
    rates: Mapping[str, Level] = field(default_factory=dict)
    budgets: Mapping[str, Level] = field(default_factory=dict)
    drained_at: Mapping[str, float] = field(default_factory=dict)
    spent: float | None = None

    @property
    def admitted(self) -> bool:
        """Whether the request may go on."""
        return self.refused_by is None


@dataclass(frozen=True, slots=True)
class Settlement:
    """What an admitted request really took.

    Attributes:
        tokens: None leaves the estimate.
        nano_usd: In billionths of a dollar; None leaves the estimate.
    """

    demand: Demand
    verdict: Verdict
    tokens: int | None
    nano_usd: int | None

    def rate_change(self, rate: Rate) -> int:
        """Return how many more units than estimated it took; negative: fewer."""
        return self.tokens - rate.cost if rate.name == "tokens" and self.tokens is not None else 0

    def budget_change(self, budget: Budget) -> int:
        """Return how much more than reserved it took; negative: less."""
        return self.nano_usd - budget.amount if budget.in_usd and self.nano_usd is not None else 0


class Limiter(Protocol):
    """Counts what keys use."""

    @property
    def name(self) -> str:
        """`local` or `redis`, for reports."""
        ...

    @property
    def healthy(self) -> bool:
        """Whether what it counts in answers, as far as is known."""
        ...

    def seed(self, key_id: str, used: Mapping[tuple[BudgetName, str], int]) -> None:
        """Say what a key had used of budgets' windows before this process began."""
        ...

    async def admit(self, demand: Demand) -> Verdict:
        """Take what a request asks for, all of it or nothing.

        Raises:
            LimitsUnavailable: The store does not answer, and the settings say to refuse then.
        """
        ...

    def settle(self, settlement: Settlement) -> None:
        """Put right what a request took, and free its slot. Never waits."""
        ...

    async def renew(self) -> None:
        """Hold the slots of requests under way; called every `RENEWAL` seconds."""
        ...

    async def aclose(self) -> None:
        """Settle what is left, and let go of connections."""
        ...


def demand_of(
    key_id: str, tenant: str, rules: KeyRules, *, lease: str, now: float, tokens: int, nano_usd: int
) -> Demand:
    """Return what a request asks for under a key's rules.

    Args:
        now: Unix seconds; they decide which day and month it is.
        tokens: An estimate of prompt and answer.
        nano_usd: An estimate of its cost, in billionths of a dollar.
    """
    rates = []
    if rules.rpm is not None:
        rates.append(Rate("requests", rules.rpm, 1))
    if rules.tpm is not None:
        rates.append(Rate("tokens", rules.tpm, tokens))
    budgets: list[Budget] = []
    if rules.requests is not None:
        budgets.append(Budget("requests", rules.requests, 1, "all", None))
    if rules.requests_per_day is not None:
        budgets.append(Budget("requests_day", rules.requests_per_day, 1, *day_of(now)))
    if rules.usd_per_day is not None:
        budgets.append(Budget("usd_day", nano_of(rules.usd_per_day), nano_usd, *day_of(now)))
    if rules.usd_per_month is not None:
        budgets.append(Budget("usd_month", nano_of(rules.usd_per_month), nano_usd, *month_of(now)))
    return Demand(key_id, tenant, lease, tuple(rates), tuple(budgets), rules.max_concurrent)


def nano_of(usd: float) -> int:
    """Return dollars in billionths, rounded up."""
    return math.ceil(round(usd * NANO, 3))


def day_of(now: float) -> tuple[str, float]:
    """Return the UTC day of a Unix time, and when it ends."""
    day = datetime.fromtimestamp(now, UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    return day.strftime("%Y-%m-%d"), (day + timedelta(days=1)).timestamp()


def month_of(now: float) -> tuple[str, float]:
    """Return the UTC month of a Unix time, and when it ends."""
    month = datetime.fromtimestamp(now, UTC).replace(day=1, hour=0, minute=0, second=0, microsecond=0)
    following = (month + timedelta(days=32)).replace(day=1)
    return month.strftime("%Y-%m"), following.timestamp()


def arrival(tat: float, now: float, rate: Rate, capacity: float) -> tuple[float, float]:
    """Return a rate's theoretical arrival time after a request, and how long the request is too early (0: it is not).

    Args:
        tat: The one before; 0 at the beginning.
        now: Seconds, as `tat`.
        capacity: Units a minute and at once.
    """
    after = max(tat, now) + rate.cost * MINUTE / capacity
    # A microsecond's grace: rounding must not refuse the last unit of a limit.
    early = after - MINUTE - now - 1e-6
    return after, max(0.0, early)


def level_of_rate(tat: float, now: float, limit: float) -> Level:
    """Return what is left of a rate."""
    busy = max(0.0, tat - now)
    return Level(int(limit), max(0, int((MINUTE - busy) * limit / MINUTE + 1e-6)), busy)


def wait_for(budget: Budget, now: float) -> float:
    """Return in how many seconds a budget has room again for what it cannot take now; `NEVER` where it never can."""
    if budget.ends_at is None or budget.amount > budget.limit:
        return NEVER
    return max(0.0, budget.ends_at - now)


def too_much_ever(rate: Rate, capacity: float) -> bool:
    """Whether a request takes more than there ever is."""
    return rate.cost > capacity


def corrected(tat: float, drained_at: float, now: float, change: int, limit: float) -> float:
    """Return a rate's theoretical arrival time once a request is settled.

    What was taken too much is given back as far as it has not come free by itself meanwhile: `drained_at` is when it
    all has. So a settlement gives no more room than if the request had been estimated rightly.
    """
    seconds = change * MINUTE / limit
    if seconds >= 0:
        return max(tat, now) + seconds
    return tat - min(-seconds, max(0.0, drained_at - now))


def verdict_of(
    demand: Demand,
    obstacles: Mapping[str, float],
    *,
    rates: Mapping[str, tuple[Level, float]],
    used: Mapping[str, int],
    limits: Mapping[str, int],
    now: float,
) -> Verdict:
    """Put a verdict together.

    Args:
        obstacles: Limits that stand in the way -> seconds until they do not.
        rates: By name: the level, and when it is drained.
        used: By budget: what is used and reserved, this request included where it was admitted.
        limits: By budget: what there is (for a process of several, while Redis is down: its share).
        now: Unix seconds.
    """
    worst = max(obstacles, key=lambda name: obstacles[name]) if obstacles else None
    taken = worst is None
    budgets: dict[str, Level] = {}
    spent: float | None = None
    for budget in demand.budgets:
        limit, value = limits[budget.name], used[budget.name]
        reset = NEVER if budget.ends_at is None else max(0.0, budget.ends_at - now)
        budgets[budget.name] = Level(limit, max(0, limit - value), reset)
        if budget.in_usd:
            before = value - budget.amount if taken else value
            share = before / limit if limit else 1.0
            spent = share if spent is None else max(spent, share)
    return Verdict(
        refused_by=worst,
        retry_after=obstacles[worst] if worst is not None else 0.0,
        rates={name: level for name, (level, _) in rates.items()},
        budgets=budgets,
        drained_at={name: at for name, (_, at) in rates.items()},
        spent=spent,
    )
