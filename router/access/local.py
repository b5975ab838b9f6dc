"""Limits counted in this process."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from .limits import (
    NEVER,
    BudgetName,
    Demand,
    Level,
    Rate,
    Settlement,
    Verdict,
    arrival,
    corrected,
    level_of_rate,
    too_much_ever,
    verdict_of,
    wait_for,
)


@dataclass(slots=True)
class _Counter:
    """A budget's window. `base` is what was used when this process began to count by itself."""

    window: str
    value: int = 0
    base: int = 0


@dataclass(slots=True)
class _State:
    """One key's."""

    tats: dict[str, float] = field(default_factory=dict)
    counters: dict[BudgetName, _Counter] = field(default_factory=dict)
    leases: set[str] = field(default_factory=set)
    seeds: dict[tuple[BudgetName, str], int] = field(default_factory=dict)


class LocalLimiter:
    """Counts what keys use in this process alone; calls belong to one event loop.

    Args:
        clock: Unix seconds.
        replicas: Processes that share the limits: each has this part of a rate, and of what a budget has left when
            it begins to count by itself. For the time that Redis is down.
    """

    name = "local"
    healthy = True

    def __init__(self, clock: Callable[[], float] = time.time, *, replicas: int = 1) -> None:
        self._clock = clock
        self._replicas = replicas
        self._states: dict[str, _State] = {}

    def seed(self, key_id: str, used: Mapping[tuple[BudgetName, str], int]) -> None:
        """Say what a key had used of budgets' windows before this process began."""
        self._state(key_id).seeds.update(used)

    async def admit(self, demand: Demand) -> Verdict:
        """Take what a request asks for, all of it or nothing."""
        return self.take(demand)

    def take(self, demand: Demand) -> Verdict:
        """As `admit`."""
        now, state = self._clock(), self._state(demand.key_id)
        obstacles: dict[str, float] = {}
        after: dict[str, float] = {}
        for rate in demand.rates:
            after[rate.name], early = arrival(
                state.tats.get(rate.name, 0.0), now, rate, rate.limit / self._replicas
            )
            if early > 0:
                obstacles[rate.name] = NEVER if too_much_ever(rate, rate.limit / self._replicas) else early
        limits: dict[str, int] = {}
        for budget in demand.budgets:
            counter = self._counter(state, budget.name, budget.window)
            limits[budget.name] = self._share(budget.limit, counter)
            # What is free of charge is not held up by a budget that is spent.
            if budget.amount and counter.value + budget.amount > limits[budget.name]:
                obstacles[shown(budget.name)] = wait_for(budget, now)
        if demand.slots is not None and len(state.leases) >= max(1, demand.slots // self._replicas):
            obstacles["concurrent"] = 1.0
        if not obstacles:
            state.tats.update(after)
            for budget in demand.budgets:
                state.counters[budget.name].value += budget.amount
            if demand.slots is not None:
                state.leases.add(demand.lease)
        return verdict_of(
            demand,
            obstacles,
            rates={rate.name: self._rate(state, rate, now) for rate in demand.rates},
            used={budget.name: state.counters[budget.name].value for budget in demand.budgets},
            limits=limits,
            now=now,
        )

    def settle(self, settlement: Settlement) -> None:
        """Put right what a request took, and free its slot."""
        demand, state = settlement.demand, self._state(settlement.demand.key_id)
        now = self._clock()
        for rate in demand.rates:
            change = settlement.rate_change(rate)
            if change:
                drained = settlement.verdict.drained_at.get(rate.name, now)
                limit = rate.limit / self._replicas
                state.tats[rate.name] = corrected(state.tats.get(rate.name, 0.0), drained, now, change, limit)
        for budget in demand.budgets:
            counter = state.counters.get(budget.name)
            # A window that is over is forgotten, and what it still owes with it.
            if counter is not None and counter.window == budget.window:
                counter.value += settlement.budget_change(budget)
        state.leases.discard(demand.lease)

    async def renew(self) -> None:
        """Do nothing: slots of this process need no lease."""

    async def aclose(self) -> None:
        """Do nothing."""

    # --- for `shared`, which keeps a copy of what Redis says ---------------------------------------------------

    def copy(self, demand: Demand, verdict: Verdict, used: Mapping[str, int], *, ahead: float) -> None:
        """Take over what Redis said: this process counts on from there when Redis is gone.

        Args:
            used: Of each budget.
            ahead: Seconds that Redis's clock is ahead of ours.
        """
        state = self._state(demand.key_id)
        state.tats.update({name: tat - ahead for name, tat in verdict.drained_at.items()})
        for budget in demand.budgets:
            value = used[budget.name]
            state.counters[budget.name] = _Counter(budget.window, value, value)
        if demand.slots is not None and verdict.admitted:
            state.leases.add(demand.lease)

    def used(self, key_id: str, budget: BudgetName, window: str) -> int:
        """Return what is known to be used of a budget's window."""
        return self._counter(self._state(key_id), budget, window).value

    def leases(self) -> Mapping[str, frozenset[str]]:
        """Return the slots that are held, by key."""
        return {key_id: frozenset(state.leases) for key_id, state in self._states.items() if state.leases}

    def _state(self, key_id: str) -> _State:
        state = self._states.get(key_id)
        if state is None:
            state = self._states[key_id] = _State()
        return state

    def _counter(self, state: _State, name: BudgetName, window: str) -> _Counter:
        counter = state.counters.get(name)
        if counter is None or counter.window != window:
            seed = state.seeds.get((name, window), 0)
            counter = state.counters[name] = _Counter(window, seed, seed)
        return counter

    def _share(self, limit: int, counter: _Counter) -> int:
        if self._replicas == 1:
            return limit
        return counter.base + max(0, limit - counter.base) // self._replicas

    def _rate(self, state: _State, rate: Rate, now: float) -> tuple[Level, float]:
        tat = state.tats.get(rate.name, 0.0)
        return level_of_rate(tat, now, rate.limit / self._replicas), tat


def shown(budget: str) -> str:
    """Return a budget's name among all limits: `requests` is the rate's."""
    return "requests_total" if budget == "requests" else budget
