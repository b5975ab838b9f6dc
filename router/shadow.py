"""Ask the baseline about some requests that were answered locally, in the background, to see what was lost."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from smallfirst.policies import Attempt

from .comparison import agree, can_compare
from .drift import DriftMonitor
from .errors import ModelError, RequestError
from .journey import Journey, Status, attempt_record, outcome_of
from .ledger import Entry, Outcome
from .ledger.entry import AttemptOutcome
from .models.base import Model
from .money.billing import Answered, Billing
from .money.charge import NO_CHARGE, Charge
from .money.usage import Meter
from .needs import needs_of
from .settings import AnyModelSettings, Settings
from .wire import Usage

# Comparisons at once; one more is left out, so that a burst of traffic does not become a burst of spending.
MOST_AT_ONCE = 4

Result = Literal["agree", "disagree", "not_comparable", "failed", "cancelled", "skipped"]
RESULTS: tuple[Result, ...] = ("agree", "disagree", "not_comparable", "failed", "cancelled", "skipped")


class Shadow:
    """Draws the share `drift.shadow` of local answers and compares each with the baseline's answer.

    Left out: requests whose data may not leave the house, that named their model, or that the baseline cannot take or
    is down for. An answer of a kind that cannot be compared is counted, and not paid for. Nothing here is waited for by
    a caller, and no failure reaches one.

    A disagreement counts as the loss P(baseline is right), as the router scored it: the local answer is taken to be
    wrong. That errs towards an alarm. Agreement lost nothing. What cannot be told is counted, and tests nothing.

    Args:
        settings: The models, the baseline, and the share.
        models: By name.
        drift: Is told of losses.
        billing: Prices what was used.
        available: Whether a model may be asked now.
        keep: Takes what is to be written down.
        draw: Uniform in [0, 1).
    """

    def __init__(
        self,
        settings: Settings,
        models: Mapping[str, Model],
        drift: DriftMonitor,
        *,
        billing: Billing,
        available: Callable[[str], bool],
        keep: Callable[[Entry | Outcome], None],
        paired: Callable[[Journey, str, Usage], None] = lambda _journey, _model, _usage: None,
        draw: Callable[[], float] = random.random,
    ) -> None:
        self.results: dict[Result, int] = dict.fromkeys(RESULTS, 0)
        self._share = settings.drift.shadow
        self._baseline = settings.baseline_model
        self._models = models
        self._drift = drift
        self._billing = billing
        self._available = available
        self._keep = keep
        self._paired = paired
        self._draw = draw
        self._running: set[asyncio.Task[None]] = set()

    def consider(self, journey: Journey, attempt: Attempt, body: Mapping[str, Any]) -> None:
        """Take a whole answer, and perhaps compare it. Returns at once.

        Args:
            journey: The request's; decided already.
            attempt: Who answered.
            body: OpenAI's `chat.completion`.
        """
        baseline = self._baseline
        if not self._share or baseline is None or not self._may_ask(journey, attempt, baseline):
            return
        if self._draw() >= self._share:
            return
        choices = body.get("choices") or ()
        answer: Mapping[str, Any] = (choices[0].get("message") or {}) if choices else {}
        if not can_compare(answer):
            self._note(journey, attempt, "not_comparable")
        elif len(self._running) >= MOST_AT_ONCE:
            self.results["skipped"] += 1
        else:
            work = self._compare(journey, attempt, answer, baseline)
            task = asyncio.get_running_loop().create_task(work)
            self._running.add(task)
            task.add_done_callback(self._running.discard)

    async def settled(self) -> None:
        """Wait until nothing runs any more."""
        while running := tuple(self._running):
            await asyncio.wait(running)

    async def aclose(self) -> None:
        """Stop what runs; what it cost until then is written down."""
        running = tuple(self._running)
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)

    def _may_ask(self, journey: Journey, attempt: Attempt, baseline: AnyModelSettings) -> bool:
        assert journey.plan is not None
        private = "local" in (journey.hints.privacy, journey.target.policy.privacy)
        if attempt.tier != "local" or private or journey.target.pinned is not None:
            return False
        if baseline.tier != "cloud" or not self._available(baseline.name):
            return False
        needs = needs_of(
            journey.request, journey.hints, input_tokens=journey.plan.input_tokens, pinned=baseline.name
        )
        tokens = needs.input_tokens + (needs.output_tokens or 0)
        if needs.privacy == "local":
            return False
        return needs.capabilities <= baseline.capabilities and tokens <= baseline.context_tokens

    async def _compare(
        self, journey: Journey, attempt: Attempt, answer: Mapping[str, Any], baseline: AnyModelSettings
    ) -> None:
        assert journey.plan is not None
        started_at, begun = time.time(), time.perf_counter()
        billing, asked = self._billing, Attempt(baseline.name, "cloud")
        # Asked in one piece: who leaves pays for all of the answer, as far as it can be foreseen.
        guessed = billing.unseen(journey, asked)
        call = _Call("cancelled", billing.charge_attempt(journey, asked, guessed, begun), started_at)
        result: Result = "cancelled"
        try:
            request = journey.request.unstreamed()
            if journey.trace is not None:
                request = journey.trace.beside(request)
            reply = await self._models[baseline.name].complete(request)
        except RequestError as exc:
            charge = billing.charge_failure(journey, asked, exc, begun, Meter()) or NO_CHARGE
            retries = exc.retries if isinstance(exc, ModelError) else 0
            call, result = _Call("error", charge, started_at, exc, retries), "failed"
        else:
            found = Answered(reply, asked, begun)
            usage = billing.usage_of(journey, reply)
            charge = billing.charge_answer(journey, found, usage, reply)
            self._paired(journey, attempt.model, usage)
            call = _Call("ok", charge, started_at, retries=reply.retries)
            same = agree(answer, reply.body["choices"][0].get("message") or {})
            result = "not_comparable" if same is None else "agree" if same else "disagree"
        finally:  # also where it was cancelled
            self._keep(_entry(journey, asked, call, time.perf_counter() - begun))
            self._note(journey, attempt, result)

    def _note(self, journey: Journey, attempt: Attempt, result: Result) -> None:
        """Write the result down, and tell the test of the loss where there is one."""
        assert journey.plan is not None
        self.results[result] += 1
        score = journey.plan.decision.score
        success: float | None = None
        if score is not None and score.known and self._baseline is not None:
            success = score.success.get(self._baseline.name)
        loss = 0.0 if result == "agree" else success if result == "disagree" else None
        outcome = Outcome(
            request_id=journey.request_id,
            source="shadow",
            tenant=journey.request.tenant,
            recorded_at=time.time(),
            policy=journey.target.policy.name,
            model=attempt.model,
            score={"agree": 1.0, "disagree": 0.0}.get(result),
            loss=loss,
            detail=result,
        )
        self._keep(outcome)
        if loss is not None and success is not None:
            self._drift.outcome(journey.target.policy.name, "shadow", loss)


@dataclass(frozen=True, slots=True)
class _Call:
    """How asking the baseline ended."""

    status: Status
    charge: Charge
    started_at: float
    error: RequestError | None = None
    retries: int = 0

    @property
    def outcome(self) -> AttemptOutcome:
        return "ok" if self.status == "ok" else outcome_of(self.error)

    @property
    def http_status(self) -> int:
        return self.error.status if self.error is not None else 200 if self.status == "ok" else 499


def _entry(journey: Journey, asked: Attempt, call: _Call, seconds: float) -> Entry:
    """Return the ledger entry of a comparison: it carries the request's labels, so that the bill is in its groups."""
    usage, hints = call.charge.usage, journey.hints
    code = call.error.code if call.error is not None else None
    attempt = attempt_record(
        asked, call.outcome, call.charge, seconds=seconds, retries=call.retries, error_code=code
    )
    return Entry(
        request_id=f"shadow_{journey.request_id}",
        kind="shadow",
        started_at=call.started_at,
        duration_ms=seconds * 1000,
        tenant=journey.request.tenant,
        agent=hints.agent,
        step=hints.step,
        session=hints.session,
        tags=hints.tags,
        requested_model=journey.request.fields.model,
        policy=journey.target.policy.name,
        route="cloud",
        model=asked.model,
        reason_code="shadow",
        reason="compares a local answer with the baseline's",
        input_tokens=usage.input_tokens,
        cached_tokens=usage.cached_tokens,
        output_tokens=usage.output_tokens,
        reasoning_tokens=usage.reasoning_tokens,
        usage_estimated=usage.estimated,
        cost_usd=call.charge.cost_usd,
        cache_write_tokens=usage.cache_write_tokens,
        service_tier=usage.service_tier,
        energy_wh=call.charge.footprint.energy_wh,
        gco2e=call.charge.footprint.gco2e,
        baseline_model=asked.model,
        # Had all gone to the baseline, this would not have been asked.
        baseline_cost_usd=0.0,
        attempts=(attempt,),
        status=call.status,
        error_code=code,
        http_status=call.http_status,
        key_id=journey.request.grant.key_id if journey.request.grant else None,
        trace_id=journey.trace_id,
    )
