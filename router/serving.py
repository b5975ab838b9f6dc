"""The way of a request through the gateway's parts: screen, recall, score, decide, run, record."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any, TypeVar

from smallfirst.policies import Attempt

from .answer import Answer, AnswerStream, Receipt
from .books import Books
from .cache import CachedReply, replay
from .deadline import Bounded, ends_by, with_deadline
from .escalation import Form, Streamed, Whole
from .exploring import Lot
from .hints import read_hints
from .journey import Journey
from .money.billing import Answered, Billing
from .money.counterfactual import Counterfactual
from .privacy.screening import Screener
from .relay import Relay
from .reuse import Reuse
from .routing import Routing, Target
from .running import Runner
from .shadow import Shadow
from .telemetry.context import Telemetry
from .wire import ChatRequest, Reply, ReplyStream

T = TypeVar("T")

_WHOLE, _STREAMED = Whole(), Streamed()

# Decisions made because a model was down; their answers are not kept, so that the cloud is asked again once it heals.
_DEGRADED = frozenset({"cloud_down", "local_down"})


@dataclass(slots=True)
class Serving:
    """Serves requests.

    Attributes:
        reuse: None where the cache is off.
        lot: Draws the numbers by which policies explore.
    """

    routing: Routing
    screener: Screener
    reuse: Reuse | None
    runner: Runner
    billing: Billing
    counterfactual: Counterfactual
    shadow: Shadow
    books: Books
    lot: Lot

    async def complete(self, request: ChatRequest) -> Answer:
        """Answer in one piece; see `Gateway.complete`."""
        journey = self._begin(request)
        with self.books.recorded(journey):
            await self._screen(journey)
            cached = await self._recall(journey)
            if cached is not None:
                receipt = self._receipt_from_cache(journey, cached)
                return Answer(cached.body, receipt, journey.usage)
            return self._answer(journey, await self._run(journey, _WHOLE))

    async def stream(self, request: ChatRequest) -> AnswerStream:
        """Answer in pieces; see `Gateway.stream`."""
        journey = self._begin(request)
        with self.books.recorded(journey):
            await self._screen(journey)
            cached = await self._recall(journey)
            if cached is not None:
                stream = ReplyStream(replay(cached.body))
                return AnswerStream(Relay(self, journey, stream, self._receipt_from_cache(journey, cached)))
            answered = await self._run(journey, _STREAMED)
        attempt = journey.answered_by = answered.attempt
        receipt = journey.receipt(attempt.tier, attempt.model, running=True)
        deadline = journey.request.deadline
        stream = answered.result if deadline is None else Bounded(answered.result, deadline)
        return AnswerStream(Relay(self, journey, stream, receipt, answered))

    async def ask_again(self, journey: Journey) -> Answer:
        """Ask a request again that was answered from the cache; nobody waits for it. Its answer is kept."""
        again = journey.again(journey.request.unstreamed())
        if self._telemetry is not None:
            again.trace = self._telemetry.begin(again.request)
        with self.books.recorded(again):
            await self._recall(again)
            return self._answer(again, await self._run(again, _WHOLE))

    def store(self, journey: Journey, attempt: Attempt, body: dict[str, Any], cost_usd: float | None) -> None:
        """Keep a whole, successful answer, and perhaps compare it with the baseline's, off the caller's path."""
        assert journey.plan is not None
        self.books.text(journey, body)
        if journey.kind == "request":
            self.shadow.consider(journey, attempt, body)
        decision = journey.plan.decision
        # Neither is a local answer that chance asked for where the policy would have gone to the cloud.
        tried_out = decision.explored and attempt.tier == "local" == decision.attempts[0].tier
        degraded = journey.fallback_reason is not None or decision.code in _DEGRADED or tried_out
        # Nor one of a model that would not have been asked had the first one begun in time.
        degraded = degraded or (journey.overtaken is not None and journey.overtaken.model != attempt.model)
        if self.reuse is not None and not degraded:
            self.reuse.keep(journey, attempt, body, cost_usd)

    def target(self, request: ChatRequest) -> Target:
        """Return what the request's `model` stands for, and what its key leaves of that.

        Raises:
            ModelNotFound: It stands for nothing.
        """
        grant = request.grant
        target = self.routing.target((grant and grant.target) or request.fields.model)
        return target if grant is None or grant.models is None else target.only(grant.models)

    def _begin(self, request: ChatRequest) -> Journey:
        request = with_deadline(request)
        journey = Journey(request, read_hints(request), self.target(request))
        journey.thrift = None if request.grant is None else request.grant.thrift
        if self._telemetry is not None:
            journey.trace = self._telemetry.begin(request)
        self.books.records.metrics.begun()
        return journey

    @property
    def _telemetry(self) -> Telemetry | None:
        return self.books.records.telemetry

    async def _screen(self, journey: Journey) -> None:
        """Look for personal data, where the policy asks for it.

        Raises:
            InvalidRequest: The policy blocks it.
        """
        policy = journey.target.policy
        if self.screener.takes_long(journey.request, policy):
            journey.request = await asyncio.to_thread(self.screener.screened, journey.request, policy)
        else:
            journey.request = self.screener.screened(journey.request, policy)

    async def _recall(self, journey: Journey) -> CachedReply | None:
        """Look for an answer that was given before; sets `journey.cache`."""
        if self.reuse is None:
            return None
        # An equal request under way is waited for: not beyond the caller's own time.
        async with ends_by(journey.request.deadline):
            return (await self.reuse.find(journey)).reply

    async def _run(self, journey: Journey, form: Form[T]) -> Answered[T]:
        """Decide, then ask the models of the plan."""
        # What is asked again on our own account is kept for all: nothing is tried out with it.
        tries_out = journey.kind == "request" and journey.target.policy.explore > 0
        draw = self.lot(journey.request, journey.hints) if tries_out else None
        journey.plan = self.routing.plan(journey.request, journey.hints, journey.target, draw=draw)
        return await self.runner.run(journey, form)

    def _answer(self, journey: Journey, answered: Answered[Reply]) -> Answer:
        reply, attempt = answered.result, answered.attempt
        usage = self.billing.usage_of(journey, reply)
        cost = self.billing.answered(journey, answered, usage, reply)
        self.store(journey, attempt, reply.body, cost)
        baseline = self.counterfactual.of(journey, model=attempt.model, task=journey.task).usd
        receipt = journey.receipt(
            attempt.tier, attempt.model, cost_usd=journey.cost_usd, baseline_usd=baseline
        )
        self.books.record(journey, "ok", overhead_ms=receipt.overhead_ms)
        return Answer(reply.body, receipt, usage)

    def _receipt_from_cache(self, journey: Journey, cached: CachedReply) -> Receipt:
        journey.usage = self.billing.usage_of_stored(
            cached.body, lambda: self.routing.input_tokens(journey.request)
        )
        saved = self.counterfactual.of(journey, model=cached.model, task=cached.task).usd
        self.books.text(journey, cached.body)
        receipt = journey.receipt("cache", cached.model, cost_usd=0.0, baseline_usd=saved)
        self.books.record(journey, "ok", model=cached.model, overhead_ms=receipt.overhead_ms)
        return receipt
