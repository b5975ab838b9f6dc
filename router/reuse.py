"""Answers given again: what the gateway asks before it asks a model, and tells when one has answered."""

from __future__ import annotations

import asyncio
import random
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, Literal

from smallfirst.policies import Attempt

from .answer import Answer
from .cache import CachedReply
from .cache.flight import Flights
from .cache.recall import BYPASS, Asked, Recall, Recalled, State
from .cache.rules import asks_not_to_store
from .comparison import agree, can_compare
from .errors import RequestError
from .journey import Journey
from .settings import CacheSettings

# Requests that are asked again at once; one more is left out, so that a burst of hits does not become one of spending.
MOST_AT_ONCE = 4
# Deletions that are remembered, so that no answer under way comes back after them.
FORGOTTEN = 10_000
# How long the end waits for what is being written.
LAST_WRITES = 1.0

Check = Literal["agree", "disagree", "not_comparable", "failed", "skipped"]
STATES: tuple[State, ...] = ("bypass", "miss", "exact", "semantic")
CHECKS: tuple[Check, ...] = ("agree", "disagree", "not_comparable", "failed", "skipped")


class Reuse:
    """Gives answers again, and looks after them: equal requests at once run once, stale answers are asked again, and
    a share of the answers to similar requests is compared with a fresh one.

    Args:
        recall: The cache.
        settings: Its settings.
        tightened: Whether a policy's local answers have turned out to lose too much; see `DriftMonitor.tightened`.
        again: Runs a request afresh, as one of our own.
        draw: Uniform in [0, 1).
    """

    def __init__(
        self,
        recall: Recall,
        settings: CacheSettings,
        *,
        tightened: Callable[[str], float],
        again: Callable[[Journey], Awaitable[Answer]],
        draw: Callable[[], float] = random.random,
    ) -> None:
        self.recall = recall
        self.found: dict[State, int] = dict.fromkeys(STATES, 0)
        self.checks: dict[Check, int] = dict.fromkeys(CHECKS, 0)
        self.refreshed = 0
        self._settings = settings
        self._tightened = tightened
        self._again = again
        self._draw = draw
        self._flights = Flights(settings.wait, time.monotonic)
        # Kept here so that they are not collected midway.
        self._writing: set[asyncio.Task[Any]] = set()
        self._asking: dict[str, asyncio.Task[None]] = {}
        # When a tenant's answers were last forgotten, all (None) or a namespace's, in `time.perf_counter()` seconds.
        self._forgotten: OrderedDict[tuple[str, str | None], float] = OrderedDict()

    async def find(self, journey: Journey) -> Recalled:
        """Find an answer for a request; notes in the journey what came of it, and its flight where there is none."""
        recalled = await self._find(journey)
        journey.cache, journey.likeness = recalled.state, recalled.likeness
        if journey.kind == "request":
            self.found[recalled.state] += 1
        if recalled.reply is not None:
            self._served(journey, recalled, recalled.reply)
        return recalled

    async def _find(self, journey: Journey) -> Recalled:
        hints = journey.hints
        asked = journey.asked = self.recall.read(
            journey.request,
            target=journey.target.fingerprint,
            session=hints.session,
            derived=hints.session_derived,
        )
        if journey.kind != "request" or not self.recall.may_ask(asked):
            return BYPASS
        if asks_not_to_store(journey.request):
            return await self._look_up(journey, asked)
        begun = time.perf_counter()
        joined = await self._flights.join(
            asked.identity.key, None if hints.session_derived else hints.session
        )
        journey.model_seconds += time.perf_counter() - begun
        if isinstance(joined, tuple):
            return await self.recall.shared(asked, *joined)
        journey.flight = joined
        found = await self._look_up(journey, asked)
        if joined is not None and found.reply is not None:
            joined.land(found)
        return found

    async def _look_up(self, journey: Journey, asked: Asked) -> Recalled:
        return await self.recall.look_up(asked, usable=lambda reply: self._usable(journey, reply))

    def keep(self, journey: Journey, attempt: Attempt, body: dict[str, Any], cost_usd: float | None) -> None:
        """Keep a whole, successful answer, and give it to those who wait for it. Returns at once."""
        assert journey.asked is not None
        kept = self.recall.keep(
            journey.asked, body, model=attempt.model, tier=attempt.tier, cost_usd=cost_usd, task=journey.task
        )
        if kept is None:
            return
        reply, work = kept
        if self._was_forgotten(journey):
            work.close()
            return
        writing = self._write(work)
        if journey.flight is not None:
            journey.flight.land(Recalled("exact", reply), kept=writing)

    def ended(self, journey: Journey, *, left: bool) -> None:
        """Let those go on who wait for a request that has ended, in whichever way.

        Args:
            journey: The request's.
            left: Whether its caller left. Then the next of those who wait is run; else each is, as what could not be
                shared once will not be the next time.
        """
        if journey.flight is not None:
            journey.flight.land("next" if left else "alone")

    def rated(self, tenant: str, request_id: str, score: float) -> None:
        """Take a caller's rating in [0, 1] of an answer."""
        self.recall.evidence.rated(tenant, request_id, score)

    async def forget(self, tenant: str, namespace: str | None = None) -> int:
        """Forget a tenant's answers, or those of one namespace; returns how many.

        Raises:
            CacheUnavailable: The store does not answer.
        """
        self._forgotten[tenant, namespace] = time.perf_counter()
        self._forgotten.move_to_end((tenant, namespace))
        if len(self._forgotten) > FORGOTTEN:
            self._forgotten.popitem(last=False)
        return await self.recall.cache.delete(tenant, namespace)

    def _was_forgotten(self, journey: Journey) -> bool:
        """Whether the tenant's answers, or those of the request's namespace, were forgotten while it was under way."""
        control = journey.request.fields.cache
        namespaces = (None, control.namespace if control is not None else "")
        tenant = journey.request.tenant
        return any(self._forgotten.get((tenant, name), 0.0) > journey.begun for name in namespaces)

    def go_on(
        self,
        before: Reuse,
        *,
        tightened: Callable[[str], float],
        again: Callable[[Journey], Awaitable[Answer]],
    ) -> None:
        """Serve another gateway from now on: the settings were read again. Counts and deletions go on.

        Args:
            before: What served until now; may be this one.
            tightened, again: As at the beginning.
        """
        self._tightened, self._again = tightened, again
        self.found, self.checks, self.refreshed = before.found, before.checks, before.refreshed
        self._forgotten = before._forgotten

    async def settled(self) -> None:
        """Wait until nothing is being written and nothing asked again any more."""
        while running := {*self._writing, *self._asking.values()}:
            await asyncio.wait(running)

    async def aclose(self) -> None:
        """Finish what is being written, and stop what is asked again."""
        asking = tuple(self._asking.values())
        for task in asking:
            task.cancel()
        await asyncio.gather(*asking, return_exceptions=True)
        if self._writing:
            await asyncio.wait(self._writing, timeout=LAST_WRITES)
        await self.recall.cache.aclose()

    def _usable(self, journey: Journey, reply: CachedReply) -> bool:
        # A local answer may have been given by thresholds that turned out to lose too much.
        return reply.tier != "local" or self._tightened(journey.target.policy.name) == 0

    def _served(self, journey: Journey, recalled: Recalled, reply: CachedReply) -> None:
        """See to it that an answer which was given again is asked again where it is stale, or drawn to be checked."""
        assert journey.asked is not None
        if recalled.stale and self._ask(journey, self._refresh(journey)):
            self.refreshed += 1
        if recalled.state != "semantic":
            return
        self.recall.evidence.remember(
            journey.request.tenant, journey.request_id, journey.asked.identity.prefix
        )
        if self._settings.check and self._draw() < self._settings.check:
            message = reply.body["choices"][0].get("message") or {}
            if not can_compare(message):
                self.checks["not_comparable"] += 1
            elif not self._ask(journey, self._check(journey, message)):
                self.checks["skipped"] += 1

    async def _refresh(self, journey: Journey) -> None:
        try:
            await self._again(journey)
        except RequestError:
            # It is in the ledger; the stale answer stays until its time is over.
            return

    async def _check(self, journey: Journey, given: dict[str, Any]) -> None:
        assert journey.asked is not None
        try:
            fresh = await self._again(journey)
        except RequestError:
            self.checks["failed"] += 1
            return
        same = agree(given, fresh.message)
        if same is None:
            self.checks["not_comparable"] += 1
            return
        self.checks["agree" if same else "disagree"] += 1
        prefix = journey.asked.identity.prefix
        self.recall.evidence.observe(journey.request.tenant, prefix, wrong=0.0 if same else 1.0)

    def _ask(self, journey: Journey, work: Coroutine[Any, Any, None]) -> bool:
        """Ask in the background, once at a time for equal requests; returns whether it is asked."""
        assert journey.asked is not None
        key = journey.asked.identity.key
        if key in self._asking or len(self._asking) >= MOST_AT_ONCE:
            work.close()
            return False
        task = self._asking[key] = asyncio.get_running_loop().create_task(work)
        task.add_done_callback(lambda _: self._asking.pop(key))
        return True

    def _write(self, work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        task = asyncio.get_running_loop().create_task(work)
        self._writing.add(task)
        task.add_done_callback(self._writing.discard)
        return task
