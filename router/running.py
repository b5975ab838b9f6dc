"""Run a plan: ask one model after the other until one answers well enough, the next one early where that may pay.

While a checked local answer is made and nothing of it is shown, the next attempt's call may start already
(`Attempt.early`). Its turn comes if the local answer is turned down: then it is waited for as any other. If not, it is
stopped and booked. So it is with a cloud's answer that does not begin in time (`Attempt.hedge`); but there whichever
answer begins first is taken, and the other call is the one that is stopped.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from functools import partial
from typing import Generic, TypeVar

from msgspec.structs import replace

from smallfirst.policies import Attempt

from .confidence import Confidence
from .deadline import ends_by
from .errors import DeadlineExceeded, ModelError, ModelResting, RequestError
from .escalation import Ask, Form, Kept, Rejected, Watch
from .failures import another_may_do_better, asked_to_wait, is_down, refuses_rightly
from .health import ModelHealth
from .journey import Journey, outcome_of
from .ledger import AttemptRecord
from .ledger.entry import AttemptOutcome
from .models.base import Model
from .models.retry import RetryBudget
from .money.billing import Answered, Billing, metered
from .money.charge import NO_CHARGE
from .money.usage import Meter
from .settings import Retries
from .wire import Reply, ReplyStream

# Before so many tokens were counted, no call is started early: one odd first word says little.
EARLY_TOKENS = 4

T = TypeVar("T")


class Runner:
    """Runs plans.

    Args:
        models: By name.
        health: Told who answers and who does not.
        billing: Prices what was used.
        budgets: By model, of what may be asked beside its requests; those that are not there have the usual ones.
    """

    def __init__(
        self,
        models: Mapping[str, Model],
        health: ModelHealth,
        billing: Billing,
        budgets: Mapping[str, RetryBudget] | None = None,
    ) -> None:
        self.models = models
        self.health = health
        self.billing = billing
        self._budgets = dict(budgets or {})

    async def run(self, journey: Journey, form: Form[T]) -> Answered[T]:
        """Ask the models of a journey's plan in order until one answers well enough.

        Notes every attempt in the journey but the one that is returned: that has not ended yet.

        Raises:
            RequestError: No model answered; the first failure. Attempts are noted.
        """
        return await _Course(self, journey, form).run()

    def answered(self, model: str, result: object, begun: float) -> None:
        """Tell the model's health of an answer: a whole one, or a stream that has begun."""
        if isinstance(result, ReplyStream):
            self.health.answering(model, begun)  # how it ends is told by who passes it on
        else:
            self.health.succeeded(model, begun)

    def ended(self, answered: Answered[ReplyStream], error: RequestError | None) -> None:
        """Learn from how a stream ended that began well; `error` None: it is whole."""
        self.learn(answered.attempt.model, error, answered.begun)

    def learn(self, model: str, error: RequestError | None, begun: float) -> None:
        """Tell the model's health how a call ended that began at `begun`; `error` None: well."""
        if isinstance(error, ModelResting):
            return  # it was not made
        wait = asked_to_wait(error)
        if wait is not None and wait > self._budget(model).longest_wait:
            self.health.rests(model, wait, getattr(error, "status", 503))
            self.health.released(model, begun)
        elif error is None or refuses_rightly(error):
            self.health.succeeded(model, begun)
        elif is_down(error):
            self.health.failed(model, begun)
        else:
            self.health.released(model, begun)

    def resting(self, model: str) -> ModelResting:
        """Return the error that stands for a call which is not made."""
        left, told_by = max(self.health.rest_left(model), 1.0), self.health.told_by(model)
        if told_by is None:
            message = f"Model '{model}' failed too often lately and is not asked for a while."
            return ModelResting(message, retry_after=left)
        message = f"The upstream of model '{model}' asked to be left alone for a while."
        return ModelResting(message, retry_after=left, status=429 if told_by == 429 else 503)

    def may_hedge(self, model: str) -> bool:
        """Whether a call may be made beside a slow one of a model; it is counted with the model's retries."""
        return self._budget(model).takes()

    def _budget(self, model: str) -> RetryBudget:
        return self._budgets.setdefault(model, RetryBudget(Retries()))


class _Ahead(Generic[T]):
    """A call in a task of its own: the next attempt's before its turn, or one that another call may overtake."""

    def __init__(self, course: _Course[T], at: int) -> None:
        self.attempt = course.attempts[at]
        self.meter = Meter()
        self.begun = time.perf_counter()
        self.asked = False
        self.task = asyncio.get_running_loop().create_task(self._ask(course, at))
        # Should nobody come to look at its failure, that is no bug of ours.
        self.task.add_done_callback(lambda task: task.cancelled() or task.exception())

    async def _ask(self, course: _Course[T], at: int) -> Kept[T]:
        self.asked = True
        return await course.ask(at, self.meter)


class _Course(Generic[T]):
    """One request's way through its plan."""

    def __init__(self, runner: Runner, journey: Journey, form: Form[T]) -> None:
        assert journey.plan is not None
        *before, last = journey.plan.decision.attempts
        # Nobody comes after the last one: its answer is taken as it is.
        self.attempts = (*before, Attempt(last.model, last.tier) if last.checked or last.early else last)
        self._runner = runner
        self._journey = journey
        self._form = form
        self._ahead: _Ahead[T] | None = None
        self._failure: tuple[Attempt, RequestError] | None = None
        self._spare: tuple[Answered[T], AttemptRecord] | None = None
        self._spare_words = ""

    async def run(self) -> Answered[T]:
        try:
            at, answered = 0, None
            # Hedging may add an attempt.
            while answered is None and at < len(self.attempts):
                answered = await self._try(at)
                at += 1
                if self._failure is not None and isinstance(self._failure[1], DeadlineExceeded):
                    break
            if answered is None:
                answered = self._answer_to_spare()
        except BaseException as exc:
            await self._stop_ahead("cancelled" if isinstance(exc, asyncio.CancelledError) else "unused")
            raise
        if self._ahead is not None:
            await self._settle(answered)
        return answered

    async def ask(self, at: int, meter: Meter, watch: Watch | None = None) -> Kept[T]:
        """Ask a model and check its answer; see `Form.ask`."""
        attempt, journey = self.attempts[at], self._journey
        usage_of = partial(self._runner.billing.usage_of, journey)
        model = self._runner.models[attempt.model]
        if not self._runner.health.admits(attempt.model):
            raise self._runner.resting(attempt.model)
        followed = at + 1 < len(self.attempts)
        request = journey.request
        if journey.trace is not None:
            request = journey.trace.asking(request, attempt)
        request = request.with_meter(meter)
        asked = Ask(model, request, attempt, usage_of, watch, followed)
        if request.deadline is None:
            return await self._form.ask(asked)
        try:
            async with ends_by(request.deadline):
                return await self._form.ask(asked)
        except DeadlineExceeded as exc:
            exc.retries, exc.billed_tries = meter.retries, meter.billed_tries + exc.billed_tries
            raise

    async def _try(self, at: int) -> Answered[T] | None:
        """Ask a model; returns None where the next one is to be asked."""
        attempt, journey = self.attempts[at], self._journey
        waited = begun = time.perf_counter()
        ahead, self._ahead = self._ahead, None
        # Nobody waits for a call of our own.
        hedged = attempt.hedge > 0 and journey.kind == "request"
        if ahead is None and hedged:
            ahead = _Ahead(self, at)
        meter = Meter() if ahead is None else ahead.meter
        try:
            if ahead is not None:
                begun = ahead.begun
                if hedged:
                    ahead = await self._first_to_begin(ahead, at)
                    attempt, begun, meter = ahead.attempt, ahead.begun, ahead.meter
                kept = await ahead.task
            else:
                kept = await self.ask(at, meter, partial(self._notice, at) if attempt.early else None)
        except Rejected as exc:
            journey.model_seconds += time.perf_counter() - waited
            self._rejected(at, exc, begun, meter)
        except RequestError as exc:
            journey.model_seconds += time.perf_counter() - waited
            self._failed(attempt, exc, begun, meter)
            if not another_may_do_better(exc) and not isinstance(exc, DeadlineExceeded):
                raise
        except asyncio.CancelledError:
            if ahead is None or ahead.asked:
                self._left(attempt, begun, meter)
                self._runner.health.released(attempt.model, begun)
            if ahead is not None:
                await self._drop(ahead)
            raise
        else:
            journey.model_seconds += time.perf_counter() - waited
            self._runner.answered(attempt.model, kept.result, begun)
            if self._failure is not None:
                journey.fallback_reason = f"{self._failure_in_words()}; {attempt.model} answers instead"
            return Answered(kept.result, attempt, begun, kept.besides, meter)
        return None

    def _rejected(self, at: int, exc: Rejected, begun: float, meter: Meter) -> None:
        """Note an answer that was not kept; it was made and costs what it cost."""
        attempt, journey, billing = self.attempts[at], self._journey, self._runner.billing
        self._runner.health.succeeded(attempt.model, begun)
        usage = metered(exc.usage or meter.counted or billing.estimate(journey, tokens=exc.tokens), meter)
        charge = billing.charge_tries(journey, attempt, usage, begun, exc.billed_tries)
        record = journey.note(
            attempt, "discarded", begun=begun, charge=charge, retries=exc.retries, error_code=exc.cause
        )
        journey.escalation = f"{attempt.model} {exc.words}; {self.attempts[at + 1].model} answers"
        if exc.answer is not None:
            self._spare = Answered(exc.answer.result, attempt, begun, exc.answer.besides, meter), record
            self._spare_words = "was cut off" if exc.cause == "cut" else "was unsure"

    def _failed(self, attempt: Attempt, exc: RequestError, begun: float, meter: Meter) -> None:
        self._runner.billing.failed(self._journey, attempt, exc, begun, meter)
        self._runner.learn(attempt.model, exc, begun)
        # What the caller must know is the first failure; but that its time is over, whatever failed before.
        if self._failure is None or isinstance(exc, DeadlineExceeded):
            self._failure = attempt, exc

    def _left(self, attempt: Attempt, begun: float, meter: Meter) -> None:
        """Note that the caller left while a model answered."""
        billing = self._runner.billing
        usage = billing.unseen(
            self._journey, attempt, meter=meter, tries=meter.under_way + meter.billed_tries
        )
        billing.stopped(self._journey, attempt, usage, begun, retries=meter.retries)

    def _answer_to_spare(self) -> Answered[T]:
        """Return the answer that was not good enough, now that it is all there is.

        Raises:
            RequestError: There is none, or the policy would rather fail.
        """
        assert self._failure is not None, "the last answer is not checked, so it failed"
        if self._spare is None or not self._journey.target.policy.fallback_to_local:
            raise self._failure[1]
        answered, record = self._spare
        # It will be booked as the answer: once, and with the time that it took then.
        self._journey.set_aside(record)
        model = answered.attempt.model
        self._journey.fallback_reason = (
            f"{self._failure_in_words()}; {model} {self._spare_words}, but answers"
        )
        begun = time.perf_counter() - record.duration_ms / 1000
        return Answered(answered.result, answered.attempt, begun, answered.besides, answered.meter)

    def _failure_in_words(self) -> str:
        assert self._failure is not None
        attempt, error = self._failure
        return f"{attempt.model} failed ({error.code or error.status})"

    # --- the next attempt, early --------------------------------------------------------------------------------

    def _notice(self, at: int, confidence: Confidence | None) -> None:
        """Start the next attempt if this one is likely to be turned down."""
        if self._ahead is not None or confidence is None or confidence.tokens < EARLY_TOKENS:
            return
        if confidence.value < self.attempts[at].early:
            self._journey.early += (self.attempts[at + 1],)
            self._ahead = _Ahead(self, at + 1)

    async def _first_to_begin(self, call: _Ahead[T], at: int) -> _Ahead[T]:
        """Wait for a call; if its answer does not begin in time, make another one beside it.

        Returns:
            The call that is over: this one, or the other one where that answered before. Which is not is ahead.
        """
        late = call.begun + call.attempt.hedge
        try:
            await asyncio.wait({call.task}, timeout=max(0.0, late - time.perf_counter()))
            other = None if call.task.done() else self._hedge(at)
            if other is not None:
                await asyncio.wait({call.task, other.task}, return_when=asyncio.FIRST_COMPLETED)
                if not call.task.done() and _has_answered(other.task):
                    self._ahead, self._journey.overtaken = call, call.attempt
                    return other
            await asyncio.wait({call.task})
        except asyncio.CancelledError:
            call.task.cancel()
            await asyncio.wait({call.task})
            raise
        return call

    def _hedge(self, at: int) -> _Ahead[T] | None:
        """Ask the next cloud model that is up, or the same one again, where there is one and the budget allows it."""
        attempt, later = self.attempts[at], self.attempts[at + 1 :]
        choice = [one for one in later if one.tier == "cloud"]
        if self._journey.target.policy.hedge_same_model:
            choice.append(replace(attempt, hedge=0.0))
        second = next((one for one in choice if self._runner.health.available(one.model)), None)
        if second is None or not self._runner.may_hedge(attempt.model):
            return None
        rest = (one for one in later if one is not second)
        self.attempts = (*self.attempts[: at + 1], second, *rest)
        self._journey.early += (second,)
        self._journey.hedges += (second,)
        self._ahead = _Ahead(self, at + 1)
        return self._ahead

    async def _settle(self, answered: Answered[T]) -> None:
        """Stop the early call that is not needed; should the caller leave meanwhile, the answer too."""
        try:
            await self._stop_ahead("unused")
        except BaseException:
            self._left(answered.attempt, answered.begun, answered.meter)
            await self._form.stop(answered.result)
            raise

    async def _stop_ahead(self, outcome: AttemptOutcome) -> None:
        ahead, self._ahead = self._ahead, None
        if ahead is None:
            return
        ahead.task.cancel()
        try:
            await asyncio.wait({ahead.task})
        finally:
            self._book_ahead(ahead, outcome)
            await self._drop(ahead)

    async def _drop(self, ahead: _Ahead[T]) -> None:
        """Stop the answer of an early call that came too late to be stopped before."""
        if _has_answered(ahead.task):
            await self._form.stop(ahead.task.result().result)

    def _book_ahead(self, ahead: _Ahead[T], outcome: AttemptOutcome) -> None:
        """Note an early call that was not needed."""
        task, billing, attempt = ahead.task, self._runner.billing, ahead.attempt
        if not ahead.asked:
            return  # stopped before it began: nobody was asked
        failure = task.exception() if task.done() and not task.cancelled() else None
        if isinstance(failure, RequestError):
            charge = billing.charge_failure(self._journey, attempt, failure, ahead.begun, ahead.meter)
            self._runner.learn(attempt.model, failure, ahead.begun)
            self._journey.note(
                attempt,
                outcome_of(failure),
                begun=ahead.begun,
                charge=charge or NO_CHARGE,
                retries=failure.retries if isinstance(failure, ModelError) else 0,
                error_code=failure.code,
            )
            return
        if failure is not None and not isinstance(failure, Rejected):
            raise failure
        usage = billing.unseen(self._journey, attempt, meter=ahead.meter, tries=ahead.meter.under_way)
        # Stopped: as the meter says.
        tried: Rejected | Reply | ReplyStream | Meter = failure or ahead.meter
        if failure is not None:
            usage = metered(failure.usage or usage, ahead.meter)
        elif task.done() and not task.cancelled():
            kept = task.result()
            if isinstance(kept.result, (Reply, ReplyStream)):
                tried = kept.result
            if isinstance(kept.result, Reply):
                found = Answered(kept.result, attempt, ahead.begun, kept.besides, ahead.meter)
                usage = found.spent(billing.usage_of(self._journey, kept.result))
            self._runner.answered(attempt.model, kept.result, ahead.begun)
        else:
            self._runner.health.released(attempt.model, ahead.begun)
        charge = billing.charge_tries(self._journey, attempt, usage, ahead.begun, tried.billed_tries)
        self._journey.note(attempt, outcome, begun=ahead.begun, charge=charge, retries=tried.retries)


def _has_answered(task: asyncio.Task[Kept[T]]) -> bool:
    return task.done() and not task.cancelled() and task.exception() is None
