"""Everything known about one request while it is served; becomes its receipt and its ledger entry."""

from __future__ import annotations

import math
import secrets
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from smallfirst.policies import Attempt

from .answer import Receipt, Route
from .cache.flight import Flight
from .cache.recall import Asked
from .errors import ModelError, ModelTimeout, RequestError, StreamBroken
from .hints import Hints
from .ledger import AttemptRecord, Entry
from .ledger.entry import AttemptOutcome, EntryKind
from .money.charge import NO_CHARGE, Charge
from .money.counterfactual import NOT_COMPARED, Compared
from .routing import Plan, Target
from .settings import AnyModelSettings
from .telemetry.context import Trace, trace_id_of
from .wire import ChatRequest, Usage

Status = Literal["ok", "error", "cancelled"]


def new_request_id() -> str:
    """Return an id that nobody can guess. It begins with the time, in milliseconds, so that the ledger's index of ids
    grows at its end: in the midst, each entry of a batch would change another of its pages."""
    return f"req_{time.time_ns() // 1_000_000:012x}{secrets.token_hex(10)}"


@dataclass(slots=True)
class Journey:
    """Collects what happens to one request.

    Times are `time.perf_counter()` seconds; `started_at` is Unix time. `model_seconds` is the time that somebody waited
    for a model: of two that run at once it counts one. `early` are the attempts that were asked before their turn, and
    `hedges` those of them that were as the one before had not begun in time; `overtaken` had not, and did not answer.
    `asked` is the request as the cache reads it, `flight` what equal requests wait for, `likeness` P(same answer) of
    the request whose answer it was given, `compared` what the baseline would have come to, `trace` its spans where
    requests are traced. `thrift` says why a thriftier policy decides than was asked for. `recorded`: its entry is made.
    """

    request: ChatRequest
    hints: Hints
    target: Target
    request_id: str = field(default_factory=new_request_id)
    started_at: float = field(default_factory=time.time)
    begun: float = field(default_factory=time.perf_counter)
    plan: Plan | None = None
    cache: str = "off"
    attempts: list[AttemptRecord] = field(default_factory=list)
    set_aside_at: int | None = None
    answered_by: Attempt | None = None
    usage: Usage | None = None
    model_seconds: float = 0.0
    first_chunk: float | None = None
    fallback_reason: str | None = None
    escalation: str | None = None
    early: tuple[Attempt, ...] = ()
    hedges: tuple[Attempt, ...] = ()
    overtaken: Attempt | None = None
    kind: EntryKind = "request"
    asked: Asked | None = None
    flight: Flight | None = None
    likeness: float | None = None
    compared: Compared | None = None
    trace: Trace | None = None
    thrift: str | None = None
    recorded: bool = False

    @property
    def task(self) -> str | None:
        """What kind of task it is; None where it was not scored."""
        return None if self.plan is None else self.plan.task

    @property
    def trace_id(self) -> str | None:
        """W3C trace context's, in hex; None without."""
        return self.trace.trace_id if self.trace else trace_id_of(self.request.headers)

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
        charge: Charge | None = None,
        retries: int = 0,
    ) -> None:
        """Note that a model failed, or (with `error` None) that the caller left while it answered.

        `retries` are those before its answer began; an error says how often it was tried itself.
        """
        self.note(
            attempt,
            outcome_of(error),
            begun=begun,
            charge=charge or NO_CHARGE,
            retries=retries + (error.retries if isinstance(error, ModelError) else 0),
            error_code=error.code if error else None,
        )
        if charge is not None:
            self.answered_by, self.usage = attempt, charge.usage

    def note(
        self,
        attempt: Attempt,
        outcome: AttemptOutcome,
        *,
        begun: float,
        charge: Charge,
        retries: int = 0,
        error_code: str | None = None,
    ) -> AttemptRecord:
        """Note how an attempt ended; who answered in the end is not touched by it."""
        record = attempt_record(
            attempt,
            outcome,
            charge,
            seconds=time.perf_counter() - begun,
            retries=retries,
            error_code=error_code,
            early=_is_among(self.early, attempt),
            hedge=_is_among(self.hedges, attempt),
        )
        place, self.set_aside_at = self.set_aside_at, None
        self.attempts.insert(len(self.attempts) if place is None else place, record)
        return record

    def set_aside(self, record: AttemptRecord) -> None:
        """Take an attempt out, as its answer is taken after all; the next note stands in its place, so that the order
        stays that of the asking."""
        self.set_aside_at = self.attempts.index(record)
        del self.attempts[self.set_aside_at]

    @property
    def cost_usd(self) -> float | None:
        """The sum over attempts; None as soon as one is unknown."""
        return sum_known([attempt.cost_usd for attempt in self.attempts])

    @property
    def reason(self) -> str:
        """Why this model answered, in words."""
        return self._why if self.thrift is None else f"{self.thrift}: {self._why}"

    @property
    def _why(self) -> str:
        if self.overtaken is None or self.fallback_reason is not None:
            return self._first_why
        slow = f"{self.overtaken.model} had not begun to answer after {self.overtaken.hedge:g} s"
        return f"{self._first_why}; {slow}, and another call was first"

    @property
    def _first_why(self) -> str:
        if self.fallback_reason is not None:
            return self.fallback_reason
        if self.escalation is not None:
            return self.escalation
        if self.plan is not None:
            return self.plan.decision.reason
        if self.cache == "semantic":
            return f"answered from the cache: asked before in other words (P {self.likeness or 0:.3f})"
        return "answered from the cache" if self.cache == "exact" else "not decided"

    @property
    def _hedged(self) -> bool:
        """Whether a second call was made; one that was to be may have come too late for that."""
        answered_by = self.answered_by
        running = answered_by is not None and _is_among(self.hedges, answered_by)
        return running or any(attempt.hedge for attempt in self.attempts)

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
            hedged=bool(self.hedges) and self._hedged,
        )

    def entry(
        self,
        *,
        status: Status,
        model: str | None = None,
        error: RequestError | None = None,
        overhead_ms: float,
        baseline: AnyModelSettings | None,
    ) -> Entry:
        """Return the ledger entry. Holds no prompt and no reply text."""
        decision = self.plan.decision if self.plan else None
        score = decision.score if decision else None
        usage = self.usage or Usage()
        now = time.perf_counter()
        cpu_seconds = [a.cpu_seconds for a in self.attempts if a.cpu_seconds is not None]
        route = "cache" if self.from_cache else self.answered_by.tier if self.answered_by else "none"
        compared = self.compared or NOT_COMPARED
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
            usage_estimated=usage.estimated or any(attempt.estimated for attempt in self.attempts),
            cost_usd=self.cost_usd,
            baseline_model=baseline.name if baseline else None,
            baseline_cost_usd=compared.usd,
            baseline_output_tokens=compared.output_tokens,
            propensity=None if decision is None else decision.propensity,
            explored=decision is not None and decision.explored,
            cache=self.cache,
            attempts=tuple(self.attempts),
            status=status,
            error_code=error.code if error else None,
            http_status=error.status if error else 200 if status == "ok" else 499,
            stream=bool(self.request.fields.stream),
            kind=self.kind,
            cache_write_tokens=usage.cache_write_tokens,
            service_tier=usage.service_tier,
            cpu_seconds=math.fsum(cpu_seconds) if cpu_seconds else None,
            energy_wh=sum_known([attempt.energy_wh for attempt in self.attempts]),
            gco2e=sum_known([attempt.gco2e for attempt in self.attempts]),
            key_id=self.request.grant.key_id if self.request.grant else None,
            trace_id=self.trace_id,
        )


def attempt_record(
    attempt: Attempt,
    outcome: AttemptOutcome,
    charge: Charge,
    *,
    seconds: float,
    retries: int = 0,
    error_code: str | None = None,
    early: bool = False,
    hedge: bool = False,
) -> AttemptRecord:
    """Return what is written down of an attempt that took `seconds`."""
    usage, footprint = charge.usage, charge.footprint
    return AttemptRecord(
        model=attempt.model,
        tier=attempt.tier,
        outcome=outcome,
        retries=retries,
        duration_ms=seconds * 1000,
        input_tokens=usage.input_tokens,
        output_tokens=usage.output_tokens,
        cost_usd=charge.cost_usd,
        error_code=error_code,
        early=early,
        hedge=hedge,
        cached_tokens=usage.cached_tokens,
        cache_write_tokens=usage.cache_write_tokens,
        reasoning_tokens=usage.reasoning_tokens,
        estimated=usage.estimated,
        service_tier=usage.service_tier,
        cpu_seconds=usage.cpu_seconds,
        energy_wh=footprint.energy_wh,
        gco2e=footprint.gco2e,
    )


def sum_known(values: Sequence[float | None]) -> float | None:
    """Return a sum, rounded once; None as soon as one of them is unknown."""
    known = [value for value in values if value is not None]
    return math.fsum(known) if len(known) == len(values) else None


def _is_among(attempts: tuple[Attempt, ...], attempt: Attempt) -> bool:
    """Whether this very attempt is there: two of the same model are equal."""
    return any(attempt is one for one in attempts)


def _reason_code(journey: Journey, error: RequestError | None) -> str:
    code, screening = _routing_code(journey, error), journey.request.screening
    if screening is None or not screening.redacts:
        return code
    sent = any(attempt.tier == "cloud" for attempt in journey.attempts)
    return f"{code}+pii_redacted" if sent else code


def _routing_code(journey: Journey, error: RequestError | None) -> str:
    if journey.from_cache:
        return f"cache_{journey.cache}"
    if journey.fallback_reason is not None:
        return "fallback"
    if journey.escalation is not None:
        return "escalated"
    if journey.overtaken is not None:
        return "hedged"
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
