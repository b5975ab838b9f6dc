"""Everything known about one request while it is served; becomes its receipt and its ledger entry."""

from __future__ import annotations

import math
import time
import uuid
from dataclasses import dataclass, field
from typing import Literal

from smallfirst.policies import Attempt

from .answer import Receipt, Route
from .cache.flight import Flight
from .cache.recall import Asked
from .errors import ModelTimeout, RequestError, StreamBroken
from .hints import Hints
from .ledger import AttemptRecord, Entry
from .ledger.entry import AttemptOutcome, EntryKind
from .prices import PriceList
from .routing import Plan, Target
from .settings import AnyModelSettings
from .wire import ChatRequest, Usage

Status = Literal["ok", "error", "cancelled"]


@dataclass(slots=True)
class Journey:
    """Collects what happens to one request.

    Times are `time.perf_counter()` seconds; `started_at` is Unix time. `model_seconds` is the time that somebody waited
    for a model: of two that run at once it counts one. `early` is the attempt that was asked before its turn.
    `asked` is the request as the cache reads it, `flight` what equal requests wait for, `likeness` P(same answer) of
    the request whose answer it was given.
    """

    request: ChatRequest
    hints: Hints
    target: Target
    request_id: str = field(default_factory=lambda: f"req_{uuid.uuid4().hex}")
    started_at: float = field(default_factory=time.time)
    begun: float = field(default_factory=time.perf_counter)
    plan: Plan | None = None
    cache: str = "off"
    attempts: list[AttemptRecord] = field(default_factory=list)
    answered_by: Attempt | None = None
    usage: Usage | None = None
    model_seconds: float = 0.0
    first_chunk: float | None = None
    fallback_reason: str | None = None
    escalation: str | None = None
    early: Attempt | None = None
    kind: EntryKind = "request"
    asked: Asked | None = None
    flight: Flight | None = None
    likeness: float | None = None

    @property
    def from_cache(self) -> bool:
        """Whether it was answered from the cache."""
        return self.cache in ("exact", "semantic")

    def again(self, request: ChatRequest) -> Journey:
        """Return the journey of a request of our own, that renews or checks what the cache gave for this one."""
        return Journey(request, self.hints, self.target, f"refresh_{self.request_id}", kind="refresh")

    def failed(
        self,
        attempt: Attempt,
        error: RequestError | None,
        *,
        begun: float,
        usage: Usage | None = None,
        cost_usd: float | None = 0.0,
    ) -> None:
        """Note that a model failed, or (with `error` None) that the caller left while it answered."""
        code = error.code if error else None
        self.note(attempt, outcome_of(error), begun=begun, usage=usage, cost_usd=cost_usd, error_code=code)
        if usage is not None:
            self.answered_by, self.usage = attempt, usage

    def note(
        self,
        attempt: Attempt,
        outcome: AttemptOutcome,
        *,
        begun: float,
        usage: Usage | None,
        cost_usd: float | None,
        retries: int = 0,
        error_code: str | None = None,
    ) -> AttemptRecord:
        """Note how an attempt ended; who answered in the end is not touched by it."""
        counted = usage or Usage()
        record = AttemptRecord(
            model=attempt.model,
            tier=attempt.tier,
            outcome=outcome,
            retries=retries,
            duration_ms=(time.perf_counter() - begun) * 1000,
            input_tokens=counted.input_tokens,
            output_tokens=counted.output_tokens,
            cost_usd=cost_usd,
            error_code=error_code,
            early=attempt is self.early,
        )
        self.attempts.append(record)
        return record

    @property
    def cost_usd(self) -> float | None:
        """The sum over attempts; None as soon as one is unknown."""
        costs = [attempt.cost_usd for attempt in self.attempts]
        return math.fsum(cost for cost in costs if cost is not None) if None not in costs else None

    @property
    def reason(self) -> str:
        """Why this model answered, in words."""
        if self.fallback_reason is not None:
            return self.fallback_reason
        if self.escalation is not None:
            return self.escalation
        if self.plan is not None:
            return self.plan.decision.reason
        if self.cache == "semantic":
            return f"answered from the cache: asked before in other words (P {self.likeness or 0:.3f})"
        return "answered from the cache" if self.cache == "exact" else "not decided"

    def receipt(
        self,
        route: Route,
        model: str,
        *,
        cost_usd: float | None = None,
        baseline_usd: float | None = None,
        running: bool = False,
    ) -> Receipt:
        """Return the receipt as far as things are known now; with `running`, the last attempt has not ended yet."""
        score = self.plan.decision.score if self.plan else None
        elapsed = time.perf_counter() - self.begun
        return Receipt(
            request_id=self.request_id,
            route=route,
            model=model,
            reason=self.reason,
            score=score.success.get(model) if score is not None and score.known else None,
            cache=self.cache,
            cost_usd=cost_usd,
            saved_usd=None if cost_usd is None or baseline_usd is None else baseline_usd - cost_usd,
            overhead_ms=max(0.0, elapsed - self.model_seconds) * 1000,
            attempts=len(self.attempts) + running,
        )

    def entry(
        self,
        *,
        status: Status,
        model: str | None = None,
        error: RequestError | None = None,
        overhead_ms: float,
        prices: PriceList,
        baseline: AnyModelSettings | None,
    ) -> Entry:
        """Return the ledger entry. Holds no prompt and no reply text."""
        decision = self.plan.decision if self.plan else None
        score = decision.score if decision else None
        usage = self.usage or Usage()
        now = time.perf_counter()
        route = "cache" if self.from_cache else self.answered_by.tier if self.answered_by else "none"
        known = self.usage is not None and baseline is not None
        return Entry(
            request_id=self.request_id,
            started_at=self.started_at,
            duration_ms=(now - self.begun) * 1000,
            ttft_ms=None if self.first_chunk is None else (self.first_chunk - self.begun) * 1000,
            overhead_ms=overhead_ms,
            tenant=self.request.tenant,
            agent=self.hints.agent,
            step=self.hints.step,
            session=self.hints.session,
            tags=self.hints.tags,
            requested_model=self.request.fields.model,
            policy=self.target.policy.name,
            route=route,
            model=model or (self.answered_by.model if self.answered_by else None),
            reason_code=_reason_code(self, error),
            reason=self.reason,
            task=score.task if score else None,
            difficulty=score.difficulty if score else None,
            scores=dict(score.success) if score else {},
            known=score.known if score else None,
            input_tokens=usage.input_tokens,
            cached_tokens=usage.cached_tokens,
            output_tokens=usage.output_tokens,
            reasoning_tokens=usage.reasoning_tokens,
            usage_estimated=usage.estimated,
            cost_usd=self.cost_usd,
            baseline_model=baseline.name if baseline else None,
            baseline_cost_usd=self._on(baseline, usage, prices) if known and baseline else None,
            cache=self.cache,
            attempts=tuple(self.attempts),
            status=status,
            error_code=error.code if error else None,
            http_status=error.status if error else 200 if status == "ok" else 499,
            stream=bool(self.request.fields.stream),
            kind=self.kind,
        )

    def _on(self, baseline: AnyModelSettings, usage: Usage, prices: PriceList) -> float | None:
        # Had all gone to the baseline, one of our own would not have been asked.
        return prices.price(baseline, usage) if self.kind == "request" else 0.0


def _reason_code(journey: Journey, error: RequestError | None) -> str:
    if journey.from_cache:
        return f"cache_{journey.cache}"
    if journey.fallback_reason is not None:
        return "fallback"
    if journey.escalation is not None:
        return "escalated"
    if journey.plan is not None:
        return journey.plan.decision.code
    return (error.code if error else None) or "not_decided"


def outcome_of(error: RequestError | None) -> AttemptOutcome:
    """Return how an attempt ended that failed so, or (None) whose caller left."""
    if error is None:
        return "cancelled"
    if isinstance(error, ModelTimeout):
        return "timeout"
    return "broken" if isinstance(error, StreamBroken) else "error"
