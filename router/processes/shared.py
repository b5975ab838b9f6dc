"""Limits and responses that one process keeps for all: a worker's side of them, and the parent's."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import msgspec

from ..access.limits import BudgetName, Demand, Settlement, Verdict
from ..access.local import LocalLimiter
from ..errors import LimitsUnavailable, ResponseNotFound, ResponsesUnavailable
from ..wires.response_store import MemoryResponses, Stored, not_found
from .link import Gone, Refused
from .messages import Kept, Seed, Settled, Wanted

if TYPE_CHECKING:
    from .link import Handler, Link

_stored_of = msgspec.json.Decoder(Stored).decode


class SharedLimiter:
    """Limits that the parent counts; see `Limiter`."""

    name = "shared"

    def __init__(self, link: Link) -> None:
        self._link = link

    @property
    def healthy(self) -> bool:
        """Whether the parent is there."""
        return self._link.alive

    def seed(self, key_id: str, used: Mapping[tuple[BudgetName, str], int]) -> None:
        """Say what a key had used before."""
        parts = tuple((budget, window, amount) for (budget, window), amount in used.items())
        self._link.tell("seed", Seed(key_id, parts))

    async def admit(self, demand: Demand) -> Verdict:
        """Take what a request asks for, all of it or nothing."""
        try:
            return await self._link.call("admit", demand, Verdict)
        except (Gone, Refused) as exc:
            raise LimitsUnavailable("Limits cannot be counted now; the server is about to end.") from exc

    def settle(self, settlement: Settlement) -> None:
        """Put right what a request took, and free its slot."""
        took = settlement.tokens, settlement.nano_usd
        self._link.tell("settle", Settled(settlement.demand, settlement.verdict, *took))

    async def renew(self) -> None:
        """Do nothing: the parent knows when this process is gone."""

    async def aclose(self) -> None:
        """Do nothing."""


class SharedResponses:
    """Responses that the parent keeps; see `ResponseStore`."""

    def __init__(self, link: Link) -> None:
        self._link = link

    async def put(self, tenant: str, response_id: str, stored: Stored) -> bool:
        """Keep a response; returns whether it is kept."""
        try:
            kept = Kept(tenant, response_id, msgspec.json.encode(stored))
            return await self._link.call("keep", kept, bool)
        except (Gone, Refused):
            return False

    async def get(self, tenant: str, response_id: str, *, param: str | None = None) -> Stored:
        """Return a response; see `ResponseStore`."""
        try:
            found = await self._link.call("find", Wanted(tenant, response_id), bytes | None)  # type: ignore[arg-type]
        except (Gone, Refused) as exc:
            raise _unavailable() from exc
        if found is None:
            raise not_found(response_id, param)
        return _stored_of(found)

    async def delete(self, tenant: str, response_id: str) -> None:
        """Forget a response; see `ResponseStore`."""
        try:
            known = await self._link.call("forget", Wanted(tenant, response_id), bool)
        except (Gone, Refused) as exc:
            raise _unavailable() from exc
        if not known:
            raise not_found(response_id)

    async def aclose(self) -> None:
        """Do nothing: the parent keeps them."""


def _unavailable() -> ResponsesUnavailable:
    return ResponsesUnavailable("Stored responses cannot be read now; the server is about to end.")


class House:
    """What the parent keeps for all workers.

    Args:
        max_bytes, ttl: Of responses; see `MemoryResponses`.
    """

    def __init__(self, max_bytes: int, ttl: float) -> None:
        self._limiter = LocalLimiter()
        self._responses = MemoryResponses(max_bytes, ttl)

    def guest(self) -> Guest:
        """Return what one worker may ask for."""
        return Guest(self._limiter, self._responses)


class Guest:
    """What one worker has of the house.

    Args:
        limiter, responses: Of all.
    """

    def __init__(self, limiter: LocalLimiter, responses: MemoryResponses) -> None:
        self._limiter = limiter
        self._responses = responses
        # Admitted and not settled, by their lease.
        self._open: dict[str, tuple[Demand, Verdict]] = {}

    def handlers(self) -> dict[str, Handler]:
        """Return what it may call."""
        return {
            "seed": (Seed, self._seed),
            "admit": (Demand, self._admit),
            "settle": (Settled, self._settle),
            "keep": (Kept, self._keep),
            "find": (Wanted, self._find),
            "forget": (Wanted, self._forget),
        }

    def left(self) -> None:
        """Free the slots of a worker that is gone. What its requests reserved stays counted: they may have cost it."""
        for demand, verdict in self._open.values():
            self._limiter.settle(Settlement(demand, verdict, None, None))
        self._open.clear()

    def _seed(self, seed: Seed) -> None:
        used = {(budget, window): amount for budget, window, amount in seed.used}
        self._limiter.seed(seed.key_id, used)  # type: ignore[arg-type]

    def _admit(self, demand: Demand) -> Verdict:
        verdict = self._limiter.take(demand)
        if verdict.admitted:
            self._open[demand.lease] = demand, verdict
        return verdict

    def _settle(self, settled: Settled) -> None:
        self._open.pop(settled.demand.lease, None)
        self._limiter.settle(Settlement(settled.demand, settled.verdict, settled.tokens, settled.nano_usd))

    async def _keep(self, kept: Kept) -> bool:
        return await self._responses.put(kept.tenant, kept.response_id, _stored_of(kept.stored))

    async def _find(self, wanted: Wanted) -> bytes | None:
        try:
            return msgspec.json.encode(await self._responses.get(wanted.tenant, wanted.response_id))
        except ResponseNotFound:
            return None

    async def _forget(self, wanted: Wanted) -> bool:
        try:
            await self._responses.delete(wanted.tenant, wanted.response_id)
        except ResponseNotFound:
            return False
        return True
